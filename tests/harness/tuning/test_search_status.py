"""`python -m harness.status` tells of a search what it tells of a sweep."""

import dataclasses
import json
from pathlib import Path

import pytest

from harness.commands.exit_codes import EXIT_UNFINISHED
from harness.stages import registry
from harness.status import main
from harness.storage.lease import hold

FIRST_TWO = ["--set", "num_trials=2"]


@pytest.fixture
def status(command, capsys):
    """Runs the status command in the folder of `command`."""

    def run(*arguments: str):
        capsys.readouterr()
        code = main(["results/tuned", *arguments])
        return code, capsys.readouterr()

    return run


def test_a_finished_search_is_done(command, write, tree, status):
    assert command(write(tree), *FIRST_TWO).code == 0
    code, shown = status()
    assert code == 0, shown.err
    assert "trials: 2/2 finished: 2 done" in shown.out
    assert "rows: 2 done" in shown.out
    assert ", 0 waiting, " in shown.out


def test_a_capped_trial_leaves_nothing_to_be_run(command, write, tree, status):
    tree["caps"] = {"rfid": {"at_most": 0.0}}
    assert command(write(tree), *FIRST_TWO).code == 0
    code, shown = status("--json")
    told = json.loads(shown.out)
    assert (code, told["is_open"]) == (0, False)
    assert told["trials"] == {"asked": 2, "finished": 2, "counts": {"capped": 2}}
    assert {stage["state"] for stage in told["stages"]} == {"done"}


def test_a_search_that_was_killed_says_which_trials_it_goes_on_with(
    command, write, tree, status, monkeypatch
):
    def killed(config, context):
        raise KeyboardInterrupt

    broken = dataclasses.replace(registry.KINDS["latents"], run=killed)
    monkeypatch.setitem(registry.KINDS, "latents", broken)
    assert command(write(tree)).code == 130
    code, shown = status()
    assert code == EXIT_UNFINISHED
    assert "trials: 0/4 finished: 2 interrupted" in shown.out
    assert "interrupted latents" in shown.out
    assert "nothing runs; the search's command goes on with what is left" in shown.out
    with hold(Path("results/tuned/study.lease")):
        assert "trials: 0/4 finished: 2 running" in status()[1].out
