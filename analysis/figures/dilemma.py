"""The optimization dilemma: generation and PSNR against the latent dim, per generator size.

More latent channels reconstruct better and are harder to generate (arXiv 2501.01423, section 1);
where that happens, both rows of the figure rise to the right.
"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.cells.cells import Setting, compute_cells, split_lines
from analysis.figures.column import (
    describe_setting,
    draw_line,
    finish_column_figure,
    label_panel,
    new_column_figure,
)
from analysis.figures.marks import FONT_SIZE, Marks, choose_marks, scale_axis

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
        A figure one column wide, two columns with more than three sizes.

    Raises:
        ValueError: If there are no points.
    """
    if data.points.empty:
        raise ValueError(
            "the dilemma figure must have at least one point with a generation distance, but none"
            f" came ({len(data.gaps)} rows left out); finish the sweep first"
        )
    sizes, setting = data.sizes(), data.setting
    marks = choose_marks(data.points)
    figure, panels = new_column_figure(
        2, len(sizes), share_x=True, share_y=True, panel_inch=PANEL_INCH
    )
    for column, size in enumerate(sizes):
        for panel, metric in zip(panels[:, column], ("gfid", "psnr"), strict=True):
            _draw_panel(panel, data.points, marks, metric=metric, size=size)
        panels[0, column].set_title(f"generator {size}", fontsize=FONT_SIZE, loc="left")
    label_panel(panels[0, 0], y=f"{setting.distance_name}\nlower is better")
    label_panel(panels[1, 0], y="PSNR (dB)\nhigher is better")
    panels[1, (len(sizes) - 1) // 2].set_xlabel("latent dim (channels)", fontsize=FONT_SIZE)
    notes = [
        *describe_setting(setting, len(data.gaps)),
        f"{setting.num_reconstructions} reconstructions",
        f"{setting.generator_images} training images",
        f"guidance {setting.guidance}",
    ]
    finish_column_figure(figure, marks, notes)
    return figure


def _draw_panel(axes: Axes, points: pd.DataFrame, marks: Marks, *, metric: str, size: str) -> None:
    for alignment, line_size, line in split_lines(points):
        if line_size == size:
            draw_line(axes, line, "latent_dim", metric, marks.of_line(alignment, size))
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
