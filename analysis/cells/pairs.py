"""Cells and those that they are compared with, for every axis that is compared.

Everything that is said of one value of an axis against another (effects, gains, changes of slope,
speed-ups) is said of these pairs: one cell has the axis's baseline, all other axes are held, and
both were trained alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.cells.lines import TRAINED, Axes, Axis

TRAINING = {"tokenizer_images": "tokenizer", "generator_images": "generator"}
"""Columns of training images, and what was trained on them."""


@dataclass(frozen=True, kw_only=True)
class UnlikePair:
    """In words: a cell, the value it would be compared with, and how their training differs."""

    cell: str
    base: str
    reason: str


def find_pairs(points: pd.DataFrame, axes: Axes) -> pd.DataFrame:
    """Finds the cells that have one to be compared with.

    Returns:
        One line a pair, axis by axis in the order of the points: `axis` (its column), `cell` and
        `base`, their labels in the index of the points, and `difference`, what an axis changes
        in the training, in words.
    """
    rivals = _find_rivals(points, axes)
    return rivals[rivals["is_alike"]].drop_duplicates(["axis", "cell"]).reset_index(drop=True)


def find_unlike_pairs(points: pd.DataFrame, axes: Axes) -> list[UnlikePair]:
    """Finds cells that have a counterpart, but none that was trained alike, for each axis."""
    rivals = _find_rivals(points, axes)
    compared = rivals.groupby(["axis", "cell"])["is_alike"].transform("any").astype(bool)
    unlike = rivals[~compared].drop_duplicates(["axis", "cell"])
    base = {axis.column: axis.text(axis.baseline) for axis in axes.compared}
    return [
        UnlikePair(
            cell=str(points.loc[pair["cell"], "cell"]),
            base=base[pair["axis"]],
            reason=f"unlike training: {pair['difference']}",
        )
        for pair in unlike.to_dict("records")
    ]


def _find_rivals(points: pd.DataFrame, axes: Axes) -> pd.DataFrame:
    """Cells, each with every counterpart and how their training differs."""
    pairs = [pair for axis in axes.compared for pair in _pair_axis(points, axes, axis)]
    rivals = pd.DataFrame(pairs, columns=["axis", "cell", "base"])
    sides = [
        points.loc[rivals[side], [*TRAINING, "sweep"]].reset_index(drop=True)
        for side in ("cell", "base")
    ]
    differs = pd.concat([(sides[0][c] - sides[1][c]).abs() > 0 for c in TRAINING], axis=1)
    # Trials of one sweep differ in its axes alone, so a declared axis moved the training itself.
    declared = [axis.column for axis in axes.compared if axis.is_declared]
    is_own = rivals["axis"].isin(declared) & (sides[0]["sweep"] == sides[1]["sweep"])
    unlike = differs.any(axis=1)
    texts = [
        _say_difference(sides[0].loc[place], sides[1].loc[place]) if unlike[place] else ""
        for place in rivals.index
    ]
    return rivals.assign(difference=texts, is_alike=(is_own | ~unlike).astype(bool))


def _pair_axis(points: pd.DataFrame, axes: Axes, axis: Axis) -> Iterator[tuple[str, Any, Any]]:
    held = [
        column for column in axes.columns if column not in (axis.column, TRAINED, *axis.moves_with)
    ]
    values = points[axis.column]
    bases = points[values == axis.baseline]
    others = points[values.notna() & (values != axis.baseline)]
    # An axis that is not in force at the baseline, as a weight without its loss, holds nothing.
    patterns = (
        bases[held].isna().groupby(held, sort=False).indices if held else {(): range(len(bases))}
    )
    found: list[tuple[Any, Any]] = []
    for missing, places in sorted(patterns.items(), key=lambda each: sum(_as_tuple(each[0]))):
        known = [
            c for c, is_missing in zip(held, _as_tuple(missing), strict=True) if not is_missing
        ]
        mine = bases.iloc[list(places)]
        left = others[known].assign(cell=others.index)
        right = mine[known].assign(base=mine.index)
        both = left.merge(right, on=known) if known else left.merge(right, how="cross")
        found += both[["cell", "base"]].itertuples(index=False, name=None)
    order = {label: place for place, label in enumerate(points.index)}
    yield from ((axis.column, *pair) for pair in sorted(found, key=lambda pair: order[pair[0]]))


def _as_tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _say_difference(cell: pd.Series, base: pd.Series) -> str:
    """How the training of two cells differs; an unknown number of images differs from none."""
    return "; ".join(
        f"{cell[column]:,.0f} against {base[column]:,.0f} images of the {name}"
        for column, name in TRAINING.items()
        if abs(cell[column] - base[column]) > 0
    )
