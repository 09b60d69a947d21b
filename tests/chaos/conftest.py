"""Folders with sweeps, and what these give undisturbed."""

from pathlib import Path

import pytest
from chaos_sweeps import FRONTIER, GANGS, SMALL, give_sweeps, run_undisturbed


@pytest.fixture(scope="session")
def frontier(tmp_path_factory) -> Path:
    """The cut-down frontier sweep with gangs, undisturbed."""
    return run_undisturbed(give_sweeps(tmp_path_factory.mktemp("frontier")), [*FRONTIER, *GANGS])


@pytest.fixture(scope="session")
def small_undisturbed(tmp_path_factory) -> Path:
    """The small sweep, undisturbed."""
    return run_undisturbed(give_sweeps(tmp_path_factory.mktemp("small")), SMALL)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that holds the sweep files."""
    return give_sweeps(tmp_path)
