"""A stage that fails becomes a status; the rest of the sweep goes on, and the next run retries."""

import csv
import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.execution.failures import RETRIES
from harness.execution.stage_run import run_stage
from harness.executors import inline
from harness.stages import registry
from harness.stages.running.curves import Curve

DIVERGING = {"tokenizer.training.learning_rate": [1e20, 1e-3]}


def rows_by(ended_json, column: str) -> dict:
    return {row[column]: row for row in ended_json["rows"]}


def test_a_diverged_tokenizer_blocks_its_rows_and_no_others(command, write, tree):
    tree["grid"] = DIVERGING
    ended = command(write(tree), "--json")
    assert ended.code == 1
    rows = ended.json["rows"]
    assert [row["status"] for row in rows] == ["blocked", "done"]
    assert "Diverged: the loss is not finite at step" in rows[0]["error"]
    assert rows[0]["failure_kind"] == "divergence"
    assert rows[1]["failure_kind"] is None
    assert rows[0]["gfid"] is None
    assert rows[0]["generator_size"] == "1x16x2"
    table = pd.read_parquet("results/small/table.parquet")
    assert list(table["status"]) == ["blocked", "done"]


def test_the_closing_text_names_every_failed_row_with_its_error(command, write, tree):
    tree["grid"] = DIVERGING
    ended = command(write(tree))
    assert ended.code == 1
    assert "blocked row" in ended.out
    assert "the loss is not finite at step" in ended.out
    assert "lower the learning rate" in ended.out


def test_a_diverged_generator_says_so_in_its_row(command, write, tree):
    tree["grid"] = {"generator.training.learning_rate": [1e-3, 1e20]}
    ended = command(write(tree), "--json")
    assert ended.code == 1
    assert [row["status"] for row in ended.json["rows"]] == ["done", "diverged"]
    failed = ended.json["rows"][1]
    assert "not finite at step" in failed["error"]
    assert failed["psnr"] is not None
    assert failed["gfid"] is None


@pytest.fixture
def breaks(monkeypatch):
    """Makes a stage kind fail for some configurations; undone by calling the result."""

    def fail(kind: str, when):
        original = registry.KINDS[kind]

        def run(config, context):
            if when(config):
                raise ValueError("the disk is on fire")
            return original.run(config, context)

        broken = dataclasses.replace(original, run=run)
        monkeypatch.setitem(registry.KINDS, kind, broken)
        return lambda: monkeypatch.setitem(registry.KINDS, kind, original)

    return fail


def test_the_second_run_retries_what_failed_and_nothing_else(command, write, tree, breaks):
    tree["grid"] = {"tokenizer.latent_dim": [2, 3]}
    path = write(tree)
    mend = breaks("tokenizer", lambda config: config.tokenizer.latent_dim == 3)
    first = command(path, "--json")
    assert first.code == 1
    rows = rows_by(first.json, "latent_dim")
    assert (rows[2]["status"], rows[3]["status"]) == ("done", "blocked")
    assert "ValueError: the disk is on fire" in rows[3]["error"]
    mend()
    second = command(path)
    assert second.code == 0
    assert "executed 5 stages, reused 7" in second.out
    assert command(path).out.count("failed") == 0


def test_a_failed_measurement_is_the_rows_own_failure(command, write, tree, breaks):
    breaks("generation", lambda config: True)
    ended = command(write(tree), "--json")
    (row,) = ended.json["rows"]
    assert (ended.code, row["status"], row["gfid"]) == (1, "failed", None)
    assert row["psnr"] is not None


