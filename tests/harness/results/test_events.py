"""`events.jsonl`: whole lines whatever happens, and device time summed up from them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.execution.stage_run import Outcome
from harness.executors import Capacity, StageEvent
from harness.plan.plan import make_plan
from harness.reporting.bill import usage
from harness.results import events
from harness.results.event_file import SCHEMA, read_events
from harness.results.events import EventLog

WRITER = """
import sys
from pathlib import Path
from harness.results.events import EventLog
log = EventLog(Path(sys.argv[1]))
for number in range(300):
    log.write("note", number=number, filler="x" * 500)
"""


def test_every_line_says_schema_run_time_and_a_clock_that_never_jumps(tmp_path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.start("small", store=tmp_path, executor="inline", stages_to_run=3)
    log.end("done", {}, {"done": 1})
    first, last = read_events(tmp_path / "events.jsonl")
    assert (first["event"], last["event"]) == ("sweep_started", "sweep_ended")
    assert {first["schema"], last["schema"]} == {SCHEMA}
    assert first["run"] == last["run"]
    assert first["time"].endswith("Z")
    assert 0 <= first["elapsed_s"] <= last["elapsed_s"]
    assert (first["stages_to_run"], first["pid"], last["rows"]) == (3, os.getpid(), {"done": 1})


def test_a_stage_is_named_with_what_it_holds_and_how_it_ended(load, tmp_path) -> None:
    stage = make_plan(load()).stages[0]
    log = EventLog(tmp_path / "events.jsonl")
    held, total = Capacity(cpus=1.0), Capacity(cpus=2.0, gpus=1.0)
    log(StageEvent(stage=stage, what="started", held=held, total=total))
    outcome = Outcome(key=stage.key, status="failed", error="ValueError: no", wall_s=1.5)
    log(StageEvent(stage=stage, what="ended", outcome=outcome))
    started, ended = read_events(tmp_path / "events.jsonl")
    assert (started["event"], started["kind"]) == ("stage_started", "encoder")
    assert started["held"] == {"cpus": 1.0, "gpus": 0.0}
    assert started["total"] == {"cpus": 2.0, "gpus": 1.0}
    assert (ended["status"], ended["error"], ended["wall_s"]) == ("failed", "ValueError: no", 1.5)


def test_a_torn_line_is_passed_over_and_not_written_on(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("note", number=1)
    with path.open("a") as file:
        file.write('{"schema": 1, "event": "note", "num')
    assert [event["number"] for event in read_events(path)] == [1]
    EventLog(path).write("note", number=2)
    assert [event["number"] for event in read_events(path)] == [1, 2]


def test_lines_of_two_drivers_do_not_mix(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(events.__file__).parents[2])}
    writers = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    by_run: dict[str, list[int]] = {}
    for line in lines:
        by_run.setdefault(line["run"], []).append(line["number"])
    assert list(by_run.values()) == [list(range(300))] * 2


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path, capsys) -> None:
    link = tmp_path / "events.jsonl"
    link.symlink_to("/dev/full")
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    log = EventLog(link)
    for number in range(3):
        log.write("note", number=number)
    (told,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in told
    assert [event["number"] for event in log.events] == [0, 1, 2]
    link.unlink()
    log.write("note", number=3)
    (event,) = read_events(link)
    assert (event["number"], event["lost_before"]) == (3, 3)


def test_a_line_that_a_full_disk_cut_is_ended_before_the_next(tmp_path, monkeypatch) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    whole = os.write
    monkeypatch.setattr(events.os, "write", lambda file, line: whole(file, line[:20]))
    log.write("note", number=1)
    monkeypatch.undo()
    log.write("note", number=2)
    assert [event["number"] for event in read_events(path)] == [2]


def stage_event(what: str, key: str, at: float, **values) -> dict:
    return {"event": f"stage_{what}", "key": key, "elapsed_s": at, **values}


HELD, TOTAL = {"cpus": 1.0, "gpus": 0.5}, {"cpus": 4.0, "gpus": 2.0}


def test_idle_time_is_capacity_times_wall_less_what_was_held() -> None:
    run = [
        stage_event("started", "a", 10.0, held=HELD, total=TOTAL),
        stage_event("started", "b", 10.0, held=HELD, total=TOTAL),
        stage_event("ended", "a", 20.0),
        stage_event("ended", "b", 40.0),
    ]
    cpus, gpus = usage(run, "cpus"), usage(run, "gpus")
    assert cpus is not None
    assert gpus is not None
    assert (cpus.wall_s, cpus.capacity_s, cpus.busy_s, cpus.idle_s) == (30.0, 120.0, 40.0, 80.0)
    assert (gpus.capacity_s, gpus.busy_s, gpus.idle_s) == (60.0, 20.0, 40.0)


def test_a_cluster_that_grows_is_counted_from_then_on() -> None:
    run = [
        stage_event("started", "a", 0.0, held=HELD, total={"cpus": 1.0, "gpus": 0.0}),
        stage_event("started", "b", 10.0, held=HELD, total={"cpus": 3.0, "gpus": 0.0}),
        stage_event("ended", "a", 20.0),
        stage_event("ended", "b", 20.0),
    ]
    found = usage(run, "cpus")
    assert found is not None
    assert (found.capacity_s, found.busy_s) == (1.0 * 10 + 3.0 * 10, 30.0)


def test_a_stage_that_another_process_works_on_holds_nothing() -> None:
    run = [
        stage_event("started", "a", 0.0, held=HELD, total=TOTAL),
        stage_event("waiting", "a", 1.0),
        stage_event("ended", "a", 50.0),
    ]
    found = usage(run, "cpus")
    assert found is not None
    assert found.busy_s == 1.0
    assert usage([], "cpus") is None
