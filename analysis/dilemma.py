"""The optimization dilemma: generation and PSNR against the latent dim, per generator size.

More latent channels reconstruct better and are harder to generate (arXiv 2501.01423, section 1);
where that happens, both rows of the figure rise to the right.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.cells import Setting, compute_cells, split_lines
from analysis.marks import (
    FONT_SIZE,
    HEIGHT_INCH,
    TITLE_SIZE,
    WIDTH_INCH,
    add_footnote,
    add_legend,
    blank_figure,
    choose_marks,
    freeze_layout,
    scale_axis,
    style_axes,
)

PANEL_INCH = 1.3


@dataclass(frozen=True, kw_only=True)
class DilemmaData:
    """What the dilemma figure shows."""

    points: pd.DataFrame
    """One line a cell: the columns of `Cells.points`; PSNR is NaN where it was not measured."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`."""
    setting: Setting
    """What the points have in common."""

    def sizes(self) -> list[str]:
        """Generator sizes from the smallest to the largest, one column of panels each."""
        order = self.points.sort_values("generator_params", kind="stable")
        return [str(size) for size in order["generator_size"].unique()]


def compute_dilemma(table: pd.DataFrame) -> DilemmaData:
    """Computes generation distance and PSNR by latent dim.

    Args:
        table: Rows of one protocol and one guidance setting, as from `split_by_protocol`.

    Returns:
        The figure's data; without points where no row has a generation distance.

    Raises:
        ValueError: If protocols are mixed, or a cell holds one repetition twice.
    """
    cells = compute_cells(table, needs=("gfid",))
    return DilemmaData(points=cells.points, gaps=cells.gaps, setting=cells.setting)


def draw_dilemma(data: DilemmaData) -> Figure:
    """Draws generation distance (top) and PSNR (bottom), one column per generator size.

    Args:
        data: From `compute_dilemma`, with at least one point.

    Returns:
        A figure of 6.5 × 4.5 inches, wider with more than three sizes, at 200 dots per inch.

    Raises:
        ValueError: If there are no points.
    """
    if data.points.empty:
        raise ValueError(
            "the dilemma figure must have at least one point with a generation distance, but none"
            f" came ({len(data.gaps)} rows left out); finish the sweep first"
        )
    sizes, setting = data.sizes(), data.setting
    figure = blank_figure(max(WIDTH_INCH, PANEL_INCH * (len(sizes) + 2)), HEIGHT_INCH)
    panels = figure.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
    for column, size in enumerate(sizes):
        for panel, metric in zip(panels[:, column], ("gfid", "psnr"), strict=True):
            _draw_panel(panel, data.points, metric=metric, size=size)
        panels[0, column].set_title(f"generator {size}", fontsize=TITLE_SIZE)
        panels[1, column].set_xlabel("latent dim (channels)", fontsize=FONT_SIZE)
    panels[0, 0].set_ylabel(
        f"generation:\n{setting.distance_name}\nlower is better", fontsize=FONT_SIZE
    )
    panels[1, 0].set_ylabel("reconstruction:\nPSNR (dB)\nhigher is better", fontsize=FONT_SIZE)
    figure.suptitle(
        f"Latent dim against generation and PSNR: {setting.dataset}, {setting.resolution} px",
        fontsize=TITLE_SIZE,
        x=0.01,
        ha="left",
    )
    add_legend(figure, choose_marks(data.points), with_front=False)
    add_footnote(figure, setting, len(data.gaps))
    freeze_layout(figure)
    return figure


def _draw_panel(axes: Axes, points: pd.DataFrame, *, metric: str, size: str) -> None:
    style_axes(axes)
    marks = choose_marks(points)
    for alignment, line_size, line in split_lines(points):
        known = line[np.isfinite(line[metric])]
        if line_size != size or known.empty:
            continue
        errors = known[f"{metric}_se"].fillna(0.0).to_numpy()
        look: dict[str, Any] = marks.of_line(alignment, size)
        x, y = known["latent_dim"].to_numpy(), known[metric].to_numpy()
        axes.errorbar(x, y, yerr=errors, elinewidth=0.8, **look)
    if points[metric].notna().sum() == 0:
        axes.text(
            0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", fontsize=FONT_SIZE
        )
    scale_axis(axes, "y", points[metric])
    _tick_dims(axes, sorted(points["latent_dim"].unique()))


def _tick_dims(axes: Axes, dims: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(dims))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{dim:g}" for dim in dims]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(dims[0] / 1.3, dims[-1] * 1.3)
