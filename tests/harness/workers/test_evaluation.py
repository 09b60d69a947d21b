"""Encoding, sampling and measuring on two workers: what one worker gives, in the same order."""

import numpy as np
import pytest

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.stages import latents

from .conftest import EVERY_STEP, Run, largest_difference, log_of, run_workers

MEASURED = ("reference", "reconstruction", "generation")
INTERRUPTED = 18
"""Images after which a stage is interrupted: a round of two batches."""
KINDS = ("reference", "reconstruction", "latents", "generation")
FEW = 500
"""Images a shard, so that there are several."""


@pytest.fixture(scope="module")
def evaluated(small, tmp_path_factory):
    """Stages that two workers ran, and runs that they did not end until they were run again, but
    for `alone`; both by name."""
    folder = tmp_path_factory.mktemp("evaluation")
    runs = {
        kind: Run(small.stage(kind), small.empty_store(folder / kind, small.stage(kind)))
        for kind in KINDS
    }
    store = small.empty_store(folder / "shards", small.stage("latents"))
    runs["shards"] = Run(small.stage("latents"), store, shard_images=FEW)
    act = {"rank": 1, "step": INTERRUPTED, "what": "fail"}
    begun = {
        name: Run(
            small.stage(kind),
            small.empty_store(folder / f"{name} begun", small.stage(kind)),
            checkpoint_every_s=EVERY_STEP,
            act=act,
        )
        for name, kind in {**{kind: kind for kind in MEASURED}, "alone": "generation"}.items()
    }
    again = [begun[kind]._replace(act=None) for kind in MEASURED]
    ended = run_workers(folder / "run", small, [*runs.values(), *begun.values(), *again])
    assert ended.codes == [0, 0], log_of(folder / "run")
    expected = ["done"] * len(runs) + ["failed"] * len(begun) + ["done"] * len(again)
    for outcomes in ended.outcomes:
        assert [o["status"] for o in outcomes] == expected, ended.outcomes
    done = {name: run.store.get(run.stage.kind, run.stage.key) for name, run in runs.items()}
    return done, begun


@pytest.fixture
def together(evaluated):
    return evaluated[0]


@pytest.fixture
def interrupted(evaluated):
    return evaluated[1]


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_measure_what_one_does(small, together, kind):
    alone = small.bring(small.stage(kind))
    assert list(together[kind].record["files"]) == list(alone.record["files"])
    assert set(together[kind].result) == set(alone.result)
    for name, value in alone.result.items():
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert together[kind].result[name] == expected, name


def test_two_workers_draw_the_same_samples_in_the_same_order(small, together):
    alone = small.bring(small.stage("generation"))
    ours, theirs = (
        np.load(artifact.path / "samples.npz") for artifact in (together["generation"], alone)
    )
    for name in ("arr_0", "arr_1"):
        assert np.array_equal(ours[name], theirs[name])


def test_two_workers_encode_the_same_latents(small, together):
    alone = small.bring(small.stage("latents"))
    assert together["latents"].record["files"] == alone.record["files"]


def test_two_workers_write_shards_in_turn_as_one_does(small, together, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD_IMAGES", FEW)
    stage = small.stage("latents")
    store = small.empty_store(tmp_path, stage)
    assert run_stage(stage, store.root, Resources(), 0.0).status == "done"
    files = store.get("latents", stage.key).record["files"]
    assert len(files) >= 4
    assert together["shards"].record["files"] == files


def test_the_features_of_a_reference_keep_their_order(small, together):
    alone = small.bring(small.stage("reference"))
    name = "reference.safetensors"
    ours, theirs = (artifact.tensors(name) for artifact in (together["reference"], alone))
    assert ours["bank.features"].equal(theirs["bank.features"])
    assert largest_difference(together["reference"], alone) < 1e-9


@pytest.mark.parametrize("kind", MEASURED)
def test_two_workers_go_on_after_an_interruption_to_the_same_bits(together, interrupted, kind):
    artifact = interrupted[kind].store.get(kind, interrupted[kind].stage.key)
    resumed = [line for line in artifact.record["history"] if line["what"] == "resumed"]
    assert [line["step"] for line in resumed] == [INTERRUPTED]
    assert artifact.result == together[kind].result
    assert artifact.record["files"] == together[kind].record["files"]


def test_one_worker_goes_on_with_what_two_have_begun(small, interrupted):
    stage, store, *_ = interrupted["alone"]
    undisturbed = small.bring(stage)
    assert run_stage(stage, store.root, Resources(), 0.0).status == "done"
    artifact = store.get(stage.kind, stage.key)
    assert "resumed" in [line["what"] for line in artifact.record["history"]]
    for name, value in undisturbed.result.items():
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert artifact.result[name] == expected, name
    name = "samples.npz"
    assert artifact.record["files"][name] == undisturbed.record["files"][name]
