"""The state of a sweep in words and as a table, on terminals of any width."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from harness.executors import Capacity
from harness.reporting.drawing import drawing
from harness.reporting.overview import Overview, headline, progress_text
from harness.reporting.stage_states import StageState
from harness.reporting.words import duration

RUNNING = StageState(
    key="a",
    kind="generator",
    label="nano/2 seed 0 on d16 with a long alignment name",
    state="running",
    progress={
        "step": 1200,
        "total": 5000,
        "loss": 0.51234,
        "images_per_s": 1234.5,
        "eta_s": 130.0,
        "spent_s": 3.0,
        "attempt": 1,
        "data_wait_share": 0.12,
        "data_wait_s": 9.0,
    },
)
OTHERS = [
    StageState(key="b", kind="tokenizer", label="d4", state="done"),
    StageState(key="c", kind="tokenizer", label="d8", state="failed", remark="ValueError: no"),
    StageState(key="d", kind="generation", label="g", state="waiting"),
]
WHOLE = Overview(
    stages=[*OTHERS, RUNNING],
    used=Capacity(cpus=1.0),
    total=Capacity(cpus=2.0, gpus=1.0),
    eta_s=3700.0,
)


def drawn(overview: Overview, width: int, height: int = 30) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(drawing(overview, console))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_the_headline_counts_states_and_says_what_is_busy_and_when_it_ends() -> None:
    assert headline(WHOLE) == (
        "2/4 stages: 1 running, 0 ready, 1 waiting, 1 failed, 1 done; CPUs 1/2, GPUs 0/1 busy; "
        "sweep ETA 1 h 1 min"
    )


def test_a_finished_sweep_has_no_eta() -> None:
    ended = Overview(stages=[OTHERS[0]], eta_s=0.0)
    assert headline(ended) == "1/1 stages: 0 running, 0 ready, 0 waiting, 1 done"


def test_progress_shows_the_loss_and_hides_what_the_harness_counts() -> None:
    assert progress_text(RUNNING) == (
        "step 1200/5000, loss 0.5123, 1234 images/s (12% waiting for data), ETA 2 min 10 s"
    )


def test_what_a_training_measures_at_its_end_is_not_called_a_step() -> None:
    progress = {"measuring": "accuracy", "step": 500, "total": 1797, "eta_s": 3.0}
    stage = StageState(key="a", kind="encoder", label="l", state="running", progress=progress)
    assert progress_text(stage) == "measuring accuracy, image 500/1797, ETA 3 s"
    assert "accuracy 500/1797" in drawn(Overview(stages=[stage]), 120)[-1]
    assert "accuracy 28%" in drawn(Overview(stages=[stage]), 80)[-1]


def test_a_stage_that_has_said_nothing_is_starting() -> None:
    stage = StageState(key="a", kind="k", label="l", state="running", running_s=3.2)
    assert progress_text(stage) == "starting, 3 s"
    begun = replace(stage, progress={"spent_s": 0.0, "attempt": 1})
    assert progress_text(begun) == "at work, 3 s"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_table_fits_its_terminal_and_shows_what_runs_and_failed_first(width: int) -> None:
    lines = drawn(WHOLE, width)
    assert all(len(line) <= width for line in lines)
    heading = next(n for n, line in enumerate(lines) if line.startswith("state"))
    rows = lines[heading + 1 :]
    assert [line.split()[0] for line in rows] == ["running", "failed", "waiting", "done"]
    assert "24%" in rows[0]
    assert "2 min" in rows[0]
    assert ("loss 0.5123" in rows[0]) == (width >= 120)
    assert ("ValueError" in rows[1]) == (width >= 60)


def test_what_does_not_fit_in_height_is_counted() -> None:
    many = [
        StageState(key=str(n), kind="generator", label=str(n), state="ready") for n in range(50)
    ]
    lines = drawn(Overview(stages=[RUNNING, *many]), 100, height=12)
    assert len(lines) <= 12
    assert lines[-1].strip() == "and 44 ready"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3500, "58 min"),
        (5400, "1 h 30 min"),
        (2 * 86400 + 4 * 3600, "2 d 4 h"),
        (-3, "0 s"),
    ],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
