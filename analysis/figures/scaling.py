"""Scaling: generation distance against the generator's parameters and the training FLOPs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from analysis.cells.cells import Cells
from analysis.cells.lines import SIZE, join_texts
from analysis.cells.lines import Axes as CellAxes
from analysis.figures.column import COLUMN_INCH, describe_setting, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points

COSTS = {"generator_params": "generator parameters", "train_flops": "training FLOPs"}
"""Horizontal axes of the panels: column of `Cells.points` and its label."""
WIDE_FROM = 100.0
"""Ratio of the largest to the smallest cost from which decades are ticked."""


def draw_scaling(cells: Cells, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws generation distance against each cost that is known, a line through the sizes."""
    costs, setting = cells.known(COSTS), cells.setting
    require_points(costs, "scaling", "point with parameters or training FLOPs", cells.gaps)
    points = name_shapes(cells.points, cells.axes)
    names = dict.fromkeys(costs, "") | {costs[0]: setting.distance_name}
    figure, grid, marks = draw_panels(
        points,
        [Panel(x=cost, y="gfid", x_label=COSTS[cost], y_label=names[cost]) for cost in costs],
        width_inch,
        lines=("colour", "shape"),
        cell_axes=cells.axes,
        num_columns=len(costs),
        share_y=True,
    )
    for axes, cost in zip(grid[0], costs, strict=True):
        _scale_cost(axes, points[cost])
    notes = [
        *describe_setting(setting, len(cells.gaps)),
        "FLOPs are of tokenizer and generator" if "train_flops" in costs else "",
        f"guidance {setting.guidance}",
        f"{setting.generator_images} training images",
    ]
    finish_column_figure(figure, marks, notes)
    return figure


def name_shapes(points: pd.DataFrame, axes: CellAxes) -> pd.DataFrame:
    """Adds `shape`: what tells lines through the sizes apart beside their colour."""
    rest = [axis for axis in axes.listed if axis.column != SIZE and axis not in axes.colours]
    return points.assign(shape=join_texts(points, rest))


def _scale_cost(axes: Axes, cost: pd.Series) -> None:
    known = cost[np.isfinite(cost) & (cost > 0)]
    axes.set_xscale("log")
    axes.set_xlim(known.min() / 1.2, known.max() * 1.2)
    axes.xaxis.set_major_formatter(EngFormatter(sep="", places=None))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if known.max() / known.min() >= WIDE_FROM:
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
    else:
        far = known.max() / known.min() >= 1.2  # Else two numbers would lie on each other.
        ends = [float(f"{value:.2g}") for value in (known.min(), known.max())[not far :]]
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(ends))))
        axes.xaxis.set_minor_locator(NullLocator())
