"""Sampling and measuring that was interrupted and resumed gives the bits of the undisturbed run."""

import numpy as np
import pytest
import torch

from harness.config.resources import Resources
from harness.execution import attempts
from harness.execution.stage_run import run_stage
from harness.metrics import extrapolation
from harness.plan.plan import make_plan
from harness.stages.generation import asked_labels
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Store, Work
from harness.storage.checkpoints import BESIDE, load_checkpoint

from ..test_resume import EVERY_STEP, assert_equal_artifacts, bring, interrupt_after

SETTINGS = ("evaluation.batch_size=9", "evaluation.num_reference=40")
KEPT = "evaluation.keep_samples=true"
CASES = {
    "generation": ("generation",),
    "generation that keeps its samples": ("generation", KEPT),
    "generation that keeps features": ("generation", "evaluation.keep=features"),
    "generation that only keeps samples": ("generation", "evaluation.keep=samples"),
    "scores of samples": ("scores", "evaluation.keep=samples"),
    "reconstruction": ("reconstruction",),
    "reference": ("reference", "evaluation.num_reference_features=30"),
}
INTERRUPTED, BEFORE = 27, 18
"""Images after which the stage is interrupted, and those of the checkpoint before."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store in which every stage ran undisturbed, filled as the tests go."""
    return Store(tmp_path_factory.mktemp("finished"))


@pytest.fixture(autouse=True)
def some_settled(monkeypatch):
    """Have moments of chunks both settled and waiting when a stage is interrupted."""
    monkeypatch.setattr(extrapolation, "_PENDING_PER_CHUNK", 1)


@pytest.fixture
def begun(load, tmp_path, finished, monkeypatch):
    """Runs a stage undisturbed, and elsewhere until it is interrupted."""

    def begin(kind: str, *settings: str, slices: int = 1):
        stage = next(s for s in make_plan(load(*SETTINGS, *settings)).stages if s.kind == kind)
        for source in stage.inputs.values():
            bring(source, finished)
        stores = []
        for name in ("undisturbed", "interrupted"):
            store = Store(tmp_path / name)
            for source in stage.inputs.values():
                target = store.folder(source.kind, source.key)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(finished.folder(source.kind, source.key))
            if slices > 1:
                with store.work(stage.kind, stage.key) as work:
                    attempts.ask_for_slices(work, 2, "the device ran out of memory")
            stores.append(store)
        undisturbed, store = stores
        assert run_stage(stage, undisturbed.root, Resources(), 0.0).status == "done"
        with monkeypatch.context() as patch:
            interrupt_after(INTERRUPTED, patch)
            with pytest.raises(KeyboardInterrupt):
                run_stage(stage, store.root, EVERY_STEP, 0.0)
        return stage, undisturbed, store, store.root / kind / f"{stage.key}.partial/checkpoints"

    return begin


def finish(stage, store: Store, patch: pytest.MonkeyPatch) -> list[int]:
    """Run the stage to its end; returns the images done after each round."""
    original, seen = StageContext.after_step, []

    def after_step(self, done, *arguments, **named):
        seen.append(done)
        original(self, done, *arguments, **named)

    patch.setattr(StageContext, "after_step", after_step)
    outcome = run_stage(stage, store.root, EVERY_STEP, 0.0)
    assert outcome.status == "done", outcome.error
    return seen


@pytest.mark.parametrize("damaged", [False, True], ids=["newest", "previous"])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_stage_goes_on_with_the_next_round_to_the_same_bits(
    begun, case, damaged, monkeypatch
):
    stage, undisturbed, store, checkpoints = begun(*CASES[case])
    if damaged:
        (checkpoints / f"step-{INTERRUPTED:09d}.safetensors").write_bytes(b"torn")
    rounds = finish(stage, store, monkeypatch)
    assert rounds == ([27, 36, 40] if damaged else [36, 40])
    assert_equal_artifacts(store, undisturbed, stage)
    told = [line["what"] for line in store.get(stage.kind, stage.key).record["history"]]
    assert "resumed" in told
    assert ("warning" in told) == damaged


def test_slices_go_on_to_the_same_bits(begun, monkeypatch):
    stage, undisturbed, store, _ = begun("generation", KEPT, slices=2)
    assert finish(stage, store, monkeypatch) == [36, 40]
    assert_equal_artifacts(store, undisturbed, stage)
    assert store.get(stage.kind, stage.key).record["cost"]["slices"] == 2


