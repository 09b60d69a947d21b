"""What is put through chaos, and when."""

import os
import shutil
from pathlib import Path

import pytest
from chaos_processes import ROOT, Command

long_only = pytest.mark.skipif(
    "FRONTIER_CHAOS" not in os.environ, reason="minutes; run `make chaos`"
)
SMALL = ["small.yaml", "--executor", "inline"]
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
GANGS = ("--set", "resources.generator={workers: 2, checkpoint_every_s: 0.3}")
"""Two processes a generator, so that there are ranks to lose."""


def give_sweeps(folder: Path) -> Path:
    """Put the sweep files into a folder."""
    shutil.copy(ROOT / "sweeps" / "frontier.yaml", folder)
    shutil.copy(Path(__file__).with_name("small.yaml"), folder)
    return folder


def run_undisturbed(folder: Path, arguments: list[str]) -> Path:
    """Run a command to its good end."""
    command = Command(folder, arguments)
    code = command.process.wait(timeout=1500)
    command.end()
    assert code == 0, command.err.read_text()[-3000:]
    return folder
