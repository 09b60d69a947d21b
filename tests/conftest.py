"""What holds for every test: shapes are checked, and sums are taken in one order."""

import atexit
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, ForwardRef, Literal, get_args, get_origin

import jaxtyping
import pytest
import torch
from beartype import BeartypeConf, beartype

# The hook takes its checker by name; this one lets an int stand for a float, as PEP 484 does.
checker = ModuleType("frontier_type_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
check_shapes = jaxtyping.jaxtyped


def may_have_shapes(annotation: Any) -> bool:
    """Whether an annotation names shapes; a string, which cannot be looked into, may do so."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    if get_origin(annotation) is Literal:
        return False
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return isinstance(annotation, str | ForwardRef) or any(map(may_have_shapes, parts))


def checked(thing: Any, typechecker: Any) -> Any:
    """Adds checks of types and shapes to a function, or to what a dataclass is made from."""
    if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
        thing.__init__ = checked(thing.__init__, typechecker)
        return thing
    if isinstance(thing, classmethod | staticmethod):
        return type(thing)(checked(thing.__func__, typechecker))
    if isinstance(thing, property):
        parts = (thing.fget, thing.fset, thing.fdel)
        return property(*(part and checked(part, typechecker) for part in parts))
    if isinstance(thing, FunctionType) and not any(
        map(may_have_shapes, thing.__annotations__.values())
    ):
        return checker.check(thing)
    return check_shapes(thing, typechecker=typechecker)


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Stands for jaxtyping's own, whose call takes ten times as long, where there are no shapes."""
    return lambda thing: checked(thing, typechecker)


vars(jaxtyping).update(jaxtyped=jaxtyped)
jaxtyping.install_import_hook(["models", "harness"], f"{checker.__name__}.check")
torch.set_num_threads(1)
# No test loses power, so that none needs to wait for the disk. Bad descriptors are still told.
vars(os).update(fsync=os.fstat)
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
