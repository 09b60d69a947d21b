"""Frontier gain: how much area a choice adds to the frontier of reconstruction and generation.

The area (hypervolume) that the cells with one value of an axis dominate is set against that of the
cells with its baseline, over the cells that both have; for each line, and for all lines at once.
It is taken in decades of what the frontier figure draws logarithmically.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells.cells import Cells
from analysis.cells.lines import SIZE, TRAINED, Axes, Axis
from analysis.cells.pairs import find_pairs
from analysis.statistics.bootstrap import (
    BootstrapConfig,
    Interval,
    draw_means,
    estimate_interval,
    explain_no_interval,
)
from analysis.statistics.hypervolume import REFERENCE_MARGIN, choose_reference, compute_hypervolume
from analysis.table.scales import Scale, choose_scale

ALL_SIZES, ALL_LINES = "all sizes", "all lines"
AXES = ["rfid", "gfid"]
REFERENCE_RULE = (
    "the reference point is the worst single measurement of the sizes compared on either axis,"
    f" and {REFERENCE_MARGIN:.0%} of the range beyond it, in the figure's scale"
)

GainVerdict = Literal["larger", "smaller", "not told apart", "no interval"]


@dataclass(frozen=True, kw_only=True)
class FrontierGain:
    """The frontier with one value of an axis against the one with its baseline."""

    axis: Axis
    along: Axis | None
    value: str
    place: str
    """What both sides share in words, such as the generator size; `ALL_SIZES` or `ALL_LINES`."""
    dims: tuple[str, ...]
    """Places on the line that enter, such as latent dims: those which both have."""
    omitted_dims: tuple[str, ...]
    """Places that only one of both has."""
    with_value: float
    """Hypervolume with the value, in products of the axes' units (decades where logarithmic)."""
    with_baseline: float
    difference_interval: Interval | None
    """Bootstrap interval; None where a cell has fewer than two seeds, as of the ratio."""
    ratio_interval: Interval | None
    no_interval: str
    """Why there is no interval; empty where there is one."""
    reference: tuple[float, float]
    """Reference point, reconstruction and generation distance."""
    scales: tuple[Scale, Scale]

    @property
    def difference(self) -> float:
        """Hypervolume less the baseline's; above 0 the value is better."""
        return self.with_value - self.with_baseline

    @property
    def ratio(self) -> float:
        """Hypervolume over the baseline's; above 1 the value is better, NaN over 0."""
        return self.with_value / self.with_baseline if self.with_baseline > 0 else float("nan")

    @property
    def verdict(self) -> GainVerdict:
        """Whether the interval of the difference leaves out 0, and on which side."""
        if self.difference_interval is None:
            return "no interval"
        low, high = self.difference_interval
        return "larger" if low > 0 else "smaller" if high < 0 else "not told apart"


def compute_gains(
    cells: Cells, *, reference: Interval | None = None, config: BootstrapConfig | None = None
) -> list[FrontierGain]:
    """Computes the frontier gain of each compared value, per line and over all lines, these last;
    the reference point, in the distances' units, is by `REFERENCE_RULE` if None."""
    if cells.points.empty:
        return []
    config = config or BootstrapConfig()
    scales = (_choose_scale(cells, "rfid"), _choose_scale(cells, "gfid"))
    means = _to_scale(draw_means(cells, AXES, config), scales)
    gains = []
    for axis, value, place, pairs in _pair_frontiers(cells.points, cells.axes):
        sides = [cells.points.loc[pairs[side]] for side in ("cell", "base")]
        known = cells.points[cells.points[axis.column].isin((value, axis.baseline))]
        rows = cells.rows
        if place not in (ALL_SIZES, ALL_LINES):
            known = known[_place_of(known, axis, cells.axes) == place]
            rows = rows[rows[SIZE].isin(known[SIZE])]
        names = cells.axes.name(known, without=[axis, *_trained(cells.axes)])
        corner = (
            choose_reference(_to_scale(rows[AXES].to_numpy(dtype=float), scales))
            if reference is None
            else _to_scale(np.array(reference), scales)
        )
        both = pd.concat(sides)
        with_it, without = (
            compute_hypervolume(means[:, side.index.to_numpy()], corner) for side in sides
        )
        # A ratio has no interval where a resample divides by nothing.
        has_ratio = (without > 0).all()
        ratio = estimate_interval(cells, both, with_it / without, config) if has_ratio else None
        gains.append(
            FrontierGain(
                axis=axis,
                along=cells.axes.along,
                value=axis.text(value),
                place=place,
                dims=_list_dims(sides[0], cells.axes),
                omitted_dims=_list_dims(known[~names.duplicated(keep=False)], cells.axes),
                with_value=float(with_it[0]),
                with_baseline=float(without[0]),
                difference_interval=estimate_interval(cells, both, with_it - without, config),
                ratio_interval=ratio,
                no_interval=explain_no_interval(both),
                reference=(_from_scale(corner[0], scales[0]), _from_scale(corner[1], scales[1])),
                scales=scales,
            )
        )
    return gains


def _choose_scale(cells: Cells, metric: str) -> Scale:
    """The figure's scale, unless a single seed is not positive and has no logarithm."""
    return choose_scale(cells.points[metric]) if (cells.rows[metric] > 0).all() else "linear"


def _pair_frontiers(
    points: pd.DataFrame, axes: Axes
) -> Iterator[tuple[Axis, Any, str, pd.DataFrame]]:
    """Pairs of each compared value, by what both sides share but for the place on the line."""
    found = find_pairs(points, axes)
    for axis in axes.compared:
        mine = found[found["axis"] == axis.column]
        values = points[axis.column].loc[mine["cell"]].to_numpy()
        places = _place_of(points, axis, axes)
        others = [each for each in axes.listed if each not in (axis, axes.along, *_trained(axes))]
        everywhere = ALL_SIZES if [each.column for each in others] == [SIZE] else ALL_LINES
        for value in dict.fromkeys(values):
            pairs = mine[values == value]
            place = places.loc[pairs["cell"]].to_numpy()
            names = list(dict.fromkeys([*places[points[axis.column] == value], *place]))
            for name in names:
                if (place == name).any():
                    yield axis, value, name, pairs[place == name]
            if places.nunique() > 1:
                yield axis, value, everywhere, pairs


def _place_of(points: pd.DataFrame, axis: Axis, axes: Axes) -> pd.Series:
    """What else a line is: all of its axes but the compared one."""
    return axes.name(points, without=[axis, axes.along, *_trained(axes)])


def _trained(axes: Axes) -> list[Axis]:
    """How long a tokenizer was trained is no place: pairs are trained alike, or it is compared."""
    return [axis for axis in axes.listed if axis.column == TRAINED]


def _list_dims(points: pd.DataFrame, axes: Axes) -> tuple[str, ...]:
    along = axes.along
    if along is None:
        return ()
    return tuple(along.value_text(value) for value in sorted(points["along"].unique().tolist()))


def _to_scale(values: NDArray[np.float64], scales: tuple[Scale, Scale]) -> NDArray[np.float64]:
    """Decades on the axes that are logarithmic; the last axis holds the two distances."""
    scaled = np.array(values, dtype=float)
    for axis, scale in enumerate(scales):
        if scale == "log":
            scaled[..., axis] = np.log10(scaled[..., axis])
    return scaled


def _from_scale(value: float, scale: Scale) -> float:
    return float(10**value if scale == "log" else value)
