"""Live progress: plain lines where there is no terminal, a table where there is one."""

import pytest

from harness.execution.stage_run import Outcome
from harness.executors import Capacity, StageEvent
from harness.plan.plan import make_plan
from harness.reporting.forecast import History, seconds_left
from harness.reporting.live_view import ProgressView
from harness.reporting.recording import record_of_stage, this_machine
from harness.reporting.stage_states import StageState
from harness.storage.artifacts import Store


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
    assert whole.startswith("1/7 stages: 1 running, 1 ready, 4 waiting, 1 done; sweep ETA ")
    assert line.endswith(f"tokenizer {tokenizer.label}: step 3/10, l1 0.25, ETA 7 s")
    text = written(stream)
    assert f"[00:00] started encoder {encoder.label}\n" in text
    assert f"done encoder {encoder.label} in 0.0 s\n" in text
    assert "\x1b" not in text


def test_the_view_says_how_much_of_the_machine_is_busy(load, tmp_path, stream):
    stages, store = make_plan(load()).stages, Store(tmp_path)
    view = ProgressView(stages, store, stream)
    held, total = Capacity(cpus=3.0, gpus=0.5), Capacity(cpus=8.0, gpus=2.0)
    # No GPU was measured and there is none here, so that there is no ETA.
    view(StageEvent(stage=stages[0], what="started", held=held, total=total))
    assert view.lines()[0].endswith("; CPUs 3/8, GPUs 0.5/2 busy")
    view(StageEvent(stage=stages[0], what="waiting"))
    assert "; CPUs 0/8, GPUs 0/2 busy" in view.lines()[0]


def test_the_sweep_ends_when_its_slowest_chain_does(load, tmp_path, stream):
    stages, store = make_plan(load()).stages, Store(tmp_path)
    by_kind = {stage.kind: stage for stage in stages}
    view = ProgressView(stages, store, stream)
    for stage in stages:
        if stage.kind in ("encoder", "reference", "tokenizer", "latents"):
            outcome = Outcome(key=stage.key, status="done")
            view(StageEvent(stage=stage, what="ended", outcome=outcome))
    generator = by_kind["generator"]
    held, total = Capacity(cpus=1.0), Capacity(cpus=2.0)
    view(StageEvent(stage=generator, what="started", held=held, total=total))
    with store.work("generator", generator.key) as work:
        work.report({"step": 1, "total": 2, "eta_s": 7200.0})
        # What comes after takes well below a second.
        assert "sweep ETA 2 h 0 min" in view.lines()[0]


def test_another_attempt_is_told_with_the_error_of_the_one_before(load, tmp_path, stream):
    stages = make_plan(load()).stages
    view = ProgressView(stages, Store(tmp_path), stream)
    view(StageEvent(stage=stages[0], what="started"))
    failed = Outcome(key=stages[0].key, status="failed", error="the worker was killed")
    view(StageEvent(stage=stages[0], what="waiting", outcome=failed))
    assert f"waiting encoder {stages[0].label}: the worker was killed" in written(stream)
    assert "1 running" in view.lines()[0]


def test_what_waits_for_its_next_attempt_neither_runs_nor_holds_anything(load, tmp_path, stream):
    stages = make_plan(load()).stages
    view = ProgressView(stages, Store(tmp_path), stream)
    held, total = Capacity(cpus=1.0), Capacity(cpus=1.0)
    lost = Outcome(key=stages[0].key, status="failed", error="the worker was killed")
    view(StageEvent(stage=stages[0], what="started", held=held, total=total))
    view(StageEvent(stage=stages[0], what="again", outcome=lost))
    view(StageEvent(stage=stages[1], what="started", held=held, total=total))
    assert "1 running, " in view.lines()[0]
    assert "1 interrupted" in view.lines()[0]
    assert "CPUs 1/1 busy" in view.lines()[0]
    (first, *_) = view.overview().stages
    assert first.remark == "to be run again after the worker was killed"
    view(StageEvent(stage=stages[1], what="ended", outcome=Outcome(key="", status="done")))
    view(StageEvent(stage=stages[0], what="started", held=held, total=total))
    assert "interrupted" not in view.lines()[0]
    assert "CPUs 1/1 busy" in view.lines()[0]