def test_too_few_samples_for_the_extractor_mark_the_row_and_are_told(command, write, tree):
    tree["trial"]["evaluation"]["num_images"] = 10
    ended = command(write(tree))
    assert ended.code == 0
    (row,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert (row["status"], row["rank_deficient"], row["gfid_infinity"]) == ("done", "yes", "")
    assert "warning: 1 row has a distance whose covariance" in ended.out
    assert "lacks rank: 10 samples, 100 reference images, 40 reconstructions" in ended.out


def test_the_traceback_of_a_failure_lies_in_the_store(load, tmp_path, breaks):
    from harness.config.resources import Resources
    from harness.plan.plan import make_plan

    stage = make_plan(load()).stages[0]
    breaks("encoder", lambda config: True)
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "failed"
    text = (tmp_path / "store" / "encoder" / f"{stage.key}.partial" / "error.txt").read_text()
    assert "Traceback" in text
    assert "the disk is on fire" in text


def test_fail_fast_stops_at_the_first_failure_and_records_the_rows(command, write, tree, breaks):
    tree["grid"] = {"tokenizer.latent_dim": [2, 3]}
    breaks("tokenizer", lambda config: config.tokenizer.latent_dim == 2)
    ended = command(write(tree), "--fail-fast", "--json")
    assert ended.code == 1
    assert "stopping: 1 of 12 stages have failed" in ended.err
    rows = rows_by(ended.json, "latent_dim")
    assert (rows[2]["status"], rows[2]["failure_kind"]) == ("blocked", "error")
    assert rows[3]["status"] == "pending"


def test_a_share_of_failures_is_allowed(command, write, tree, breaks):
    tree["grid"] = {"tokenizer.latent_dim": [2, 3]}
    breaks("tokenizer", lambda config: config.tokenizer.latent_dim == 2)
    ended = command(write(tree), "--max-failures", "0.5", "--json")
    assert ended.code == 1
    assert rows_by(ended.json, "latent_dim")[3]["status"] == "done"


def test_a_share_that_is_none_is_refused(command, write, tree):
    ended = command(write(tree), "--max-failures", "7")
    assert ended.code == 2
    assert "must be a share from 0 to below 1, but got '7'" in ended.err


def test_an_interrupt_ends_the_run_with_a_word_on_how_to_go_on(command, write, tree, breaks):
    def interrupt(_config):
        raise KeyboardInterrupt

    mend = breaks("latents", interrupt)
    path = write(tree)
    ended = command(path)
    assert ended.code == 130
    assert "run the same command again" in ended.err
    mend()
    assert "executed 3 stages, reused 4" in command(path).out


def test_a_process_that_has_lost_its_gpu_ends_and_a_new_one_goes_on(
    command, write, tree, breaks, monkeypatch
):
    mend = breaks("latents", lambda config: True)
    path = write(tree)
    with monkeypatch.context() as patch:
        patch.setattr(inline, "lost_device", lambda: "CUDA error: unspecified launch failure")
        ended = command(path)
    assert ended.code == 1
    assert "this process has lost its GPU in" in ended.err
    assert (
        "unspecified launch failure); what is finished is kept: run the same command" in ended.err
    )
    mend()
    assert "executed 3 stages, reused 4" in command(path).out


def test_host_memory_that_is_not_there_is_asked_for_twice_and_then_the_row_fails(
    command, write, tree, monkeypatch
):
    original, path = registry.KINDS["generator"], write(tree)

    def allocate(config, context):
        torch.empty(2**58)

    with monkeypatch.context() as patch:
        greedy = dataclasses.replace(original, run=allocate)
        patch.setitem(registry.KINDS, "generator", greedy)
        ended = command(path, "--json")
    (row,) = ended.json["rows"]
    assert (ended.code, row["status"], row["failure_kind"]) == (1, "failed", "host_memory")
    assert "failed 2 times, the last time by RuntimeError" in row["error"]
    assert "can't allocate memory" in row["error"]
    (work,) = Path("artifacts/generator").glob("*.partial")
    tried = (work / "history.jsonl").read_text().count('"what": "started"')
    assert tried == 1 + RETRIES["host_memory"]
    assert "executed 2 stages, reused 5" in command(path).out


def test_nothing_is_published_without_a_snapshot_that_was_removed(command, write, tree):
    tree["trial"]["generator"]["snapshots"] = [2]
    whole = Curve.publish

    def lose(curve):
        for path in Path("artifacts/generator").glob("*.partial/payload/*2.safetensors"):
            path.unlink()
        whole(curve)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curve, "publish", lose)
        ended = command(write(tree))
    assert ended.code == 1
    assert "was removed while its stage ran" in ended.out
    assert not list(Path("artifacts/generator").glob("*/artifact.json"))
    assert command(write(tree)).code == 0
