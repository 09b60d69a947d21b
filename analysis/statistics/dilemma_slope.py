"""The dilemma as a number: the slope of log generation against log reconstruction distance.

Along a line, of latent dims as a rule, the reconstruction distance falls. A slope of -1 says that
halving it doubles the generation distance; a slope of 0 or more is no dilemma (arXiv 2501.01423,
section 1).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells.cells import Cells, split_lines
from analysis.cells.lines import Axis
from analysis.cells.pairs import find_pairs
from analysis.statistics.bootstrap import (
    BootstrapConfig,
    Interval,
    draw_means,
    estimate_interval,
    explain_no_interval,
)

AXES = ["rfid", "gfid"]


@dataclass(frozen=True, kw_only=True)
class SlopeChange:
    """How one value of an axis changes the slope."""

    axis: Axis
    dims: tuple[float, ...]
    """Places on the line that both have, such as latent dims."""
    change: float
    """Slope less the baseline's, over these; above 0 the value eases the dilemma."""
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class DilemmaSlope:
    """The slope of one line, and how it differs from those it is compared with."""

    line: str
    slope: float
    """Decades of generation distance per decade of reconstruction distance; negative: dilemma."""
    interval: Interval | None
    """Bootstrap interval of the slope; None where a cell has fewer than two seeds."""
    no_interval: str
    """Why there is no interval; empty where there is one."""
    changes: tuple[SlopeChange, ...]
    """One an axis of which the line has another value than the baseline, where both lines have
    two places or more in common."""

    @property
    def shows_dilemma(self) -> bool | None:
        """Whether the slope's interval lies below 0; None without an interval."""
        return None if self.interval is None else self.interval[1] < 0


def compute_dilemma_slopes(
    cells: Cells, *, config: BootstrapConfig | None = None
) -> list[DilemmaSlope]:
    """Computes the slope of each line with two places or more.

    Least squares on the logarithms of the cells' means; a distance of 0 or less has none.
    """
    positive = cells.points[(cells.points[AXES] > 0).all(axis=1)]
    if positive.empty:
        return []
    config = config or BootstrapConfig()
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(draw_means(cells, AXES, config))
    pairs = find_pairs(positive, cells.axes)
    line_of = positive["line"].loc[pairs["cell"]].to_numpy()
    slopes = []
    for name, line in split_lines(positive):
        if line["along"].nunique() < 2 or np.ptp(line["rfid"].to_numpy()) == 0:
            continue
        fitted = _fit_line(logs, line)
        shared = pairs[line_of == name]
        changes = (
            _compute_change(cells, logs, axis, shared[shared["axis"] == axis.column], config)
            for axis in cells.axes.compared
        )
        slopes.append(
            DilemmaSlope(
                line=name,
                slope=float(fitted[0]),
                interval=estimate_interval(cells, line, fitted, config),
                no_interval=explain_no_interval(line),
                changes=tuple(change for change in changes if change is not None),
            )
        )
    return slopes


def _compute_change(
    cells: Cells,
    logs: NDArray[np.float64],
    axis: Axis,
    pairs: pd.DataFrame,
    config: BootstrapConfig,
) -> SlopeChange | None:
    if len(pairs) < 2:
        return None
    sides = [cells.points.loc[pairs[side]] for side in ("cell", "base")]
    changes = _fit_line(logs, sides[0]) - _fit_line(logs, sides[1])
    if not np.isfinite(changes[0]):
        return None
    return SlopeChange(
        axis=axis,
        dims=tuple(sorted(sides[0]["along"].tolist())),
        change=float(changes[0]),
        interval=estimate_interval(cells, pd.concat(sides), changes, config),
    )


def fit_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes of least squares (...) through points (..., points); NaN where all x are equal."""
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = (centred**2).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, (centred * y).sum(axis=-1) / spread, np.nan)


def _fit_line(logs: NDArray[np.float64], line: pd.DataFrame) -> NDArray[np.float64]:
    mine = logs[:, line.index.to_numpy()]
    return fit_slope(mine[..., 0], mine[..., 1])
