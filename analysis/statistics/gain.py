"""Frontier gain: how much area alignment adds to the frontier of reconstruction and generation.

The area (hypervolume) that the cells with alignment dominate is set against that of the cells
without, over the latent dims that both have; for each generator size, and for all sizes at once.
It is taken in decades of what the frontier figure draws logarithmically.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells.cells import Cells
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

ALL_SIZES = "all sizes"
AXES = ["rfid", "gfid"]
REFERENCE_RULE = (
    "the reference point is the worst single measurement of the sizes compared on either axis,"
    f" and {REFERENCE_MARGIN:.0%} of the range beyond it, in the figure's scale"
)

GainVerdict = Literal["larger", "smaller", "not told apart", "no interval"]


@dataclass(frozen=True, kw_only=True)
class FrontierGain:
    """The frontier with one alignment against the one without."""

    alignment: str
    """Alignment label."""
    generator_size: str
    """Generator size, or `ALL_SIZES`."""
    latent_dims: tuple[float, ...]
    """Latent dims that enter, channels: those which both have."""
    omitted_dims: tuple[float, ...]
    """Latent dims that only one of both has, channels."""
    aligned: float
    """Hypervolume with alignment, in products of the axes' units (decades where logarithmic)."""
    unaligned: float
    """Hypervolume without."""
    difference_interval: Interval | None
    """Bootstrap interval of the difference; None where a cell has fewer than two seeds."""
    ratio_interval: Interval | None
    """Bootstrap interval of the ratio; None likewise."""
    no_interval: str
    """Why there is no interval; empty where there is one."""
    reference: tuple[float, float]
    """Reference point, reconstruction and generation distance."""
    scales: tuple[Scale, Scale]
    """Scale of reconstruction and of generation."""

    @property
    def difference(self) -> float:
        """Hypervolume with alignment minus without; above 0 alignment is better."""
        return self.aligned - self.unaligned

    @property
    def ratio(self) -> float:
        """Hypervolume with alignment over without; above 1 alignment is better, NaN over 0."""
        return self.aligned / self.unaligned if self.unaligned > 0 else float("nan")

    @property
    def verdict(self) -> GainVerdict:
        """Whether the frontier with alignment is larger, where the interval of the difference
        leaves out 0."""
        if self.difference_interval is None:
            return "no interval"
        low, high = self.difference_interval
        return "larger" if low > 0 else "smaller" if high < 0 else "not told apart"


def compute_gains(
    cells: Cells, *, reference: Interval | None = None, config: BootstrapConfig | None = None
) -> list[FrontierGain]:
    """Computes the frontier gain of each alignment, per generator size and over all sizes.

    Args:
        cells: From `compute_cells(table, needs=("rfid", "gfid"))`.
        reference: Reference point in the distances' units; by `REFERENCE_RULE` if None.
        config: How seeds are resampled; 2000 resamples for a 95 % interval if None.

    Returns:
        Gains in the order of the cells, `ALL_SIZES` last where there are several sizes; empty
        where no alignment has a latent dim in common with its baseline.
    """
    if cells.points.empty:
        return []
    config = config or BootstrapConfig()
    scales = (_choose_scale(cells, "rfid"), _choose_scale(cells, "gfid"))
    means = _to_scale(draw_means(cells, AXES, config), scales)
    gains = []
    for aligned, unaligned, omitted, size in _pair_frontiers(cells.points):
        rows = cells.rows if size == ALL_SIZES else cells.rows[cells.rows["generator_size"] == size]
        corner = (
            choose_reference(_to_scale(rows[AXES].to_numpy(dtype=float), scales))
            if reference is None
            else _to_scale(np.array(reference), scales)
        )
        both = pd.concat([aligned, unaligned])
        with_it, without = (
            compute_hypervolume(means[:, side.index.to_numpy()], corner)
            for side in (aligned, unaligned)
        )
        # A ratio has no interval where a resample divides by nothing.
        has_ratio = (without > 0).all()
        ratio = estimate_interval(cells, both, with_it / without, config) if has_ratio else None
        gains.append(
            FrontierGain(
                alignment=str(aligned["alignment"].iloc[0]),
                generator_size=size,
                latent_dims=_list_dims(aligned),
                omitted_dims=omitted,
                aligned=float(with_it[0]),
                unaligned=float(without[0]),
                difference_interval=estimate_interval(cells, both, with_it - without, config),
                ratio_interval=ratio,
                no_interval=explain_no_interval(both),
                reference=_from_scale(corner, scales),
                scales=scales,
            )
        )
    return gains


def _choose_scale(cells: Cells, metric: str) -> Scale:
    """The figure's scale, unless a single seed is not positive and has no logarithm."""
    return choose_scale(cells.points[metric]) if (cells.rows[metric] > 0).all() else "linear"


def _pair_frontiers(
    points: pd.DataFrame,
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, tuple[float, ...], str]]:
    """Cells with and without each alignment that agree in size, latent dim and training."""
    pairs = find_pairs(points)
    sizes = [str(size) for size in points["generator_size"].unique()]
    for alignment, mine in pairs.groupby("alignment", sort=False):
        baseline = points.loc[mine["base"].iloc[0], "alignment"]
        either = points[points["alignment"].isin([alignment, baseline])]
        for size in [*sizes, ALL_SIZES] if len(sizes) > 1 else sizes:
            both = mine if size == ALL_SIZES else mine[mine["generator_size"] == size]
            known = either if size == ALL_SIZES else either[either["generator_size"] == size]
            if both.empty:
                continue
            alone = known[~known.duplicated(["generator_size", "latent_dim"], keep=False)]
            yield points.loc[both["cell"]], points.loc[both["base"]], _list_dims(alone), size


def _list_dims(points: pd.DataFrame) -> tuple[float, ...]:
    return tuple(sorted(points["latent_dim"].unique().tolist()))


def _to_scale(values: NDArray[np.float64], scales: tuple[Scale, Scale]) -> NDArray[np.float64]:
    """Decades on the axes that are logarithmic; the last axis holds the two distances."""
    scaled = np.array(values, dtype=float)
    for axis, scale in enumerate(scales):
        if scale == "log":
            scaled[..., axis] = np.log10(scaled[..., axis])
    return scaled


def _from_scale(corner: NDArray[np.float64], scales: tuple[Scale, Scale]) -> tuple[float, float]:
    x, y = (
        float(10**value if scale == "log" else value)
        for value, scale in zip(corner, scales, strict=True)
    )
    return x, y
