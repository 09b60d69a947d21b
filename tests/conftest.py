"""What holds for every test: shapes are checked, and sums are taken in one order."""

import atexit
import os
import shutil
import sys
import tempfile
from types import ModuleType

import jaxtyping
import pytest
import torch
from beartype import BeartypeConf, beartype

# The hook takes its checker by name; this one lets an int stand for a float, as PEP 484 does.
checker = ModuleType("frontier_type_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
jaxtyping.install_import_hook(["models", "harness"], f"{checker.__name__}.check")
torch.set_num_threads(1)
# No test of this process outlives a power cut: nothing waits for the disk, bad files are refused.
os.fsync = os.fstat  # type: ignore[assignment]
# What is remembered of data sets stays out of the user's cache folder.
os.environ["FRONTIER_CACHE"] = tempfile.mkdtemp(prefix="frontier-cache-")
atexit.register(shutil.rmtree, os.environ["FRONTIER_CACHE"], ignore_errors=True)


@pytest.fixture
def one_file_a_figure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves figures as one PNG each: their other files take most of a small report.

    A test that is marked `every_file` saves all of them.
    """
    from analysis.figures.column import COLUMN_INCH  # Matplotlib, which few tests need.

    if not request.node.get_closest_marker("every_file"):
        monkeypatch.setattr("analysis.figures.saving.FILES", {COLUMN_INCH: (".png",)})
        monkeypatch.setattr("analysis.report.ENDS", (".png",))