def test_samples_of_a_checkpoint_that_are_altered_cost_those_after_the_one_before(
    begun, monkeypatch
):
    stage, undisturbed, store, checkpoints = begun("generation", KEPT)
    newest = max((checkpoints / BESIDE).iterdir())
    assert int(newest.stem) == BEFORE
    newest.write_bytes(newest.read_bytes()[:-1])
    assert finish(stage, store, monkeypatch) == [27, 36, 40]
    assert_equal_artifacts(store, undisturbed, stage)


def test_samples_after_the_last_checkpoint_are_drawn_again(begun, monkeypatch):
    stage, undisturbed, store, checkpoints = begun("generation", KEPT)
    (checkpoints / BESIDE / f"{INTERRUPTED:09d}.rgb").write_bytes(b"of a round that was killed")
    assert finish(stage, store, monkeypatch) == [36, 40]
    assert_equal_artifacts(store, undisturbed, stage)


def test_a_stage_that_is_asked_to_stop_leaves_a_checkpoint_between_rounds(
    load, finished, tmp_path, monkeypatch
):
    stage = next(s for s in make_plan(load(*SETTINGS)).stages if s.kind == "generation")
    for source in stage.inputs.values():
        bring(source, finished)
    stop = tmp_path / "stop"
    stop.write_text("stop")
    monkeypatch.setattr("harness.stages.running.context.POLL_S", 0.0)
    outcome = run_stage(stage, finished.root, Resources(), 0.0, stop=stop)
    assert outcome.status == "stopped"
    found = load_checkpoint(finished.root / "generation" / f"{stage.key}.partial/checkpoints")
    assert found is not None
    assert found[0] == 9
    assert finish(stage, finished, monkeypatch) == [18, 27, 36, 40]


def test_an_undisturbed_archive_holds_what_the_statistics_are_of(begun):
    stage, undisturbed, _, _ = begun("generation", KEPT)
    artifact = undisturbed.get(stage.kind, stage.key)
    (generator,) = (s for s in stage.inputs.values() if s.kind == "generator")
    counts = torch.tensor(undisturbed.get("generator", generator.key).result["label_counts"])
    with np.load(artifact.path / "samples.npz") as archive:
        assert archive["arr_0"].shape == (40, 16, 16, 3)
        assert archive["arr_1"].tolist() == asked_labels(stage.config, counts).tolist()
    assert sorted(artifact.record["files"]) == [
        "samples.npz", "samples.png", "statistics.safetensors"
    ]  # fmt: skip
    assert int(artifact.tensors("statistics.safetensors")["num_samples"]) == 40
    assert not list(artifact.path.rglob("*.rgb"))


def test_features_that_wait_are_saved_as_they_are(begun):
    _, _, _, checkpoints = begun("generation")
    found = load_checkpoint(checkpoints)
    assert found is not None
    (part,) = found[1]["state"]["parts"]
    assert int(part["statistics.num_samples"].sum()) == BEFORE
    assert len(part["statistics.pending"]) == INTERRUPTED - BEFORE
    assert len(part["features.features"]) == INTERRUPTED


def test_a_batch_tells_how_far_its_sampling_is(load, finished, tmp_path, monkeypatch):
    loaded = load(*SETTINGS, "evaluation.sampler={kind: heun, num_steps: 4}")
    stage = next(s for s in make_plan(loaded).stages if s.kind == "generation")
    for source in stage.inputs.values():
        bring(source, finished)
    told, report = [], Work.report
    monkeypatch.setattr("harness.stages.running.context.REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(Work, "report", lambda work, new: (told.append(new), report(work, new)))
    assert run_stage(stage, finished.root, Resources(), 0.0).status == "done"
    within = [(one["step"], one["within"]) for one in told if "within" in one]
    steps = [f"sampling step {step}/6" for step in range(1, 7)]
    done = [int(9 * batch + 1.5 * step) for batch in range(2) for step in range(6)]
    assert within[:12] == list(zip(done, 2 * steps, strict=True))
    assert within[-1] == (40, "grid of samples and distances")
    ends = [one["eta_s"] for one in told if "eta_s" in one]
    assert ends[-1] == 0.0
    assert "eta_s" not in told[1]
