"""Options of speed reach their stage, and leave a training where it was, up to rounding."""

import gzip
import json
import shutil

import pytest
import torch

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.generator import stage as generator
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from models.autoencoder import Autoencoder
from models.foundation import FeatureEncoder
from models.lightningdit import LightningDiT
from models.tokenizer_loss import TokenizerLoss

CPU = 0.0
REPA = (
    "generator.repa={kind: repa, block: 1, hidden_width: 8, encoder: {kind: timm, name: "
    "vit_tiny_patch16_224, weights: random, model_args: {img_size: 16, patch_size: 8, "
    "embed_dim: 16, depth: 1, num_heads: 2}}}"
)
ADVERSARY = "tokenizer.loss={discriminator: {kind: patchgan, num_layers: 1, base_width: 4}}"


def bring(stage: Stage, store: Store, resources: Resources) -> None:
    for source in stage.inputs.values():
        bring(source, store, Resources())
    outcome = run_stage(stage, store.root, resources, CPU)
    assert outcome.status in ("done", "reused"), outcome.error


def curve(stage: Stage, store: Store) -> list[dict[str, float]]:
    path = store.get(stage.kind, stage.key).path / "curve.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("kind", "resources", "tolerance"),
    [
        ("tokenizer", Resources(channels_last=True), 1e-3),
        ("tokenizer", Resources(fused_optimizer=False), 1e-3),
        ("generator", Resources(fused_optimizer=False), 1e-3),
        ("generator", Resources(activation_checkpointing=True), 0.0),
        ("generator", Resources(latents_on_device=False), 0.0),
    ],
)
def test_a_faster_step_has_the_losses_of_the_plain_one(kind, resources, tolerance, load, tmp_path):
    plan = make_plan(load("grid.alignment=[vf]", ADVERSARY))
    stage = next(each for each in plan.stages if each.kind == kind)
    found = []
    for name, used in (("plain", Resources()), ("fast", resources)):
        store = Store(tmp_path / name)
        bring(stage, store, used)
        found.append(curve(stage, store))
    assert len(found[0]) > 2
    for plain, fast in zip(*found, strict=True):
        assert fast == pytest.approx(plain, rel=tolerance, abs=tolerance)


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What the networks and optimisers of a stage are asked for, nothing being compiled."""
    seen: list[str] = []
    for owner, name in (
        (Autoencoder, "compile_trunks"),
        (TokenizerLoss, "compile_perceptual"),
        (FeatureEncoder, "compile_features"),
        (LightningDiT, "compile_blocks"),
    ):
        monkeypatch.setattr(owner, name, lambda _, name=name: seen.append(name))
    monkeypatch.setattr(generator, "recompute", lambda blocks: seen.append(f"{len(blocks)} again"))
    for owner in (torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(owner, "__init__", _noting(owner.__init__, seen))
    place = Autoencoder.to

    def to(self, *arguments, **settings):
        if settings.get("memory_format") == torch.channels_last:
            seen.append("channels last")
        return place(self, *arguments, **settings)

    monkeypatch.setattr(Autoencoder, "to", to)
    return seen


def _noting(build, seen):
    def init(self, *arguments, **settings):
        seen.append("fused" if settings["fused"] else "not fused")
        build(self, *arguments, **settings)

    return init


FAST = Resources(compile=True, channels_last=True, activation_checkpointing=True)
TRUNKS = {"compile_trunks", "channels last"}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("tokenizer", {*TRUNKS, "compile_perceptual", "compile_features", "fused"}),
        ("latents", TRUNKS),
        ("generator", {"compile_blocks", "compile_features", "1 again", "fused"}),
        ("generation", {*TRUNKS, "compile_blocks"}),
    ],
)
def test_every_option_reaches_its_stage(kind, wanted, load, tmp_path, asked):
    plan, store = make_plan(load("grid.alignment=[vf]", REPA)), Store(tmp_path)
    stage = next(each for each in plan.stages if each.kind == kind)
    for source in stage.inputs.values():
        bring(source, store, Resources())
    for resources, expected in ((Resources(fused_optimizer=False), set()), (FAST, wanted)):
        asked.clear()
        outcome = run_stage(stage, store.root, resources, CPU)
        assert outcome.status == "done", outcome.error
        assert set(asked) - {"not fused"} == expected
        assert ("not fused" in asked) == ("fused" in wanted and not expected)
        shutil.rmtree(store.get(stage.kind, stage.key).path)


def test_a_training_writes_a_trace_of_some_steps_beside_its_log(load, tmp_path):
    plan = make_plan(load("generator.training.steps=20"))
    stage = next(each for each in plan.stages if each.kind == "generator")
    store = Store(tmp_path)
    bring(stage, store, Resources(profile=3))
    artifact = store.get(stage.kind, stage.key)
    with gzip.open(artifact.path / "trace-worker0.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("Optimizer.step#AdamW.step") == 3
    # What it costs to run is no part of what it has made.
    assert not [name for name in artifact.record["files"] if "trace" in name]
