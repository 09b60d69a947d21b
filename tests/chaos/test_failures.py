"""Each class of failure, injected into real processes: told, bounded, and gone on with after."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from chaos_evidence import assert_same_results, records, table
from chaos_processes import Command
from chaos_sweeps import SMALL, give_sweeps, long_only, run_undisturbed
from PIL import Image
from safetensors.torch import load_file

from harness.execution.failures import RETRIES

NO_CHECKPOINTS = ["--set", "resources.default={checkpoint_every_s: 600}"]
"""So that a stage never gets on between two kills."""
PAIR = ["small.yaml", "--set", "grid.generator.seed=[0, 1]", "--json"]
"""Two generators on one tokenizer; each gives two rows."""
INLINE = [*PAIR, "--executor", "inline"]


@pytest.fixture(scope="module")
def pair_undisturbed(tmp_path_factory) -> Path:
    """The two generators, undisturbed."""
    return run_undisturbed(give_sweeps(tmp_path_factory.mktemp("pair")), INLINE)


def short_of(memory: str, images: int) -> dict[str, str]:
    """Variables with which generators cannot train on more images at a time; see `faults`."""
    return {"FRONTIER_SHORT_OF": f"{memory}:{images}"}


def run(folder: Path, arguments: list[str], **named: Any) -> tuple[int, list[dict[str, Any]]]:
    """Run a command to its end; returns its exit code and the rows that it printed."""
    command = Command(folder, [*arguments, "--json"], **named)
    code = command.process.wait(timeout=300)
    command.end()
    said = command.err.read_text()
    assert code in (0, 1), said[-3000:]
    assert "Traceback" not in said
    return code, json.loads(command.out.read_text())["rows"]


def give_latents(folder: Path, undisturbed: Path) -> None:
    """Begin where generators do: what they need is taken from an undisturbed run."""
    for kind in ("encoder", "reference", "tokenizer", "reconstruction", "latents"):
        shutil.copytree(undisturbed / "artifacts" / kind, folder / "artifacts" / kind)


def endings(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """How rows ended: status and class of the failure."""
    return {(row["status"], row["failure_kind"]) for row in rows}


def status_of(rows: list[dict[str, Any]], column: str) -> dict[Any, set[str]]:
    """Value of a column -> statuses of its rows."""
    return {
        value: {row["status"] for row in rows if row[column] == value}
        for value in {row[column] for row in rows}
    }


def events(folder: Path, what: str) -> list[dict[str, Any]]:
    """Events of one kind, from what the driver wrote for machines."""
    (path,) = (folder / "results").glob("*/events.jsonl")
    told = [json.loads(line) for line in path.read_text().splitlines() if line]
    return [event for event in told if event["event"] == what]


def attempts(work: Path) -> int:
    """How often a stage that is not finished was begun."""
    return (work / "history.jsonl").read_text().count('"what": "started"')


def kill_workers(command: Command, stage: str, times: int) -> int:
    """SIGKILL the worker of a stage whenever it has begun again; returns the kills."""
    kills, killed = 0, set[int]()
    while kills < times and not command.has_ended:
        for worker in set(command.workers(stage)) - killed:
            killed.add(worker)
            kills += command.kill([worker])
        time.sleep(0.05)
    return kills


@long_only
def test_a_worker_that_is_killed_too_often_fails_its_rows_and_no_others(folder, pair_undisturbed):
    command = Command(folder, [*PAIR, *NO_CHECKPOINTS])
    kills = kill_workers(command, "generator 1x16x2/2 seed 1", 1 + RETRIES["infrastructure"])
    assert command.process.wait(timeout=300) == 1
    command.end()
    rows = json.loads(command.out.read_text())["rows"]
    assert kills == 1 + RETRIES["infrastructure"] == len(events(folder, "stage_again")) + 1
    assert status_of(rows, "generator_seed") == {0: {"done"}, 1: {"failed"}}
    for row in rows:
        if row["status"] != "done":
            assert row["failure_kind"] == "infrastructure"
            assert "failed 4 times, the last time by WorkerCrashedError" in row["error"]
    assert run(folder, INLINE)[0] == 0
    assert_same_results(folder, pair_undisturbed)


@long_only
def test_a_worker_that_is_killed_a_few_times_costs_time_and_nothing_else(folder, pair_undisturbed):
    command = Command(folder, [*PAIR, *NO_CHECKPOINTS])
    kills = kill_workers(command, "generator 1x16x2/2 seed 1", RETRIES["infrastructure"])
    assert command.process.wait(timeout=300) == 0
    command.end()
    assert kills == RETRIES["infrastructure"] == len(events(folder, "stage_again"))
    assert_same_results(folder, pair_undisturbed)


@long_only
@pytest.mark.parametrize("workers", [1, 2])
def test_rays_memory_monitor_ends_a_stage_twice_and_then_its_rows_fail(
    folder, small_undisturbed, workers
):
    # Any machine uses more than this share of its memory, so that every worker is killed.
    low = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    request = ["--set", f"resources.tokenizer={{workers: {workers}}}"]
    shutil.copytree(small_undisturbed / "artifacts" / "encoder", folder / "artifacts" / "encoder")
    code, rows = run(folder, ["small.yaml", *request], environment=low)
    assert code == 1
    assert endings(rows) == {("blocked", "host_memory")}
    assert "failed 2 times, the last time by OutOfMemoryError" in rows[0]["error"]
    assert "memory" in rows[0]["error"]
    tried = [e for e in events(folder, "stage_started") if e["kind"] == "tokenizer"]
    assert len(tried) == 1 + RETRIES["host_memory"]
    assert run(folder, SMALL)[0] == 0
    assert_same_results(folder, small_undisturbed)


@long_only
def test_host_memory_that_is_not_there_is_asked_for_twice_and_then_the_rows_fail(
    folder, small_undisturbed
):
    give_latents(folder, small_undisturbed)
    code, rows = run(folder, SMALL, environment=short_of("host", 5))
    assert code == 1
    assert endings(rows) == {("failed", "host_memory")}
    assert "failed 2 times, the last time by RuntimeError" in rows[0]["error"]
    assert "can't allocate memory" in rows[0]["error"]
    (work,) = folder.glob("artifacts/generator/*.partial")
    assert attempts(work) == 1 + RETRIES["host_memory"]
    assert run(folder, SMALL)[0] == 0
    assert_same_results(folder, small_undisturbed)


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=long_only)])
def test_a_device_that_is_too_small_gets_half_of_every_batch_at_a_time(
    folder, small_undisturbed, executor
):
    give_latents(folder, small_undisturbed)
    code, rows = run(
        folder, ["small.yaml", "--executor", executor], environment=short_of("device", 5)
    )
    assert code == 0
    assert {row["slices"] for row in rows} == {2}
    (generator,) = [r for r in records(folder).values() if r["kind"] == "generator"]
    assert generator["cost"]["slices"] == 2
    told = [line["text"] for line in generator["history"] if line["what"] == "warning"]
    assert len(told) == 1
    assert "CUDA out of memory" in told[0]
    assert "run again in 2 slices of every batch" in told[0]
    ours, theirs = table(folder), table(small_undisturbed)
    assert set(theirs["slices"]) == {1}
    for column in ("rfid", "psnr", "gfid", "kid"):
        assert np.allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-6), column
    weights, whole = (
        load_file(min(root.glob("artifacts/generator/*/*.safetensors")))
        for root in (folder, small_undisturbed)
    )
    # Where a gradient is close to zero, rounding decides on the direction of Adam's step.
    assert max(float((weights[n] - whole[n]).abs().max()) for n in whole) < 1e-4


@long_only
def test_a_device_that_holds_no_single_image_either_fails_the_rows(folder, small_undisturbed):
    give_latents(folder, small_undisturbed)
    code, rows = run(folder, ["small.yaml"], environment=short_of("device", 0))
    assert code == 1
    assert endings(rows) == {("failed", "device_memory")}
    assert "although every batch was computed in 8 slices; give the stage a" in rows[0]["error"]
    (work,) = folder.glob("artifacts/generator/*.partial")
    assert attempts(work) == 4
    # A larger device computes whole batches again.
    assert run(folder, SMALL)[0] == 0
    assert_same_results(folder, small_undisturbed)


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=long_only)])
def test_a_divergence_is_tried_once_keeps_its_last_finite_checkpoint_and_stops_nothing_else(
    folder, small_undisturbed, executor
):
    give_latents(folder, small_undisturbed)
    every_step = ["--set", "resources.generator.checkpoint_every_s=1e-6", "--executor", executor]
    rates = ["--set", "grid.generator.training.learning_rate=[10, 1e-3]"]
    code, rows = run(folder, ["small.yaml", *every_step, *rates])
    assert code == 1
    good = [row["row_id"] for row in rows if row["status"] == "done"]
    assert set(good) == set(table(small_undisturbed)["row_id"])
    bad = [row for row in rows if row["row_id"] not in good]
    assert {row["status"] for row in bad} == {"diverged"}
    assert {row["failure_kind"] for row in bad} == {"divergence"}
    step = int(re.findall(r"not finite at step (\d+); lower the", bad[0]["error"])[0])
    (work,) = folder.glob("artifacts/generator/*.partial")
    assert attempts(work) == 1
    assert not events(folder, "stage_again")
    blocked = [e for e in events(folder, "stage_ended") if e["status"] == "blocked"]
    assert [event["kind"] for event in blocked] == ["generation"] * 2
    newest = max(work.glob("checkpoints/step-*.safetensors"))
    assert int(newest.stem.partition("-")[2]) == step
    assert all(bool(t.isfinite().all()) for t in load_file(newest).values())
    code, _ = run(folder, ["small.yaml", *every_step])
    assert code == 0
    pd.testing.assert_frame_equal(table(folder), table(small_undisturbed), check_exact=True)


def give_images(folder: Path) -> None:
    """Two classes of noise, and a sweep `two_sources.yaml` that reads them beside digits."""
    random = np.random.default_rng(0)
    for split, count in (("train", 100), ("val", 20)):
        for level, name in ((60, "dark"), (200, "light")):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(-50, 50, (16, 16, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(place / f"{number:03}.png")
    tree = yaml.safe_load((folder / "small.yaml").read_text())
    noise = {"kind": "image_folder", "name": "noise", "root": "images", "resolution": 16}
    noise |= {"num_classes": 2, "num_train_images": 200, "num_eval_images": 40}
    digits = {"data": tree["trial"].pop("data")}
    tree["presets"] = {"source": {"digits": digits, "noise": {"data": noise}}}
    tree["grid"] = {"source": ["digits", "noise"]}
    (folder / "two_sources.yaml").write_text(yaml.safe_dump(tree))


@pytest.fixture(scope="module")
def two_sources_undisturbed(tmp_path_factory) -> Path:
    """Digits and noise, undisturbed."""
    folder = give_sweeps(tmp_path_factory.mktemp("two_sources"))
    give_images(folder)
    return run_undisturbed(folder, ["two_sources.yaml", "--executor", "inline"])


def vanish(images: Path) -> None:
    images.rename(images.with_name("elsewhere"))


def spoil_labels(images: Path) -> None:
    (images / "train" / "light").rename(images / "train" / "lights")


@long_only
@pytest.mark.parametrize(
    ("executor", "spoil", "told"),
    [("inline", spoil_labels, "must have the same classes"), ("ray", vanish, "images")],
    ids=["labels that are wrong", "files that vanish"],
)
def test_data_that_go_bad_after_the_plan_fail_their_rows_and_no_others(
    folder, two_sources_undisturbed, executor, spoil, told
):
    give_images(folder)
    sweep, images = ["two_sources.yaml", "--executor", executor], folder / "images"
    command = Command(folder, [*sweep, "--json"])
    command.wait_until_working(120)
    spoil(images)
    assert command.process.wait(timeout=300) == 1
    command.end()
    rows = json.loads(command.out.read_text())["rows"]
    assert status_of(rows, "dataset") == {"digits": {"done"}, "noise": {"blocked"}}
    for row in rows:
        if row["status"] != "done":
            assert row["failure_kind"] in ("configuration", "error")
            assert told in row["error"]
    assert not events(folder, "stage_again")
    shutil.rmtree(images, ignore_errors=True)
    shutil.copytree(two_sources_undisturbed / "images", images)
    assert run(folder, ["two_sources.yaml", "--executor", "inline"])[0] == 0
    assert_same_results(folder, two_sources_undisturbed)


@long_only
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_fail_fast_stops_at_the_first_failure_and_the_next_run_does_the_rest(
    folder, small_undisturbed, executor
):
    rates = ["--set", "grid.tokenizer.training.learning_rate=[1e20, 1e-3]"]
    small = ["small.yaml", "--executor", executor]
    code, rows = run(folder, [*small, *rates, "--fail-fast"])
    assert code == 1
    assert {row["status"] for row in rows} == {"blocked", "pending"}
    assert "stages have failed, more than the share of 0" in (folder / "driver-0.err").read_text()
    assert not list(folder.glob("artifacts/*/*.lease"))
    assert run(folder, small)[0] == 0
    pd.testing.assert_frame_equal(table(folder), table(small_undisturbed), check_exact=True)
