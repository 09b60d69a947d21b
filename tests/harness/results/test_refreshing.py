"""Results that are written while a sweep runs."""

import time
from pathlib import Path

import pandas as pd
import pytest

from harness.results import refreshing
from harness.results.refreshing import Refresher


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
            usual(self)
        if self._process is not None and not seen:
            assert self._process.wait(120) == 0
            seen.extend(pd.read_csv("results/small/table.csv")["status"])
            assert Path("results/small/report.html").stat().st_size > 10_000
            assert "report: " in Path("results/small/refresh.log").read_text()

    usual = Refresher.look
    monkeypatch.setattr(Refresher, "look", look)
    assert command(path).code == 0
    assert seen == ["done", "pending"]
    assert list(pd.read_csv("results/small/table.csv")["status"]) == ["done", "done"]


def test_it_never_runs_twice_at_a_time_nor_without_news(tmp_path, at_once, monkeypatch):
    refresher = Refresher(["timeit", "-n1", "-r1", "import time; time.sleep(60)"], tmp_path)
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
