"""Scaling: generation distance against the generator's parameters and the training FLOPs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from analysis.cells.cells import Setting, compute_cells
from analysis.figures.column import (
    describe_setting,
    draw_line,
    finish_column_figure,
    label_panel,
    new_column_figure,
)
from analysis.figures.marks import choose_marks, scale_axis

COSTS = {
    "generator_params": "generator parameters",
    "train_flops": "training FLOPs",
}
"""What generation is held against: column of `Cells.points` and its axis label."""
WIDE_FROM = 100.0
"""Ratio of the largest to the smallest cost from which decades are ticked."""


@dataclass(frozen=True, kw_only=True)
class ScalingData:
    """What the scaling figure shows."""

    points: pd.DataFrame
    """One line a cell: the columns of `Cells.points`; a cost is NaN where it is not known."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`."""
    setting: Setting
    """What the points have in common."""

    def costs(self) -> list[str]:
        """The columns of `COSTS` that some point has."""
        return [cost for cost in COSTS if np.isfinite(self.points[cost]).any()]


def compute_scaling(table: pd.DataFrame) -> ScalingData:
    """Computes generation distance by cost, a line per alignment and latent dim.

    Args:
        table: Rows of one protocol and one guidance setting, as from `split_by_protocol`.

    Returns:
        The figure's data; without points where no row has a generation distance.

    Raises:
        ValueError: If protocols are mixed, or a cell holds one repetition twice.
    """
    cells = compute_cells(table, needs=("gfid",))
    return ScalingData(points=cells.points, gaps=cells.gaps, setting=cells.setting)


def draw_scaling(data: ScalingData) -> Figure:
    """Draws generation distance against each cost that is known.

    Args:
        data: From `compute_scaling`, with at least one point that has a cost.

    Returns:
        A figure one column wide.

    Raises:
        ValueError: If no point has a cost.
    """
    costs = data.costs()
    if not costs:
        raise ValueError(
            "the scaling figure must have at least one point with parameters or training FLOPs,"
            f" but none came ({len(data.gaps)} rows left out); finish the sweep first"
        )
    points = data.points.assign(shape=[f"d={dim:g}" for dim in data.points["latent_dim"]])
    marks = choose_marks(points, "shape")
    figure, panels = new_column_figure(1, len(costs), share_x=False, share_y=True)
    for axes, cost in zip(panels[0], costs, strict=True):
        for (alignment, shape), line in points.groupby(["alignment", "shape"], sort=False):
            look = marks.of_line(str(alignment), str(shape))
            draw_line(axes, line.sort_values(cost), cost, "gfid", look)
        _scale_cost(axes, points[cost])
        label_panel(axes, x=COSTS[cost])
    scale_axis(panels[0, 0], "y", points["gfid"])
    label_panel(panels[0, 0], x=COSTS[costs[0]], y=data.setting.distance_name)
    trained = "FLOPs are of tokenizer and generator" if "train_flops" in costs else ""
    footnote = [*describe_setting(data.setting, len(data.gaps)), trained]
    finish_column_figure(
        figure,
        marks,
        [
            *footnote,
            f"guidance {data.setting.guidance}",
            f"{data.setting.generator_images} training images",
        ],
    )
    return figure


def _scale_cost(axes: Axes, cost: pd.Series) -> None:
    """A logarithmic axis with prefixes; of a narrow range the ends are named."""
    known = cost[np.isfinite(cost) & (cost > 0)]
    axes.set_xscale("log")
    axes.set_xlim(known.min() / 1.2, known.max() * 1.2)
    axes.xaxis.set_major_formatter(EngFormatter(sep="", places=None))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if known.max() / known.min() >= WIDE_FROM:
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
    else:
        ends = [float(f"{value:.2g}") for value in (known.min(), known.max())]
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(ends))))
        axes.xaxis.set_minor_locator(NullLocator())
