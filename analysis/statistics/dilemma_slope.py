"""The dilemma as a number: the slope of log generation against log reconstruction distance.

Along a line of latent dims the reconstruction distance falls. A slope of -1 says that halving it
doubles the generation distance; a slope of 0 or more is no dilemma (arXiv 2501.01423, section 1).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells.cells import Cells, split_lines
from analysis.statistics.bootstrap import (
    BootstrapConfig,
    Interval,
    estimate_interval,
    explain_no_interval,
    resample_means,
)

AXES = ["rfid", "gfid"]


@dataclass(frozen=True, kw_only=True)
class DilemmaSlope:
    """The slope of one line, and how alignment changes it."""

    alignment: str
    """Alignment label of the line."""
    generator_size: str
    """Generator size of the line."""
    slope: float
    """Decades of generation distance per decade of reconstruction distance; negative: dilemma."""
    interval: Interval | None
    """Bootstrap interval of the slope; None where a cell has fewer than two seeds."""
    no_interval: str
    """Why there is no interval; empty where there is one."""
    shared_dims: tuple[float, ...]
    """Latent dims that the unaligned line has too; empty for an unaligned line, or under two."""
    change: float
    """Slope less the unaligned line's, over the shared dims; above 0 alignment eases the dilemma;
    NaN without shared dims."""
    change_interval: Interval | None
    """Bootstrap interval of the change; None likewise."""

    @property
    def shows_dilemma(self) -> bool | None:
        """Whether the slope's interval lies below 0; None without an interval."""
        return None if self.interval is None else self.interval[1] < 0


def compute_dilemma_slopes(
    cells: Cells, *, config: BootstrapConfig | None = None
) -> list[DilemmaSlope]:
    """Computes the slope of each line with two latent dims or more.

    Args:
        cells: From `compute_cells(table, needs=("rfid", "gfid"))`.
        config: How seeds are resampled; 2000 resamples for a 95 % interval if None.

    Returns:
        Slopes in the order of the cells. Least squares on the logarithms of the cells' means;
        cells with a distance of 0 or less have no logarithm and don't count.
    """
    positive = cells.points[(cells.points[AXES] > 0).all(axis=1)]
    if positive.empty:
        return []
    config = config or BootstrapConfig()
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = np.log(resample_means(cells, AXES, config))
    lines = {(name, size): line for name, size, line in split_lines(positive)}
    slopes = []
    for (alignment, size), line in lines.items():
        if line["latent_dim"].nunique() < 2 or np.ptp(line["rfid"].to_numpy()) == 0:
            continue
        slope, draws = _slope_of(line), _slopes_of(line, resampled)
        baseline = lines.get((str(line["baseline"].iloc[0]), size))
        dims = [] if baseline is None or baseline is line else _find_shared_dims(line, baseline)
        change, change_interval = float("nan"), None
        if baseline is not None and len(dims) > 1:
            sides = [side[side["latent_dim"].isin(dims)] for side in (line, baseline)]
            change = _slope_of(sides[0]) - _slope_of(sides[1])
            changes = _slopes_of(sides[0], resampled) - _slopes_of(sides[1], resampled)
            change_interval = estimate_interval(cells, pd.concat(sides), changes, change, config)
        is_known = np.isfinite(change)
        slopes.append(
            DilemmaSlope(
                alignment=alignment,
                generator_size=size,
                slope=slope,
                interval=estimate_interval(cells, line, draws, slope, config),
                no_interval=explain_no_interval(line),
                shared_dims=tuple(dims) if is_known else (),
                change=change,
                change_interval=change_interval if is_known else None,
            )
        )
    return slopes


def fit_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fits straight lines by least squares.

    Args:
        x: Array of shape (..., points), at least two points.
        y: Array of the same shape.

    Returns:
        Slopes, shape (...); NaN where all x are equal.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = (centred**2).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, (centred * y).sum(axis=-1) / spread, np.nan)


def _find_shared_dims(line: pd.DataFrame, baseline: pd.DataFrame) -> list[float]:
    """Latent dims of both whose generators have seen as many images; unknown is as many."""
    images = [side.set_index("latent_dim")["generator_images"] for side in (line, baseline)]
    dims = sorted(set(images[0].index) & set(images[1].index))
    return [dim for dim in dims if not abs(images[0][dim] - images[1][dim]) > 0]


def _slope_of(line: pd.DataFrame) -> float:
    logs = np.log(line[AXES].to_numpy(dtype=float))
    return float(fit_slope(logs[:, 0], logs[:, 1]))


def _slopes_of(line: pd.DataFrame, resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = resampled[:, line.index.to_numpy()]
    return fit_slope(logs[..., 0], logs[..., 1])
