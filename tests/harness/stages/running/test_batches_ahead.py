"""Reading ahead moves no number, is counted, and ends with the stage."""

import threading

import pytest

from harness.config.resources import Resources
from harness.data.stream import BatchStream
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.storage.artifacts import Store


def _stage(load, kind):
    return next(stage for stage in make_plan(load()).stages if stage.kind == kind)


@pytest.mark.parametrize("kind", ["encoder", "tokenizer"])
def test_how_far_ahead_moves_no_number_and_the_wait_is_recorded(load, tmp_path, kind):
    stage = _stage(load, kind)
    files = []
    for depth in (0, 1, 3):
        store = Store(tmp_path / str(depth))
        outcome = run_stage(stage, store.root, Resources(batches_ahead=depth), 0.0)
        assert outcome.status == "done", outcome.error
        artifact = store.get(stage.kind, stage.key)
        assert 0 < artifact.record["cost"]["data_wait_s"] <= artifact.record["cost"]["wall_s"]
        files.append(artifact.record["files"])
    assert files[0] == files[1] == files[2]


def test_a_batch_that_cannot_be_read_fails_the_stage_and_leaves_no_thread(
    load, tmp_path, monkeypatch
):
    original = BatchStream.batch

    def batch(self, step):
        if step == 1:
            raise ValueError("batch 1 cannot be read")
        return original(self, step)

    monkeypatch.setattr(BatchStream, "batch", batch)
    outcome = run_stage(_stage(load, "tokenizer"), tmp_path, Resources(), 0.0)
    assert outcome.status == "failed"
    assert "batch 1 cannot be read" in outcome.error
    assert not [t for t in threading.enumerate() if "batches ahead" in t.name]


def test_a_negative_number_of_batches_is_refused():
    with pytest.raises(ValueError, match="batches_ahead"):
        Resources(batches_ahead=-1)
