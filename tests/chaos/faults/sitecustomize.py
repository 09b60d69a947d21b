"""Imported by every Python process that has this folder on its path: alters the program there.

Reports are left out, since they take most of a small run; in `make chaos`, figures are one PNG.
`FRONTIER_SHORT_OF=device:5` lets generators train on at most 5 images at a time: for more, they get
the error of a GPU's allocator. With `host:5` they ask the allocator of the CPU for more than any
machine has, whose error is its own. The program itself knows nothing of this.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else does, and alters it once it is loaded."""

    def __init__(self, name: str, alter: Callable[[ModuleType], None]) -> None:
        self.name, self.alter = name, alter

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual specification, with a loader of ours."""
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def load_and_alter(module: ModuleType) -> None:
            load(module)
            self.alter(module)

        spec.loader.exec_module = load_and_alter
        return spec


def save_one_file(module: ModuleType) -> None:
    """Leave out the other files of a figure."""
    vars(module).update(FILES={module.COLUMN_INCH: (".png",)}, ENDS=(".png",))


def leave_report_out(module: ModuleType) -> None:
    """Write tables, and nothing that is made from them."""
    vars(module).update(_analyse=lambda results: ([], "no report"))


def limit_images(module: ModuleType) -> None:
    """Let a training generator run out of memory where it is given too many images."""
    import torch

    memory, _, most = os.environ["FRONTIER_SHORT_OF"].partition(":")
    network = module.LightningDiT
    forward = network.forward_with_tap

    def limited(self, x, *arguments):
        if self.training and len(x) > int(most):
            if memory == "device":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            torch.empty(2**58)
        return forward(self, x, *arguments)

    network.forward_with_tap = limited


if "FRONTIER_CHAOS" in os.environ:
    sys.meta_path.insert(0, Finder("analysis.figures.saving", save_one_file))
else:
    sys.meta_path.insert(0, Finder("harness.results.folder", leave_report_out))
if "FRONTIER_SHORT_OF" in os.environ:
    sys.meta_path.insert(0, Finder("models.lightningdit", limit_images))
