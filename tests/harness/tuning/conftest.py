"""A search small enough to run in seconds, and studies that are told by a formula."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.tune import main
from harness.tuning.goals import Verdict, judge
from harness.tuning.study import Asked, TuningStudy, open_study
from harness.tuning.tune_file import Tuning, load_tune

from ..conftest import SMALL_SWEEP, SMALL_VIT, Ended

Tree = dict[str, Any]

VF = {"kind": "vf", "encoder": SMALL_VIT}
SMALL_TUNE: Tree = {
    "name": "tuned",
    "trial": SMALL_SWEEP["trial"],
    "presets": {
        "alignment": {
            "none": {"tokenizer.alignment": {"kind": "none"}},
            "adaptive": {"tokenizer.alignment": {**VF, "adaptive": True}},
            "fixed": {"tokenizer.alignment": {**VF, "adaptive": False}},
        }
    },
    "search": {
        "alignment": {"choices": ["adaptive", "fixed", "none"]},
        "tokenizer.alignment.vf_weight": [
            {"log": [0.01, 1], "when": {"alignment": "adaptive"}},
            {"log": [0.001, 10], "when": {"alignment": "fixed"}},
        ],
        "tokenizer.alignment.cos_margin": {
            "uniform": [0, 0.9],
            "when": {"alignment": ["adaptive", "fixed"]},
        },
    },
    "first": {
        "published default": {
            "alignment": "adaptive",
            "tokenizer.alignment.vf_weight": 0.1,
            "tokenizer.alignment.cos_margin": 0.5,
        },
        "no alignment": {"alignment": "none"},
    },
    "sampler": {"num_startup": 3},
    "num_trials": 4,
    "parallel": 2,
    "confirmation": {"seeds": []},
}


@pytest.fixture
def tree() -> Tree:
    """The small search as a tree that a test may change."""
    return copy.deepcopy(SMALL_TUNE)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Tree], Path]:
    """Writes a tree as a tune file."""

    return lambda tree: write_tree(tmp_path, tree)


@pytest.fixture
def load(write: Callable[[Tree], Path], tree: Tree) -> Callable[..., Tuning]:
    """Loads the small search under settings `PATH=VALUE`."""

    def load_small(*settings: str) -> Tuning:
        return load_tune(write(tree), settings)

    return load_small


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch) -> None:
    """Leaves the figures of searches out, which take longer than these trainings.

    Tests that are marked `every_file` have them.
    """
    if not request.node.get_closest_marker("every_file"):
        monkeypatch.setattr("harness.tuning.run_search.write_tuning_figures", lambda results: [])


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Has a search use the store of others in this process, so that each setting trains once."""
    return "--store", str(tmp_path_factory.mktemp("store"))


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capsys) -> Callable[..., Ended]:
    """Runs `python -m harness.tune` in this process, inline, from an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(path: Path, *arguments: str, executor: str = "inline") -> Ended:
        capsys.readouterr()
        try:
            code = main([str(path), "--executor", executor, *arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def write_tree(folder: Path, tree: Tree) -> Path:
    """Writes a tree as a tune file into a folder."""
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def open_toy(folder: Path, tuning: Tuning, **options: Any) -> TuningStudy:
    """The study of a folder; trials that are taken over are told by the formula."""
    options = {"allow_changed_space": False, **options}
    return open_study(
        folder, tuning, judge=lambda point: toy_verdict(dict(point.axes), tuning), **options
    )


def toy_verdict(axes: dict[str, Any], tuning: Tuning) -> Verdict:
    """More weight reconstructs worse and generates better."""
    weight = axes.get("tokenizer.alignment.vf_weight", 0.0)
    row = {"status": "done", "error": None, "rfid": 1 + weight, "gfid": 5 / (1 + 3 * weight)}
    return judge(row, tuning.goals, diverged=False, capped=False)


def tell_toy(study: TuningStudy, asked: Asked) -> None:
    """Tell a trial by the formula."""
    study.tell(asked, toy_verdict(dict(asked.point.axes), study.tuning))


def run_toy(study: TuningStudy, window: int, stop_after: int | None = None) -> None:
    """Ask and tell as a search does, `window` in flight; a kill leaves trials in flight behind."""
    todo, flights = study.remaining(), []
    while todo or flights:
        while todo and len(flights) < window:
            flights.append(study.ask(todo.pop(0)))
        if stop_after == 0:
            return
        stop_after = None if stop_after is None else stop_after - 1
        tell_toy(study, flights.pop(0))
