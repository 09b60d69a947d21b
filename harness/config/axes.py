"""Axes of a sweep: what it varies, as people write it and as the table's columns hold it."""

import dataclasses
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

AxisKind = Literal["numeric", "categorical", "seed"]
Values = Mapping[str, Any]
"""Axis (a preset's name or a dotted path of the trial) -> value; an axis that is not in force is
absent."""
Held = str | int | float
"""A value as a column of the table holds it."""

_SEEDS = ("seed", "tokenizer.seed", "generator.seed", "evaluation.seed")
"""Seeds that mean repetition. That of a feature network is none: it changes what is measured."""
_SHARED_NAMES = ("seed", "kind", "name", "weight", "decay", "encoder")
"""Fields that several blocks of a trial have; alone they would not say whose they are."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a sweep or search, as its column in the table describes it."""

    name: str
    """A preset's name or a dotted path of the trial."""
    short: str
    """Name where room is short, as `latent_dim`; no other axis of the sweep has it."""
    kind: AxisKind
    """`seed` means repetition; `numeric`, that all its values are numbers."""
    type: Literal["text", "count", "number"]
    """Type of its column."""
    values: tuple[Held, ...]
    """Values that the sweep has, in the order of the file; none of a search's range."""
    baseline: Held | None = None
    """The value that others are compared with; None of seeds and ranges."""
    moves_with: tuple[str, ...] = ()
    """Axes that move together with this one, so that its effect is not told from theirs."""

    def held(self, value: Any) -> Held:
        """A value as the column holds it: text where the axis has other values than numbers."""
        if self.type == "text":
            return write_value(value)
        return float(value) if self.type == "number" else value

    def has(self, value: Any) -> bool:
        """Whether a value is one of the axis."""
        if self.type == "text":
            return write_value(value) in self.values
        return any(same(value, other) for other in self.values)

    def against(self, baseline: Any) -> "Axis":
        """The axis with a value that its others are compared with."""
        return dataclasses.replace(self, baseline=self.held(baseline))


def describe_axes(
    points: Iterable[Values],
    listed: Mapping[str, Sequence[Any]],
    presets: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> tuple[Axis, ...]:
    """Describe the axes of a sweep or search; each is compared with its first value.

    Args:
        listed: Axis -> values in the order of the file; none of a search's range.
        presets: Axis -> value name -> dotted paths of the trial and their values.
    """
    met: dict[str, list[Any]] = {axis: [] for axis in listed}
    for point in points:
        for axis, value in point.items():
            met[axis].append(value)
    names = short_names(list(listed))
    axes = []
    for axis, values in listed.items():
        kind, of_type = _kind(axis, [*values, *met[axis]], presets)
        plain = Axis(name=axis, short=names[axis], kind=kind, type=of_type, values=())
        used = dict.fromkeys(map(plain.held, met[axis]))
        # Values that stand in no list are those of the base trial.
        ordered = [held for held in dict.fromkeys(map(plain.held, values)) if held in used]
        ordered += [held for held in used if held not in ordered] if values else []
        first = None if kind == "seed" or not ordered else ordered[0]
        axes.append(dataclasses.replace(plain, values=tuple(ordered), baseline=first))
    return tuple(axes)


def _kind(
    axis: str, values: Sequence[Any], presets: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> tuple[AxisKind, Literal["text", "count", "number"]]:
    numbers = axis not in presets and all(map(_is_number, values))
    whole = numbers and all(isinstance(value, int) for value in values)
    paths = {path for value in presets.get(axis, {}).values() for path in value} or {axis}
    kind: AxisKind = "numeric" if numbers and not axis.endswith(".seed") else "categorical"
    if paths <= set(_SEEDS):
        kind = "seed"
    return kind, "count" if whole else "number" if numbers else "text"


def axes_words(axes: Iterable[Axis], values: Values) -> str:
    """A combination in words, `latent_dim=16 alignment=vf seed=0`; an absent value is left out."""
    return " ".join(
        f"{axis.short}={write_value(values[axis.name])}" for axis in axes if axis.name in values
    )


def short_names(axes: Sequence[str]) -> dict[str, str]:
    """Axis -> the least of its path that tells it from the others, as `generator.batch_size`."""
    candidates = {axis: list(_candidates(axis)) for axis in axes}
    names = {}
    for axis, own in candidates.items():
        others = {name for other in axes if other != axis for name in candidates[other]}
        names[axis] = next((name for name in own if name not in others), axis)
    return names


def _candidates(axis: str) -> Iterator[str]:
    *blocks, last = axis.split(".")
    # Tokenizer, generator and encoders have the same block `training`.
    inner = [block for block in blocks if block != "training"]
    if last not in _SHARED_NAMES and inner == blocks:
        yield last
    if inner:
        yield f"{inner[-1]}.{last}"
    yield axis


def write_value(value: Any) -> str:
    """A value as people write it: text as it is, blocks and lists as YAML on one line."""
    if isinstance(value, str):
        return value
    if _is_number(value):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n...\n").rstrip("\n")


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same value of an axis: 1 and 1.0 are, 1 and true are not."""
    return identity(one) == identity(other)


def identity(value: Any) -> Hashable:
    """Equal for values that are the same value of an axis."""
    return value if _is_number(value) else json.dumps(value, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
