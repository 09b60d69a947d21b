"""Bootstrap over seeds: what the numbers would be with other seeds of the same configurations.

The independent units of a cell are its tokenizers, or its seeds where it has one tokenizer. Of n
units each resample draws n - 1 with replacement: its means then scatter as the mean of n units
does (Rao and Wu 1988), where n draws would make the few seeds of a sweep look too certain. Cells
of the same tokenizers, such as those of several generator sizes, share their draws: a tokenizer
that is good for one size is good for all.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from analysis.cells.cells import Cells

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """How seeds are resampled."""

    num_resamples: int = 2000
    level: float = 0.95
    """Share of intervals that should hold the true value, 0 to 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1 or not 0 < self.level < 1:
            raise ValueError(
                "num_resamples must be positive and level between 0 and 1, but got"
                f" {self.num_resamples} and {self.level:g}; 2000 and 0.95 are usual"
            )


def draw_means(
    cells: Cells, metrics: Sequence[str], config: BootstrapConfig
) -> NDArray[np.float64]:
    """The cells' own means, and behind them what these would be with other seeds.

    What is computed of the first axis is the estimate in its first place and its resamples in the
    others. A cell with one unit stays as it is in every resample: see `explain_no_interval`.

    Returns:
        Array of shape (1 + resamples, lines of `cells.points`, metrics).
    """
    generator = np.random.default_rng(config.seed)
    sums, counts, of_cell = _sum_units(cells, metrics)
    means = np.empty((1 + config.num_resamples, len(cells.points), len(metrics)))
    means[0] = cells.points[list(metrics)].to_numpy(dtype=float)
    draws: dict[Hashable, NDArray[np.intp]] = {}
    owners = _find_owners(cells, cells.points)
    for position, (units, owner) in enumerate(zip(of_cell, owners, strict=True)):
        if owner not in draws:
            shape = (config.num_resamples, max(len(units) - 1, 1))
            draws[owner] = generator.integers(0, len(units), shape)
        drawn = units[draws[owner]]
        means[1:, position] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def percentile_interval(
    resampled: NDArray[np.float64], estimate: float, *, num_freedoms: int, config: BootstrapConfig
) -> Interval:
    """The interval around an estimate as wide as the middle of the resampled values is.

    The resamples' deviations from their own mean are stretched by the ratio of Student's to the
    normal quantile, since the scatter itself is known from few seeds only. They are not taken from
    the estimate: an area is no linear function of the means, so that all resamples of two seeds can
    lie on one side of it, and the interval would leave out what it is an interval of.

    A resample without a value (NaN) is left out; where none has one, both ends are NaN.
    """
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - config.level) / 2
    stretch = t.ppf(1 - tail, max(num_freedoms, 1)) / norm.ppf(1 - tail)
    low, high = np.quantile(known, [tail, 1 - tail], method="nearest")
    # A resample that does not reach a target is at minus infinity and has no mean.
    finite = known[np.isfinite(known)]
    middle = finite.mean() if len(finite) else estimate
    below, above = min(low - middle, 0.0), max(high - middle, 0.0)
    return float(estimate + stretch * below), float(estimate + stretch * above)


def estimate_interval(
    cells: Cells, points: pd.DataFrame, values: NDArray[np.float64], config: BootstrapConfig
) -> Interval | None:
    """The interval of a number made from the means of some `points` of the cells; `values` are the
    number and those of the resamples of `draw_means`. None where `explain_no_interval` says why."""
    if explain_no_interval(points):
        return None
    freedoms = count_freedoms(cells, points)
    return percentile_interval(values[1:], values[0], num_freedoms=freedoms, config=config)


def count_units(points: pd.DataFrame) -> pd.Series:
    """Independent units of each cell: tokenizers where there are several, else seeds."""
    return points["num_tokenizers"].where(points["num_tokenizers"] > 1, points["num_seeds"])


def count_freedoms(cells: Cells, points: pd.DataFrame) -> int:
    """Units less cells, the freedoms behind the scatter; cells of equal tokenizers count once."""
    by_owner = dict(zip(_find_owners(cells, points), count_units(points), strict=True))
    return int(sum(count - 1 for count in by_owner.values()))


def explain_no_interval(points: pd.DataFrame) -> str:
    """Why these cells give no interval: empty where each has two units or more."""
    single = int((count_units(points) < 2).sum())
    if not single:
        return ""
    return f"no interval: {single} of {len(points)} configurations have fewer than two seeds"


def _find_owners(cells: Cells, points: pd.DataFrame) -> list[Hashable]:
    """Owners of each cell's draws: its tokenizers if several, else the cell alone."""
    sets = cells.tokenizers
    return [sets[cell] if len(sets[cell]) > 1 else cell for cell in points["cell"]]


def _sum_units(
    cells: Cells, metrics: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[NDArray[np.intp]]]:
    """Each unit's sum and count per metric, and the units of each line of the points.

    A tokenizer's own measures count once, however many rows share it. Tokenizers are in the order
    of their keys, so that cells of the same ones can share draws.
    """
    rows = cells.rows
    several = rows.groupby("cell")["tokenizer_key"].transform("nunique", dropna=False) > 1
    unit = rows["tokenizer_key"].fillna("").where(several, rows["row_id"])
    rows = rows.assign(unit=unit).sort_values("unit", kind="stable")
    units = rows.groupby(["cell", "unit"], sort=False)[list(metrics)]
    sums, counts, averages = units.sum(min_count=1), units.count(), units.mean()
    for metric in metrics:
        if cells.measures[metric].of_tokenizer:
            sums[metric], counts[metric] = averages[metric], 1
    positions = sums.reset_index().groupby("cell", sort=False).indices
    of_cell = [np.asarray(positions[cell], dtype=np.intp) for cell in cells.points["cell"]]
    return sums.to_numpy(dtype=float), counts.to_numpy(dtype=float), of_cell
