"""What the Ray executor refuses before anything starts."""

import argparse
from pathlib import Path

import pytest

from harness.commands.options import RunOptions, add_run_options
from harness.config.resources import Resources
from harness.executors.requests import demand_of, refuse_impossible
from harness.schema.reading import ConfigError


def refusal(*, shared: bool) -> str:
    demands = {"generator": demand_of(Resources(gpus=8), 1.0)}
    with pytest.raises(ConfigError) as error:
        refuse_impossible(["generator"], demands, [{"CPU": 2.0, "GPU": 1.0}], shared=shared)
    return str(error.value)


def test_only_a_cluster_may_be_told_to_wait_for_machines():
    assert "--wait-for-nodes" in refusal(shared=True)
    assert "--wait-for-nodes" not in refusal(shared=False)
    assert "--address HOST:PORT" in refusal(shared=False)


def test_what_both_refusals_suggest_is_a_command_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").touch()
    for suggested in (["--address", "host:6379"], ["--address", "host:6379", "--wait-for-nodes"]):
        parser = argparse.ArgumentParser()
        add_run_options(parser, sweep="a sweep file")
        RunOptions.of(parser.parse_args(["sweep.yaml", *suggested]), parser)
