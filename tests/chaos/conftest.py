"""The sweep that is put through chaos, and what it gives undisturbed."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.processes import ROOT, Command
from tests.harness.conftest import SMALL_SWEEP

LONG = "FRONTIER_CHAOS" in os.environ
long_only = pytest.mark.skipif(not LONG, reason="minutes; run `make chaos`")
CUT = (
    "grid.tokenizer.latent_dim=[4]",
    "tokenizer.training.steps=240",
    "generator.training.steps=900",
    "generator.snapshots=[300]",
    "evaluation.num_images=240",
    "evaluation.diagnostics.num_vectors=200",
    "evaluation.sampler.num_steps=10",
    "evaluation.extractor.training.steps=150",
    "presets.alignment.vf.tokenizer.alignment.encoder.training.steps=200",
    "resources.default.checkpoint_every_s=0.3",
)
"""Of the shipped frontier sweep: everything is there, smaller, with a checkpoint at every turn."""
FRONTIER = ["frontier.yaml", *(part for setting in CUT for part in ("--set", setting))]


def run_undisturbed(folder: Path, arguments: list[str]) -> Path:
    command = Command(folder, arguments)
    code = command.process.wait(timeout=1500)
    command.end()
    assert code == 0, command.err.read_text()[-3000:]
    return folder


@pytest.fixture(scope="session")
def frontier(tmp_path_factory) -> Path:
    """The cut-down frontier sweep, undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(ROOT / "sweeps" / "frontier.yaml", folder)
    return run_undisturbed(folder, [*FRONTIER, "--executor", "inline"])


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """A sweep of seconds whose trainings are long enough to be killed in."""
    tree = copy.deepcopy(SMALL_SWEEP)
    tree["trial"]["tokenizer"]["training"]["steps"] = 60
    tree["trial"]["generator"]["training"]["steps"] = 150
    tree["resources"] = {"default": {"checkpoint_every_s": 0.05}}
    return tree


@pytest.fixture(scope="session")
def small_undisturbed(tmp_path_factory, small) -> Path:
    """The small sweep, undisturbed."""
    folder = write_sweep(tmp_path_factory.mktemp("undisturbed"), small)
    return run_undisturbed(folder, ["small.yaml", "--executor", "inline"])


@pytest.fixture
def folder(tmp_path, small) -> Path:
    """A folder that holds the small sweep's file."""
    return write_sweep(tmp_path, small)


def write_sweep(folder: Path, tree: dict[str, Any]) -> Path:
    (folder / "small.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder
