"""Panels of lines: the body of every figure that holds one column of the points against another."""

import textwrap
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes as MatplotlibAxes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.cells.lines import SIZE, Axes, join_texts
from analysis.figures.column import AXIS_INCH, LABEL_BELOW, LABEL_LEFT
from analysis.figures.marks import Marks, blank_figure, choose_marks, scale_axis

PANEL_INCH = 1.55
CHARACTERS, CHARACTERS_UP = 14, 16
"""Characters of a line, per inch of width and height."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One column of the points against another."""

    x: str
    y: str
    """Column up; its standard errors are `<y>_se`."""
    only: str = ""
    """Value of the column `panel_by` that the panel is for; empty where it shows all points."""
    x_label: str = ""
    y_label: str = ""
    title: str = ""


def draw_panels(
    points: pd.DataFrame,
    panels: Sequence[Panel],
    width_inch: float,
    *,
    lines: tuple[str, str],
    cell_axes: Axes | None = None,
    along: str = "",
    panel_by: str = "",
    x_label: str = "",
    y_label: str = "",
    num_columns: int = 1,
    share_x: bool = False,
    share_y: bool = False,
    panel_inch: float = PANEL_INCH,
    x_errors: bool = False,
    is_joined: bool = True,
) -> tuple[Figure, NDArray[Any], Marks]:
    """Draws lines through points; the caller adds what is special and finishes the figure.

    Args:
        lines: Columns of which each pair of values is a line: the first has a colour for each
            value, the second a marker and dashes.
        cell_axes: Axes of the points, by which legends are in order; None: as the points are.
        along: Column by which the points of a line follow each other; empty: the one across.
        panel_by: Column that `Panel.only` is a value of.
        share_y: Whether panels share their y axis, of several columns up those of each row.

    Returns:
        The figure, its axes of shape (rows, columns) and the marks, for `finish_column_figure`.
    """
    num_rows = -(-len(panels) // num_columns)
    figure = blank_figure(width_inch, panel_inch * num_rows + AXIS_INCH)
    grid = figure.subplots(
        num_rows,
        num_columns,
        squeeze=False,
        sharex="all" if share_x else "none",
        sharey=("all" if len({panel.y for panel in panels}) == 1 else "row") if share_y else "none",
    )
    by = [*lines, *([panel_by] if panel_by else [])]
    most = int(points.groupby(by, sort=False).size().max())
    marks = choose_marks(points, *lines, most, cell_axes)
    characters = int(CHARACTERS * width_inch / num_columns)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    # The lowest axes of each column carry its numbers, also where the last row is not full.
    for axes in grid.flat[max(0, len(panels) - num_columns) : len(panels)]:
        axes.xaxis.set_tick_params(which="both", labelbottom=True)
    single = (x_label, y_label) if len(panels) == 1 else ("", "")
    for axes, panel in zip(grid.flat, panels, strict=False):
        mine = points[points[panel_by] == panel.only] if panel.only else points
        ordered = mine.sort_values(along or panel.x, kind="stable")
        look = {} if is_joined else {"linewidth": 0}
        draw_lines(axes, ordered, panel.x, panel.y, lines, marks, **look)
        known = ordered[np.isfinite(ordered[panel.x]) & np.isfinite(ordered[panel.y])]
        errors = {
            side: known[f"{column}_se"].fillna(0.0).to_numpy()
            for side, column in (("yerr", panel.y), *((("xerr", panel.x),) if x_errors else ()))
            if f"{column}_se" in known
        }
        if any(each.any() for each in errors.values()):
            look = {"fmt": "none", "elinewidth": 0.6, "ecolor": known[lines[0]].map(marks.colours)}
            axes.errorbar(known[panel.x].to_numpy(), known[panel.y].to_numpy(), **errors, **look)
        # Axes that are shared have one scale, so it is chosen for the points of all of them.
        values = (points if share_y else mine)[panel.y]
        if values.notna().sum() == 0:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
        scale_axis(axes, "y", values)
        axes.set_xlabel(_wrap(panel.x_label or single[0], characters))
        axes.set_ylabel(_wrap(panel.y_label or single[1], int(CHARACTERS_UP * panel_inch)))
        axes.set_title(_wrap(panel.title, characters), loc="left")
    if len(panels) > 1:
        # `finish_column_figure` puts both in the middle of the axes.
        if x_label:
            text = _join_lines(x_label, CHARACTERS * width_inch)
            figure.text(0.5, 0, text, ha="center", gid=LABEL_BELOW)
        if y_label:
            text = _join_lines(y_label, CHARACTERS_UP * figure.get_figheight())
            figure.supylabel(text, gid=LABEL_LEFT)
    return figure, grid, marks


def draw_lines(
    axes: MatplotlibAxes,
    points: pd.DataFrame,
    x: str,
    y: str,
    lines: tuple[str, str],
    marks: Marks,
    **look: Any,
) -> None:
    """Draws a line for each pair of values, through the points in their order.

    Means and intervals come from the cells and not from seaborn, which knows nothing of seeds that
    share a tokenizer.
    """
    import seaborn as sns

    labels = {"xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel()}
    # Seaborn labels axes without a label by their column, and makes all ticks to do so.
    axes.set(xlabel="-", ylabel="-")
    sns.lineplot(
        # Of all columns it would make series before it chooses.
        points[[x, y, *lines]],
        x=x,
        y=y,
        hue=lines[0],
        style=lines[1],
        palette=marks.colours,
        markers=marks.markers or False,
        dashes=marks.dashes,
        sort=False,
        estimator=None,
        errorbar=None,
        legend=False,
        ax=axes,
        **{"markeredgewidth": 0.4, **look},
    )
    axes.set(**labels)


def split_panels(points: pd.DataFrame, axes: Axes, *, along_too: bool = False) -> pd.DataFrame:
    """Adds what parts panels and what a line stands at, where lines run through something else.

    Args:
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
    """Refuses to draw a figure of nothing."""
    if not len(points):
        raise ValueError(
            f"the {figure} figure must have at least one {need}, but none came"
            f" ({len(gaps)} rows left out); finish the sweep first"
        )


def _join_lines(text: str, characters: float) -> str:
    """A label of several lines in as few as its room allows, all about as long."""
    words = ", ".join(text.splitlines())
    num_lines = len(textwrap.wrap(words, int(characters), break_on_hyphens=False))
    widths = range(len(words) // num_lines, int(characters) + 1)
    filled = (textwrap.fill(words, width, break_on_hyphens=False) for width in widths)
    return next(each for each in filled if each.count("\n") < num_lines)


def _wrap(text: str, characters: int) -> str:
    lines = (textwrap.fill(line, characters, break_on_hyphens=False) for line in text.splitlines())
    return "\n".join(lines)
