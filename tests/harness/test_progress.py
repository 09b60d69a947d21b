"""Live progress: plain lines where there is no terminal, a table where there is one."""

import pytest

from harness.execution import Outcome
from harness.executors import StageEvent
from harness.plan import make_plan
from harness.progress import ProgressView
from harness.store import Store


@pytest.fixture
def stream(tmp_path, monkeypatch):
    """A text file, which is no terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with (tmp_path / "stream.txt").open("w+", encoding="utf-8") as file:
        yield file


def written(stream) -> str:
    stream.seek(0)
    return stream.read()


def test_plain_lines_say_what_runs_waits_and_ended(load, tmp_path, stream):
    stages, store = make_plan(load()).stages, Store(tmp_path)
    view = ProgressView(stages, store, stream)
    encoder, tokenizer = (next(s for s in stages if s.kind == k) for k in ("encoder", "tokenizer"))
    view(StageEvent(stage=encoder, what="started"))
    view(StageEvent(stage=encoder, what="ended", outcome=Outcome(key=encoder.key, status="done")))
    view(StageEvent(stage=tokenizer, what="started"))
    with store.work("tokenizer", tokenizer.key) as work:
        work.report({"step": 3, "total": 10, "l1": 0.25, "eta_s": 7.0})
        whole, line = view.lines()
    assert whole == "1/7 stages: 1 running, 1 ready, 4 waiting, 1 done"
    assert line.endswith(f"tokenizer {tokenizer.label}: step 3/10, l1 0.25, ETA 7 s")
    text = written(stream)
    assert f"[00:00] started encoder {encoder.label}\n" in text
    assert f"done encoder {encoder.label} in 0.0 s\n" in text
    assert "\x1b" not in text


def test_a_failure_is_a_line_with_its_error(load, tmp_path, stream):
    stages = make_plan(load()).stages
    view = ProgressView(stages, Store(tmp_path), stream)
    failed = Outcome(key=stages[0].key, status="failed", error="ValueError: no")
    view(StageEvent(stage=stages[0], what="ended", outcome=failed))
    assert f"failed encoder {stages[0].label}: ValueError: no" in written(stream)


def test_lines_come_by_themselves_where_there_is_no_terminal(load, tmp_path, stream, monkeypatch):
    monkeypatch.setattr("harness.progress.LINE_EVERY_S", 0.01)
    with ProgressView(make_plan(load()).stages, Store(tmp_path), stream) as view:
        view._stop.wait(0.1)
    assert "0/7 stages: 0 running, 2 ready, 5 waiting, 0 done" in written(stream)


def test_a_terminal_shows_a_table_of_running_stages(load, tmp_path, stream, monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("harness.progress.REDRAW_EVERY_S", 0.01)
    stages = make_plan(load()).stages
    with ProgressView(stages, Store(tmp_path), stream) as view:
        view(StageEvent(stage=stages[0], what="started"))
        view._stop.wait(0.2)
    text = written(stream)
    assert "0/7 stages" in text
    assert "starting, 0 s" in text
    assert "started encoder" not in text
