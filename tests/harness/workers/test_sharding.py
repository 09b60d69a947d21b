"""A generator in shards on two workers: equal to one worker, also from checkpoint to checkpoint."""

from typing import NamedTuple

import pytest

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.stages.running.context import StageContext

from .conftest import (
    EVERY_STEP,
    PATIENCE_S,
    Ended,
    Run,
    Small,
    largest_difference,
    log_of,
    run_workers,
)
from .test_training import TOLERANCE, assert_same_bits

SHARD = {"shard": True}
FAIL = {"what": "fail", "rank": 1, "step": 4}


class Sharded(NamedTuple):
    """Trainings in shards: undisturbed, in slices that compute blocks again, and failed ones."""

    runs: list[Run]
    ended: Ended


@pytest.fixture(scope="module")
def sharded(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    folder, stage = tmp_path_factory.mktemp("sharding"), small.stage("generator")
    stores = [small.empty_store(folder / f"store {number}", stage) for number in range(4)]
    runs = [
        Run(stage, stores[0], resources=SHARD),
        Run(stage, stores[1], resources={**SHARD, "slices": 5, "activation_checkpointing": True}),
        Run(stage, stores[2], EVERY_STEP, act=FAIL, resources=SHARD),
        Run(stage, stores[3], EVERY_STEP, act=FAIL, resources=SHARD),
        Run(stage, stores[3], EVERY_STEP, resources=SHARD),
    ]
    return Sharded(runs, run_workers(folder / "job", small, runs))


def test_shards_train_what_one_worker_does(small, sharded):
    alone = small.bring(small.stage("generator"))
    for number in (0, 1):
        run = sharded.runs[number]
        assert {outcomes[number]["status"] for outcomes in sharded.ended.outcomes} == {"done"}
        together = run.store.get("generator", run.stage.key)
        assert largest_difference(together, alone) < TOLERANCE
        assert together.result == alone.result


def test_the_error_of_one_worker_is_the_outcome_of_all_at_once(sharded):
    for number in (2, 3):
        errors = {outcomes[number]["error"] for outcomes in sharded.ended.outcomes}
        assert errors == {"ValueError: worker 1 is on fire"}
    assert sharded.ended.seconds < PATIENCE_S


def test_shards_go_on_from_a_checkpoint_to_the_bits_of_the_undisturbed(sharded):
    undisturbed, resumed = sharded.runs[0], sharded.runs[4]
    ours = resumed.store.get("generator", resumed.stage.key)
    assert "resumed" in [line["what"] for line in ours.record["history"]]
    assert_same_bits(ours, undisturbed.store.get("generator", undisturbed.stage.key))


def test_one_worker_goes_on_from_a_checkpoint_of_shards(small, sharded):
    run, alone = sharded.runs[2], small.bring(small.stage("generator"))
    assert run_stage(run.stage, run.store.root, Resources(), 0.0).status == "done"
    ours = run.store.get("generator", run.stage.key)
    assert "resumed" in [line["what"] for line in ours.record["history"]]
    assert largest_difference(ours, alone) < TOLERANCE


def test_shards_go_on_from_a_checkpoint_of_one_worker(small, tmp_path, monkeypatch):
    stage = small.stage("generator")
    store = small.empty_store(tmp_path / "store", stage)
    usual = StageContext.after_step

    def after_step(self, done, *arguments, **named):
        usual(self, done, *arguments, **named)
        if done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "after_step", after_step)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, store.root, Resources(checkpoint_every_s=EVERY_STEP), 0.0)
    ended = run_workers(tmp_path / "job", small, [Run(stage, store, resources=SHARD)])
    assert ended.codes == [0, 0], log_of(tmp_path / "job")
    assert largest_difference(store.get("generator", stage.key), small.bring(stage)) < TOLERANCE
