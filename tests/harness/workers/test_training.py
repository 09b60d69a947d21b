"""Training on two workers: equal to one worker, to itself when resumed, and never left hanging."""

import json
from typing import Any, NamedTuple

import pytest

from harness.storage.artifacts import Artifact, Store

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

TOLERANCE = 1e-5
"""Largest difference of a weight after six steps, each of which moves it by up to 1e-3. Sums over
workers are rounded in another order, and Adam divides small gradients by themselves."""
KINDS = ("tokenizer", "generator")


class Trained(NamedTuple):
    """Trainings by two workers that nothing disturbs, by kind, and those where one went wrong."""

    undisturbed: dict[str, Store]
    runs: dict[str, Run]
    first: Ended


@pytest.fixture(scope="module")
def trained(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two processes run all, of which the last run kills one; two others go on with the runs."""
    folder = tmp_path_factory.mktemp("training")
    stages = {kind: small.stage(kind) for kind in KINDS}
    stores = {kind: small.empty_store(folder / kind, stage) for kind, stage in stages.items()}
    good = [Run(stages[kind], stores[kind]) for kind in KINDS]
    generator, tokenizer = (small.stage(kind) for kind in ("generator", "tokenizer"))
    acts = {
        "fail": (generator, 1, 4),
        "diverge": (generator, 1, 4),
        "run out of memory": (generator, 1, 2),
        "die": (tokenizer, 1, 4),  # The last, since it ends a process.
    }
    runs = {
        what: Run(
            stage,
            small.empty_store(folder / f"store {what}", stage),
            EVERY_STEP,
            act={"what": what, "rank": rank, "step": step},
        )
        for what, (stage, rank, step) in acts.items()
    }
    first = run_workers(folder / "first", small, [*good, *runs.values()])
    again = [run._replace(act=None) for run in runs.values()]
    second = run_workers(folder / "again", small, again)
    assert second.codes == [0, 0], log_of(folder / "again")
    ended = [o for outcomes in first.outcomes for o in outcomes[: len(good)]]
    ended += [o for outcomes in second.outcomes for o in outcomes]
    assert {o["status"] for o in ended} == {"done"}, ended
    return Trained(stores, runs, first)


@pytest.fixture
def undisturbed(trained: Trained) -> dict[str, Store]:
    return trained.undisturbed


def outcomes_of(trained: Trained, what: str) -> list[dict[str, Any]]:
    """How the first attempt ended, by rank."""
    number = len(KINDS) + list(trained.runs).index(what)
    return [outcomes[number] for outcomes in trained.first.outcomes if len(outcomes) > number]


def assert_same_bits(ours: Artifact, theirs: Artifact) -> None:
    assert ours.record["files"] == theirs.record["files"]
    assert ours.result == theirs.result


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_train_what_one_does(small, undisturbed, kind):
    stage = small.stage(kind)
    alone, together = small.bring(stage), undisturbed[kind].get(kind, stage.key)
    assert largest_difference(together, alone) < TOLERANCE
    assert together.result == alone.result
    assert (together.record["cost"]["workers"], alone.record["cost"]["workers"]) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_log_the_terms_of_the_whole_batch(small, undisturbed, kind):
    stage = small.stage(kind)
    ours, theirs = (
        [json.loads(line) for line in (artifact.path / "curve.jsonl").read_text().splitlines()]
        for artifact in (undisturbed[kind].get(kind, stage.key), small.bring(stage))
    )
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(yours, rel=1e-4)


def test_a_killed_worker_ends_the_other_one_at_once(trained):
    assert trained.first.codes == [0, -9]
    (survivor,) = outcomes_of(trained, "die")
    assert survivor["status"] == "failed"
    assert "another one has ended or does not answer" in survivor["error"]
    assert trained.first.seconds < PATIENCE_S


def test_two_workers_go_on_from_a_checkpoint_to_the_bits_of_the_undisturbed_two(
    trained, undisturbed
):
    for what, kind in (("die", "tokenizer"), ("fail", "generator")):
        run = trained.runs[what]
        ours = run.store.get(kind, run.stage.key)
        assert_same_bits(ours, undisturbed[kind].get(kind, run.stage.key))
        assert ours.record["cost"]["wall_s"] > 0


def test_the_error_of_one_worker_is_the_outcome_of_all(trained):
    outcomes = outcomes_of(trained, "fail")
    assert [o["status"] for o in outcomes] == ["failed", "failed"]
    assert {o["error"] for o in outcomes} == {"ValueError: worker 1 is on fire"}


def test_a_loss_that_is_no_number_on_one_worker_ends_all_at_the_same_step(trained):
    outcomes = outcomes_of(trained, "diverge")
    assert [o["status"] for o in outcomes] == ["diverged", "diverged"]
    assert all("not finite at step 4;" in o["error"] for o in outcomes)


def test_workers_out_of_memory_go_on_in_slices(trained, undisturbed):
    outcomes = outcomes_of(trained, "run out of memory")
    assert [o["again"] for o in outcomes] == [True, True]
    run = trained.runs["run out of memory"]
    ours = run.store.get("generator", run.stage.key)
    assert ours.record["cost"]["slices"] == 2
    theirs = undisturbed["generator"].get("generator", run.stage.key)
    assert largest_difference(ours, theirs) < TOLERANCE
