"""Every numeric field of the schema has a range, and what lies outside is refused by its path."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from harness.config.ranges import check_ranges, range_of
from harness.config.resources import Resources
from harness.config.trial import Trial
from harness.schema.kinds import Kinds
from harness.schema.reading import ConfigError
from harness.tuning.tune_file import TuneFile


def classes_below(hint: Any, seen: set[type]) -> Iterator[type]:
    """Every configuration class that a type hint reaches."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if hint not in seen:
            seen.add(hint)
            yield hint
            for each in typing.get_type_hints(hint, include_extras=True).values():
                yield from classes_below(each, seen)
        return
    for kinds in getattr(hint, "__metadata__", ()):
        if isinstance(kinds, Kinds):
            for kind in kinds:
                yield from classes_below(kinds.config_of(kind), seen)
    for each in typing.get_args(hint):
        yield from classes_below(each, seen)


def holds_numbers(hint: Any) -> bool:
    if hint in (int, float):
        return True
    origin = typing.get_origin(hint)
    # Arguments of a network that timm builds are read by kind, with ranges of timm's own.
    if origin in (typing.Union, types.UnionType, tuple, list, dict, typing.Annotated):
        return any(holds_numbers(each) for each in typing.get_args(hint))
    return False


def numeric_fields() -> list[tuple[type, str]]:
    seen: set[type] = set()
    found = []
    for kind in [k for top in (Trial, Resources, TuneFile) for k in classes_below(top, seen)]:
        hints = typing.get_type_hints(kind, include_extras=True)
        names = [field.name for field in dataclasses.fields(kind)]
        found += [(kind, name) for name in names if holds_numbers(hints[name])]
    return found


def test_every_numeric_field_has_a_range():
    fields = numeric_fields()
    assert len(fields) > 100
    lacking = [f"{kind.__name__}.{name}" for kind, name in fields if range_of(kind, name) is None]
    assert not lacking


def test_numbers_out_of_their_ranges_are_refused_by_their_path(load):
    trial = load().points[0].trial
    check_ranges(trial)
    for path, value in (
        ("seed", 2**63),
        ("tokenizer.training.weight_decay", -1.0),
        ("evaluation.sampler.timestep_shift", 1e308),
        ("generator.flow.velocity_direction_weight", -1.0),
        ("evaluation.guidance", [{"kind": "cfg", "scale": 1e300}]),
        ("evaluation.diagnostics", {"kind": "latents", "seed": -1}),
    ):
        with pytest.raises(ConfigError, match=f"trial.{path}.*"):
            load(f"{path}={value}")
