"""Training that was interrupted and resumed gives the bits of the undisturbed one."""

import my_regularizer
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.running.context import StageContext
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.checkpoints import load_checkpoint

assert my_regularizer.REGULARIZERS  # The import has registered the kind `centre`.
ADVERSARY = "{discriminator: {kind: patchgan, num_layers: 1, base_width: 4, start_step: 3}}"
SETTINGS = (
    "grid.alignment=[vf]",
    "presets.alignment.vf.tokenizer.alignment.encoder.training.steps=6",
    f"tokenizer.loss={ADVERSARY}",
    "tokenizer.architecture.dropout=0.1",
    "tokenizer.training.steps=6",
    "tokenizer.training.schedule=cosine",
    "generator.training.steps=6",
    "generator.training.warmup_steps=2",
    "generator.snapshots=[2, 5]",
    "generator.ema.warmup=true",
    "latents.flip=true",
)
PHASES = (  # Step 4 lies in the second phase, step 3 starts it.
    "tokenizer.phases=[{steps: 3, vf_weight: 0.5}, "
    "{steps: 3, cos_margin: 0.0, discriminator_start: 1}]"
)
REPA = (
    "generator.repa={kind: repa, block: 1, hidden_width: 8, encoder: "
    "{kind: timm, name: vit_tiny_patch16_224, weights: random, "
    "model_args: {img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}}}"
)
REGULARIZERS = (
    "tokenizer.regularizers=[{kind: centre}, {kind: eq, min_scale: 0.5}, {kind: denoise}]"
)
CODEBOOK = (
    "grid.alignment=[none]",
    "generator=null",
    "tokenizer.kind=vq",
    "tokenizer.quantizer={kind: vq, codebook_size: 12, codebook: {kind: ema}, restart_after: 1}",
)
CASES = {
    "encoder": ("encoder",),
    "tokenizer": ("tokenizer",),
    "tokenizer with regularisers": ("tokenizer", REGULARIZERS),
    "tokenizer in phases": ("tokenizer", PHASES),
    "tokenizer with a codebook": ("tokenizer", *CODEBOOK),
    "generator": ("generator",),
    "generator with initial weights": ("generator", "generator.initial_weights=GIVEN"),
    "generator with aligned tokens": ("generator", REPA),
    "generator with the head within": ("generator", REPA.replace("block", "head: within, block")),
}
EVERY_STEP = Resources(checkpoint_every_s=1e-9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store in which every stage ran undisturbed, filled as the tests go."""
    return Store(tmp_path_factory.mktemp("finished"))


def bring(stage: Stage, store: Store) -> None:
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = StageContext.after_step

    def after_step(self, done, *arguments, **named):
        original(self, done, *arguments, **named)
        if done == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(StageContext, "after_step", after_step)


@pytest.mark.parametrize("damaged", [False, True], ids=["newest", "previous"])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_stage_equals_the_uninterrupted_one(
    load, tmp_path, finished, case, damaged, monkeypatch
):
    kind, *settings = CASES[case]
    given = tmp_path / "given.safetensors"
    save_file({"t_embedder.mlp.0.bias": torch.full((16,), 0.5)}, given)
    settings = [setting.replace("GIVEN", str(given)) for setting in settings]
    plan = make_plan(load(*SETTINGS, *settings))
    stage = next(s for s in reversed(plan.stages) if s.kind == kind)
    if kind == "encoder":
        stage = next(s for s in plan.stages if "alignment" in s.label)
    bring(stage, finished)
    store = Store(tmp_path / "interrupted")
    for source in stage.inputs.values():
        target = store.folder(source.kind, source.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(finished.folder(source.kind, source.key))
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, store.root, EVERY_STEP, 0.0)
    checkpoints = store.root / kind / f"{stage.key}.partial" / "checkpoints"
    if damaged:
        (checkpoints / "step-000000004.safetensors").write_bytes(b"torn")
    loaded = load_checkpoint(checkpoints)
    assert loaded is not None
    assert loaded[0] == (3 if damaged else 4)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "done", outcome.error
    assert_equal_artifacts(store, finished, stage)


def assert_equal_artifacts(left: Store, right: Store, stage: Stage) -> None:
    ours, theirs = left.get(stage.kind, stage.key), right.get(stage.kind, stage.key)
    assert ours.result == theirs.result
    assert list(ours.record["files"]) == list(theirs.record["files"])
    for name in ours.record["files"]:
        if name.endswith(".safetensors"):
            mine, yours = ours.tensors(name), theirs.tensors(name)
            assert all(torch.equal(mine[key], yours[key]) for key in yours)
    assert ours.record["files"] == theirs.record["files"]


def test_a_curve_torn_by_a_kill_is_mended(load, tmp_path, finished, monkeypatch):
    stage = next(s for s in make_plan(load(*SETTINGS)).stages if s.kind == "tokenizer")
    bring(stage, finished)
    store = Store(tmp_path / "killed")
    bring(stage.inputs["encoder"], store)
    checkpoints = store.root / "tokenizer" / f"{stage.key}.partial" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "curve.jsonl").write_text('{"step": 0, "l1": 1.0}\n{"step": 1, "l1"')
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "done", outcome.error
    assert_equal_artifacts(store, finished, stage)


def test_a_last_checkpoint_that_could_not_be_written_fails_the_stage_although_it_is_done(
    load, tmp_path, monkeypatch
):
    stage = next(s for s in make_plan(load(*SETTINGS)).stages if s.kind == "encoder")
    written = []

    def save_file(tensors, path, metadata):
        written.append(path)
        if ".step-" in str(path):
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, path, metadata)

    def after_step(self, done, *arguments, **named):
        # Later than what is written beside the first steps.
        self.resources = EVERY_STEP if done == 5 else Resources()
        usual(self, done, *arguments, **named)

    original, usual = safetensors.torch.save_file, StageContext.after_step
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", save_file)
        patch.setattr(StageContext, "after_step", after_step)
        outcome = run_stage(stage, tmp_path, Resources(), 0.0)
    assert (outcome.status, outcome.failure) == ("failed", "storage")
    assert "No space left on device" in outcome.error
    assert "model.safetensors" in str(written[-1])
    assert run_stage(stage, tmp_path, Resources(), 0.0).status == "done"
