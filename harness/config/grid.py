"""The grid of a sweep: its axes, axes that move together, conditions and exclusions.

    grid:
      alignment: [none, vf]                    an axis and its values
      tokenizer.alignment.vf_weight: {choices: [0.1, 0.5], when: {alignment: vf}}
      tokenizer.latent_dim: [4, 8]
      generator.size: [pico, nano]
    zip: [[tokenizer.latent_dim, generator.size]]
    exclude: [{alignment: none, tokenizer.latent_dim: 8}]

A list of such grids is their union. An axis that one of them lacks has the value there that the
base trial and the other axes give it.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config.axes import Values, identity, write_value
from harness.config.conditions import check_condition, condition_words, holds, wanted_ones
from harness.config.trial import Trial
from harness.schema.reading import ConfigError, nearest, validate

MAX_TRIALS = 10_000
"""Trials of a sweep; planning so many takes a minute or two."""
MAX_COMBINATIONS = 200_000
"""Combinations that are looked at, those that are excluded included."""


MAX_RULES = 500
"""Rules of `exclude`, each of which is held to every combination."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values of an axis, and when it has them."""

    choices: list[Any]
    """Values, or names of a preset."""
    when: dict[str, Any] = field(default_factory=dict)
    """Axis that stands above -> value or values of it under which the axis is varied. Elsewhere
    the trial says what it says without the axis."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One grid of a sweep file."""

    path: str
    """Its place in the file."""
    axes: Mapping[str, Sequence[Choices]]
    """Axis -> its values, or several lists of them under different conditions."""
    steps: Sequence[Sequence[str]]
    """Axes that move together, in the order of the file; most stand alone."""

    def values(self, axis: str) -> list[Any]:
        """The values of an axis under any condition, in the order of the file."""
        return [value for choices in self.axes[axis] for value in choices.choices]

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination; an axis that is not in force is absent."""
        yield from self._extend({}, 0)

    def _extend(self, chosen: dict[str, Any], step: int) -> Iterator[dict[str, Any]]:
        if step == len(self.steps):
            yield chosen
            return
        axes = self.steps[step]
        lists = [
            next((c.choices for c in self.axes[axis] if holds(c.when, chosen)), None)
            for axis in axes
        ]
        if None in lists:
            yield from self._extend(chosen, step + 1)
            return
        for values in zip(*lists, strict=True):
            yield from self._extend({**chosen, **dict(zip(axes, values, strict=True))}, step + 1)


def read_grids(
    tree: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    pairs: Sequence[Sequence[str]],
    presets: Mapping[str, Mapping[str, Any]],
) -> list[Grid]:
    """Check the `grid` of a file, or its list of grids."""
    several = not isinstance(tree, Mapping)
    blocks = {f"grid.{n}": one for n, one in enumerate(tree)} if several else {"grid": tree}
    if not blocks:
        raise ConfigError("a list of grids must hold one, but is empty; add one", path="grid")
    grids = [_read_grid(block, path, pairs, presets) for path, block in blocks.items()]
    _check_pairs(pairs, axes_of(grids))
    return grids


def axes_of(grids: Sequence[Grid]) -> list[str]:
    """The axes of all grids, in the order of the file."""
    return list(dict.fromkeys(axis for grid in grids for axis in grid.axes))


def listed_values(grids: Sequence[Grid]) -> dict[str, list[Any]]:
    """Axis -> its values in all grids, in the order of the file."""
    return {
        axis: [value for grid in grids if axis in grid.axes for value in grid.values(axis)]
        for axis in axes_of(grids)
    }


def _read_grid(
    block: Any, path: str, pairs: Sequence[Sequence[str]], presets: Mapping[str, Mapping[str, Any]]
) -> Grid:
    axes: dict[str, list[Choices]] = {}
    for axis, tree in block.items():
        try:
            axes[axis] = _read_axis(axis, tree, presets)
            above = {a: [v for c in axes[a] for v in c.choices] for a in axes if a != axis}
            for number, choices in enumerate(axes[axis]):
                where = f"{number}.when" if len(axes[axis]) > 1 else "when"
                check_condition(choices.when, above, where)
        except ConfigError as error:
            raise error.within(path=f"{path}.{axis}") from error
    steps: list[list[str]] = []
    for axis in axes:
        together = [a for pair in pairs if axis in pair for a in pair if a in axes] or [axis]
        if not any(axis in step for step in steps):
            _check_together(together, axes, path)
            steps.append(together)
    return Grid(path=path, axes=axes, steps=steps)


def _read_axis(axis: str, tree: Any, presets: Mapping[str, Mapping[str, Any]]) -> list[Choices]:
    _check_name(axis, presets)
    if isinstance(tree, dict):
        found = [validate(Choices, tree)]
    elif not isinstance(tree, list):
        raise ConfigError(
            f"must be a list of values, or {{choices: [...], when: {{AXIS: VALUE}}}}, but got "
            f"{tree!r}; write [{write_value(tree)}]"
        )
    elif tree and all(isinstance(each, dict) and "choices" in each for each in tree):
        found = [validate(Choices, each) for each in tree]
        if len({condition_words(each.when) for each in found}) < len(found):
            raise ConfigError("several lists must differ in `when`, but do not; keep one of each")
        if not all(each.when for each in found):
            raise ConfigError(
                "each of several lists must say `when` it is in force, but one does not; add "
                "when: {AXIS: VALUE}"
            )
    else:
        found = [Choices(choices=tree)]
    for each in found:
        _check_values(axis, each.choices, presets)
    return found


def _check_name(axis: str, presets: Mapping[str, Any]) -> None:
    fields = [f.name for f in dataclasses.fields(Trial)]
    if axis not in presets and axis.partition(".")[0] not in fields:
        names = [*presets, *fields]
        raise ConfigError(
            f"unknown axis {axis!r}{nearest(axis, names)} (an axis is a preset's name or a "
            f"dotted path that starts with one of: {', '.join(names)})"
        )


def _check_values(axis: str, values: Sequence[Any], presets: Mapping[str, Any]) -> None:
    if not values:
        raise ConfigError("an axis needs at least one value, but got none; add one")
    counts = Counter(map(identity, values))
    for value in values:
        if counts[identity(value)] > 1:
            raise ConfigError(f"the value {write_value(value)} stands twice; keep one")
    if axis in presets:
        names = list(presets[axis])
        for value in values:
            if value not in names:
                raise ConfigError(
                    f"unknown preset {value!r}{nearest(str(value), names)} "
                    f"(valid: {', '.join(names)})"
                )


def _check_together(axes: Sequence[str], grid: Mapping[str, Sequence[Choices]], path: str) -> None:
    """Refuse axes that cannot move together."""
    if len(axes) == 1:
        return
    for axis in axes:
        if grid[axis][0].when:
            raise ConfigError(
                "an axis that moves with others (`zip`) has no `when` of its own; write a list of "
                "grids instead",
                path=f"{path}.{axis}",
            )
    first, *others = axes
    most = len(grid[first][0].choices)
    for axis in others:
        count = len(grid[axis][0].choices)
        if count != most:
            raise ConfigError(
                f"must have as many values as {first}, with which it moves (`zip`), {most}, but "
                f"has {count}",
                path=f"{path}.{axis}",
            )


def _check_pairs(pairs: Sequence[Sequence[str]], axes: Sequence[str]) -> None:
    for number, pair in enumerate(pairs):
        path = f"zip.{number}"
        for axis in pair:
            if axis not in axes:
                raise ConfigError(
                    f"unknown axis {axis!r}{nearest(axis, axes)} (axes: {', '.join(axes)})",
                    path=path,
                )
            if sum(axis in other for other in pairs) > 1 or list(pair).count(axis) > 1:
                raise ConfigError(f"{axis!r} stands twice; an axis moves in one list", path=path)
        if len(pair) < 2:
            raise ConfigError(f"must be two axes or more, but got {list(pair)}; add one", path=path)


class Exclusions:
    """Combinations that a file leaves out, and which of its rules have left out one."""

    def __init__(self, rules: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> None:
        """Takes rules (axis -> value, or list of values) and the axes of the file."""
        if len(rules) > MAX_RULES:
            raise ConfigError(
                f"must be at most {MAX_RULES} rules, but are {len(rules):,}; name the combinations "
                "that are wanted, in a list of grids",
                path="exclude",
            )
        self.rules, self._used = rules, set[int]()
        self._wanted = [{axis: wanted_ones(w) for axis, w in rule.items()} for rule in rules]
        for number, rule in enumerate(rules):
            for axis in rule:
                if axis not in axes:
                    raise ConfigError(
                        f"unknown axis {axis!r}{nearest(axis, axes)} "
                        f"(axes: {', '.join(axes) or 'none'})",
                        path=f"exclude.{number}",
                    )

    def leave_out(self, axes: Values) -> bool:
        """Whether a rule names this combination."""
        found = [
            number
            for number, rule in enumerate(self._wanted)
            if all(axis in axes and identity(axes[axis]) in ones for axis, ones in rule.items())
        ]
        self._used.update(found)
        return bool(found)

    def check_used(self) -> None:
        """Refuse a rule that has left out nothing."""
        for number, rule in enumerate(self.rules):
            if number not in self._used:
                raise ConfigError(
                    f"{dict(rule)} matches no combination of the grid", path=f"exclude.{number}"
                )


def all_combinations(grids: Sequence[Grid], exclusions: Exclusions) -> list[tuple[Grid, Values]]:
    """The combinations of all grids that no rule leaves out."""
    kept: list[tuple[Grid, Values]] = []
    looked_at = 0
    for grid in grids:
        for axes in grid.combinations():
            looked_at += 1
            if not exclusions.leave_out(axes):
                kept.append((grid, axes))
            if len(kept) > MAX_TRIALS or looked_at > MAX_COMBINATIONS:
                most, of_what = MAX_TRIALS, "trials"
                if len(kept) <= MAX_TRIALS:
                    most, of_what = MAX_COMBINATIONS, "combinations, excluded ones included"
                sizes = [f"{a} {len(grid.values(a)):,}" for a in grid.axes]
                raise ConfigError(
                    f"must be at most {most:,} {of_what}, but is more: {', '.join(sizes)} values; "
                    "split the sweep, or pair axes with `zip`",
                    path=grid.path,
                )
    return kept