def test_a_view_that_breaks_says_so_once_and_ends_nothing(load, tmp_path, stream, monkeypatch):
    monkeypatch.setattr("harness.reporting.live_view.LINE_EVERY_S", 0.01)
    stages = make_plan(load()).stages

    class Unreadable(Store):
        def progress(self, kind, key):
            raise RuntimeError("the file system is gone")

    with ProgressView(stages, Unreadable(tmp_path), stream) as view:
        view(StageEvent(stage=stages[0], what="started"))
        view._stop.wait(0.2)
        view(
            StageEvent(
                stage=stages[0], what="ended", outcome=Outcome(key=stages[0].key, status="done")
            )
        )
    text = written(stream)
    assert text.count("the live view has stopped (RuntimeError: the file system is gone)") == 1
    assert "Traceback" not in text
    assert f"done encoder {stages[0].label}" in text


def test_nobody_reading_ends_nothing(load, tmp_path):
    stages = make_plan(load()).stages
    with (tmp_path / "closed").open("w") as closed:
        view = ProgressView(stages, Store(tmp_path), closed)
    view(StageEvent(stage=stages[0], what="started"))
    view.note("anybody there?")


def test_a_failure_is_a_line_with_its_error(load, tmp_path, stream):
    stages = make_plan(load()).stages
    view = ProgressView(stages, Store(tmp_path), stream)
    failed = Outcome(key=stages[0].key, status="failed", error="ValueError: no")
    view(StageEvent(stage=stages[0], what="ended", outcome=failed))
    assert f"failed encoder {stages[0].label}: ValueError: no" in written(stream)


def test_lines_come_by_themselves_where_there_is_no_terminal(load, tmp_path, stream, monkeypatch):
    monkeypatch.setattr("harness.reporting.live_view.LINE_EVERY_S", 0.01)
    with ProgressView(make_plan(load()).stages, Store(tmp_path), stream) as view:
        view._stop.wait(0.1)
    assert "0/7 stages: 0 running, 2 ready, 5 waiting, 0 done" in written(stream)


def test_a_terminal_shows_a_table_of_running_stages(load, tmp_path, stream, monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("harness.reporting.live_view.REDRAW_EVERY_S", 0.01)
    stages = make_plan(load()).stages
    with ProgressView(stages, Store(tmp_path), stream) as view:
        view(StageEvent(stage=stages[0], what="started"))
        view._stop.wait(0.2)
    text = written(stream)
    assert "0/7 stages" in text
    assert "starting, 0 s" in text
    assert "started encoder" not in text


def test_what_is_told_on_a_terminal_stands_above_the_table_and_is_not_drawn_over(
    load, tmp_path, stream, monkeypatch
):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("harness.reporting.live_view.REDRAW_EVERY_S", 0.05)
    with ProgressView(make_plan(load()).stages, Store(tmp_path), stream) as view:
        view._stop.wait(0.2)
        view.tell("stopping: press again")
        view._stop.wait(0.2)
    text = written(stream)
    # The table before it is erased first, and the next one is drawn below.
    before, _, after = text.partition("stopping: press again\n")
    assert before.endswith("\x1b[2K")
    assert "0/7 stages" in after.splitlines()[0]


def test_what_is_told_to_a_view_that_ends_is_not_lost(load, tmp_path, stream, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("harness.reporting.live_view.REDRAW_EVERY_S", 60.0)
    with ProgressView(make_plan(load()).stages, Store(tmp_path), stream) as view:
        view.tell("stopping: press again")
    view.tell("and after it")
    assert "stopping: press again\nand after it\n" in written(stream)


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_what_a_training_said_itself_counts_also_after_it_was_killed(load, state):
    stage = next(stage for stage in make_plan(load()).stages if stage.kind == "tokenizer")
    seen = StageState(
        key=stage.key, kind=stage.kind, label=stage.label, state=state, progress={"eta_s": 7.0}
    )
    history = History(this_machine([]))
    assert seconds_left(record_of_stage(stage), seen, history, Capacity(cpus=1.0)) == 7.0
