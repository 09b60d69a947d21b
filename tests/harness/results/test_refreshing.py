"""Results that are written while a sweep runs."""

import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from harness.results import refreshing
from harness.results.refreshing import Refresher
from harness.storage.artifacts import Store


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(refreshing, "EVERY_S", 0.0)


def test_a_running_sweep_writes_what_is_finished_and_starts_nothing(
    command, write, tree, at_once, monkeypatch
):
    tree["grid"] = {"generator.seed": [0, 1]}
    path, seen = write(tree), []

    def look(self):
        if not seen:
            # It is the sweep that runs that is written, whatever becomes of its file.
            path.write_text("name: another")
            usual(self)
        if self._process is not None and not seen:
            assert self._process.wait(120) == 0
            seen.extend(pd.read_csv("results/small/table.csv")["status"])
            assert Path("results/small/report.html").stat().st_size > 10_000

    usual = Refresher.look
    monkeypatch.setattr(Refresher, "look", look)
    assert command(path).code == 0
    assert seen == ["done", "pending"]
    assert list(pd.read_csv("results/small/table.csv")["status"]) == ["done", "done"]


def test_results_alone_are_written_of_what_is_finished(command, write, tree):
    path = write(tree)
    assert command(path, "--only", "reconstruction").code == 0
    made = sorted(Path("artifacts").rglob("artifact.json"))
    told = command(path, "--write-only", "--json")
    assert told.code == 0, told.err
    assert [row["status"] for row in told.json["rows"]] == ["pending"]
    assert told.json["rows"][0]["rfid"] is not None
    words = command(path, "--write-only")
    assert f"executed 0 stages, reused {len(made)}" in words.out
    assert sorted(Path("artifacts").rglob("artifact.json")) == made


def test_it_never_runs_twice_at_a_time_nor_without_news(tmp_path, at_once, monkeypatch, load):
    monkeypatch.setattr(Refresher, "_words", lambda _self: ["sleep", "60"])
    refresher = Refresher(load(), Store(tmp_path), tmp_path)
    refresher.look()
    assert refresher._process is None
    refresher.row_written()
    refresher.look()
    first = refresher._process
    assert first is not None
    refresher.row_written()
    refresher.look()
    assert refresher._process is first
    started = time.monotonic()
    refresher.stop()
    assert time.monotonic() - started < 30
    assert first.poll() is not None


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups of sessions")
def test_all_but_the_first_leave_the_cores_to_the_run(tmp_path, load):
    refresher = Refresher(load(), Store(tmp_path), tmp_path)
    groups = []
    for _ in range(2):
        words = [*refresher._words()[:4], "cat", "/proc/self/autogroup"]
        told = subprocess.run(words, capture_output=True, start_new_session=True, check=True)
        groups.append(told.stdout.split()[-1])
        refresher._process = subprocess.Popen("true")
        refresher._process.wait()
    assert groups == [b"0", b"19"]
