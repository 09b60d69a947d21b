"""The same search is the same study under every executor."""

import os
from pathlib import Path

import pandas as pd
import pytest

from harness.tune import main

from ..harness.tuning.conftest import SMALL_TUNE, write_tree


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    path = write_tree(folder, {**SMALL_TUNE, "num_trials": 5, "parallel": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        patch.setattr("harness.tuning.run_search.write_tuning_figures", lambda results: [])
        patch.setattr("harness.results.folder._analyse", lambda results: ([], "no report"))
        codes = {
            name: main(
                [
                    str(path),
                    "--executor",
                    name,
                    "--results",
                    str(folder / name),
                    "--store",
                    str(folder / f"{name}_store"),
                ]
            )
            for name in ("inline", "ray")
        }
    return codes, {name: folder / name / "tuned" for name in codes}


def test_both_executors_finish_the_search(studies):
    codes, _ = studies
    assert codes == {"inline": 0, "ray": 0}


def test_both_executors_give_the_same_trials_and_numbers(studies):
    _, folders = studies
    inline, ray = (pd.read_csv(folders[name] / "trials.csv") for name in ("inline", "ray"))
    pd.testing.assert_frame_equal(inline, ray)
