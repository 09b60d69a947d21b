"""Panels of lines: the body of every figure that holds one column of the points against another."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes as MatplotlibAxes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.cells.lines import SIZE, Axes, join_texts
from analysis.figures.column import AXIS_INCH, COLUMN_INCH, MAX_COLUMNS, TWO_COLUMNS_INCH
from analysis.figures.marks import (
    FONT_SIZE,
    Marks,
    blank_figure,
    choose_marks,
    scale_axis,
    style_axes,
)

PANEL_INCH = 1.55


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One column of the points against another."""

    x: str
    """Column across."""
    y: str
    """Column up; its standard errors are `<y>_se`, its range `<y>_low` to `<y>_high`."""
    only: str = ""
    """Value of the column `panel_by` that the panel is for; empty where it shows all points."""
    x_label: str = ""
    """Label below."""
    y_label: str = ""
    """Label at the left."""
    title: str = ""
    """Title above, at the left."""


def draw_panels(
    points: pd.DataFrame,
    panels: Sequence[Panel],
    *,
    lines: tuple[str, str],
    along: str = "",
    panel_by: str = "",
    num_columns: int = 1,
    share_x: bool = False,
    share_y: bool = False,
    panel_inch: float = PANEL_INCH,
    x_errors: bool = False,
    look: dict[str, Any] | None = None,
) -> tuple[Figure, NDArray[Any], Marks]:
    """Draws lines through points; the caller adds what is special and finishes the figure.

    Args:
        points: One line a point, with the columns that the other arguments name.
        panels: Row by row, from the top left.
        lines: Columns of which each pair of values is a line: the first has a colour for each
            value, the second a marker and line style.
        along: Column by which the points of a line follow each other; empty: the one across.
        panel_by: Column that `Panel.only` is a value of.
        num_columns: Panels beside each other. More than `MAX_COLUMNS` take two columns of a paper.
        share_x: Whether panels above each other share their x axis.
        share_y: Whether panels beside each other share their y axis.
        panel_inch: Height of a panel, inches.
        x_errors: Whether standard errors are drawn across too.
        look: Keyword arguments of `errorbar` for all lines, in place of those of their marks.

    Returns:
        The figure, its axes of shape (rows, columns) and the marks, for `finish_column_figure`.
    """
    num_rows = -(-len(panels) // num_columns)
    width = COLUMN_INCH if num_columns <= MAX_COLUMNS else TWO_COLUMNS_INCH
    figure = blank_figure(width, panel_inch * num_rows + AXIS_INCH)
    grid = figure.subplots(
        num_rows,
        num_columns,
        squeeze=False,
        sharex="col" if share_x else False,
        sharey="row" if share_y else False,
    )
    marks = choose_marks(points, *lines)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        style_axes(axes)
        mine = points[points[panel_by] == panel.only] if panel.only else points
        for (colour, shape), line in mine.groupby(list(lines), sort=False):
            style = marks.of_line(str(colour), str(shape)) | (look or {})
            ordered = line.sort_values(along or panel.x, kind="stable")
            _draw_line(axes, ordered, panel, style, x_errors=x_errors)
        # Axes that are shared have one scale, so it is chosen for the points of all of them.
        values = (points if share_y else mine)[panel.y]
        if values.notna().sum() == 0:
            axes.text(
                0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", fontsize=FONT_SIZE
            )
        scale_axis(axes, "y", values)
        axes.set_xlabel(panel.x_label, fontsize=FONT_SIZE)
        axes.set_ylabel(panel.y_label, fontsize=FONT_SIZE)
        axes.set_title(panel.title, fontsize=FONT_SIZE, loc="left")
    return figure, grid, marks


def split_panels(points: pd.DataFrame, axes: Axes, *, along_too: bool = False) -> pd.DataFrame:
    """Adds what parts panels and what a line stands at, where lines run through something else.

    Args:
        points: With `CELL_COLUMNS`.
        axes: Axes of the points.
        along_too: Whether the lines run through the axis of the frontier's lines after all.

    Returns:
        The points with `facet` (marker and panel in words: "generator S") and `place` (where on
        the line: "d=16"; empty with `along_too`).
    """
    parts = [
        text.where((text == "") | (axis.column != SIZE), "generator " + text)
        for axis in (*axes.markers, *axes.panels)
        for text in [join_texts(points, [axis])]
    ]
    facet = pd.Series("", index=points.index, dtype=object)
    for part in parts:
        facet = facet + ", " + part
    place = join_texts(points, [axes.along] if axes.along and not along_too else [])
    return points.assign(facet=facet.str.strip(", "), place=place)


def require_points(points: Sized, figure: str, need: str, gaps: pd.DataFrame) -> None:
    """Refuses to draw a figure of nothing.

    Args:
        points: What is drawn.
        figure: Name of the figure.
        need: What one of the points is.
        gaps: Rows left out.

    Raises:
        ValueError: If there are no points.
    """
    if not len(points):
        raise ValueError(
            f"the {figure} figure must have at least one {need}, but none came"
            f" ({len(gaps)} rows left out); finish the sweep first"
        )


def _draw_line(
    axes: MatplotlibAxes, line: pd.DataFrame, panel: Panel, look: dict[str, Any], *, x_errors: bool
) -> None:
    """Draws a line with its standard errors and its range, where there are any."""
    known = line[np.isfinite(line[panel.x]) & np.isfinite(line[panel.y])]
    if known.empty:
        return
    x, y = known[panel.x].to_numpy(), known[panel.y].to_numpy()
    axes.errorbar(
        x,
        y,
        xerr=_errors(known, panel.x) if x_errors else None,
        yerr=_errors(known, panel.y),
        elinewidth=0.6,
        **look,
    )
    if f"{panel.y}_low" in known:
        low, high = known[f"{panel.y}_low"].to_numpy(), known[f"{panel.y}_high"].to_numpy()
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _errors(line: pd.DataFrame, column: str) -> NDArray[np.float64] | None:
    name = f"{column}_se"
    return line[name].fillna(0.0).to_numpy() if name in line else None
