"""A stage that runs out of device memory runs again, each batch in slices, to the same outcome."""

import pytest
import torch

from harness.config.resources import Resources
from harness.execution import attempts
from harness.execution.stage_run import run_stage
from models.autoencoder import Encoder
from models.lightningdit import LightningDiT

from .conftest import largest_difference

KINDS = {
    "tokenizer": (Encoder, "trunk", 3, 4),
    "generator": (LightningDiT, "forward_with_tap", 1, 9),
    "latents": (Encoder, "trunk", 250, 2),
    "reconstruction": (Encoder, "trunk", 5, 2),
    "generation": (LightningDiT, "forward_with_tap", 5, 2),
}
"""Kind -> what runs out of memory where it is given more images than that, and the slices that are
then needed of a batch of 9, or of 500."""
TOLERANCE = 1e-5


def run_out_of_memory(patch: pytest.MonkeyPatch, kind: str, most: int | None = None) -> None:
    network, name, limit, _ = KINDS[kind]
    original = getattr(network, name)

    def limited(self, x, *arguments):
        if len(x) > (limit if most is None else most):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(self, x, *arguments)

    patch.setattr(network, name, limited)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_give_what_whole_batches_give(small, tmp_path, monkeypatch, kind):
    stage = small.stage(kind)
    whole = small.bring(stage)
    store = small.empty_store(tmp_path / "store", stage)
    run_out_of_memory(monkeypatch, kind)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "done", outcome.error
    sliced = store.get(kind, stage.key)
    assert (sliced.record["cost"]["slices"], whole.record["cost"]["slices"]) == (KINDS[kind][3], 1)
    if kind != "reconstruction":
        assert largest_difference(sliced, whole) < TOLERANCE
    for name, value in whole.result.items():
        if isinstance(value, float):
            assert sliced.result[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_a_lack_of_memory_for_single_images_ends_the_stage_and_says_how_to_mend_it(
    small, tmp_path, monkeypatch
):
    stage = small.stage("generator")
    store = small.empty_store(tmp_path / "store", stage)
    with monkeypatch.context() as patch:
        run_out_of_memory(patch, "generator", most=0)
        outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert (outcome.status, outcome.again) == ("failed", False)
    assert "although every batch was computed in 9 slices; give the stage" in outcome.error
    with store.work(stage.kind, stage.key) as work:
        assert attempts.slices(work) == 1


@pytest.mark.parametrize(("before", "needed"), [(1, 2), (3, 3)])
def test_slices_outlive_a_kill_and_can_be_asked_for(before, needed, small, tmp_path, monkeypatch):
    stage = small.stage("generator")
    store = small.empty_store(tmp_path / "store", stage)
    with store.work(stage.kind, stage.key) as work:
        attempts.ask_for_slices(work, 2, "the device ran out of memory")
    run_out_of_memory(monkeypatch, "generator", most=5)
    assert run_stage(stage, store.root, Resources(slices=before), 0.0).status == "done"
    assert store.get(stage.kind, stage.key).record["cost"]["slices"] == needed
