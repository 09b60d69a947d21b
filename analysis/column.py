"""Figures one column of a two-column paper wide: 3.3 inches, legend above, footnote below."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from analysis.cells import Setting
from analysis.marks import Marks, blank_figure, freeze_layout

COLUMN_INCH = 3.3
PANEL_INCH = 1.55
LEGEND_LINE_INCH = 0.14
FONT_SIZE = 7.0
FOOTNOTE_SIZE = 5.5
FOOTNOTE_CHARACTERS = 76
MAX_KEYS = 12
"""Entries of a legend's column at most; more are told by their number."""


def new_column_figure(
    num_rows: int, num_columns: int, *, marks: Marks, share_x: bool, share_y: bool
) -> tuple[Figure, NDArray[Any]]:
    """An empty figure of one column's width.

    Args:
        num_rows: Panels from top to bottom.
        num_columns: Panels from left to right.
        marks: What the legend above will explain.
        share_x: Whether panels above each other share their x axis.
        share_y: Whether panels beside each other share their y axis.

    Returns:
        The figure and its axes, shape (rows, columns).
    """
    lines = min(max(len(marks.colours), len(marks.shapes)), MAX_KEYS)
    height = PANEL_INCH * num_rows + LEGEND_LINE_INCH * lines + 0.75
    figure = blank_figure(COLUMN_INCH, height)
    panels = figure.subplots(
        num_rows, num_columns, squeeze=False, sharex="col" if share_x else False, sharey=share_y
    )
    for axes in panels.flat:
        axes.grid(visible=True, color="0.92", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=FONT_SIZE - 0.5, length=2.5)
    return figure, panels


def label_panel(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Writes a panel's axis labels and title at the size of a column."""
    axes.set_xlabel(x, fontsize=FONT_SIZE)
    axes.set_ylabel(y, fontsize=FONT_SIZE)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE, loc="left")


def count_axis(axes: Axes) -> None:
    """Writes counts across as 20k or 1.5M."""
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_line(axes: Axes, line: pd.DataFrame, x: str, y: str, look: dict[str, Any]) -> None:
    """Draws a line with its standard errors, where there are any.

    Args:
        axes: The panel.
        line: Points with the columns `x`, `y` and `<y>_se`, in the order of the line.
        x: Column across.
        y: Column up.
        look: From `Marks.of_line`.
    """
    known = line[np.isfinite(line[x]) & np.isfinite(line[y])]
    if known.empty:
        return
    small = look | {"linewidth": 1.0, "markersize": 3.8, "markeredgewidth": 0.4}
    errors = known[f"{y}_se"].fillna(0.0).to_numpy()
    axes.errorbar(known[x].to_numpy(), known[y].to_numpy(), yerr=errors, elinewidth=0.6, **small)


def finish_column_figure(figure: Figure, marks: Marks, footnote: Sequence[str]) -> None:
    """Adds the legend and the footnote, and lays the figure out once.

    Args:
        figure: From `new_column_figure`, with everything drawn.
        marks: Colours and markers used.
        footnote: Sentences under the figure; empty ones are left out.
    """
    colours = [_key(name, color=colour, linewidth=2.5) for name, colour in marks.colours.items()]
    shapes = [
        _key(name, color="0.35", marker=marker, linestyle=style, markersize=3.8, linewidth=1.0)
        for name, (marker, style) in marks.shapes.items()
    ]
    num_lines = min(max(len(colours), len(shapes)), MAX_KEYS)
    figure.legend(
        handles=[*_fill(colours, num_lines), *_fill(shapes, num_lines)],
        loc="outside upper center",
        fontsize=FONT_SIZE - 0.5,
        frameon=False,
        ncols=2,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.25,
        borderaxespad=0.2,
    )
    figure.supxlabel(
        "\n".join(textwrap.wrap("; ".join(filter(None, footnote)), FOOTNOTE_CHARACTERS)),
        fontsize=FOOTNOTE_SIZE,
        color="0.35",
        x=0.01,
        ha="left",
    )
    freeze_layout(figure)


def describe_setting(setting: Setting, num_gaps: int) -> list[str]:
    """What the numbers of a figure rest on, for its footnote."""
    spread = (
        "one seed, no error bars"
        if setting.seeds == "1"
        else f"mean ± standard error over {setting.repetitions}"
    )
    return [
        f"{setting.dataset}, {setting.resolution} px",
        f"{setting.num_images} samples",
        f"extractor {setting.extractor}",
        spread,
        f"{num_gaps} row{'s' if num_gaps > 1 else ''} left out" if num_gaps else "",
    ]


def _fill(keys: list[Line2D], num_lines: int) -> list[Line2D]:
    """One column of the legend: as many entries as there are lines, the last for the rest."""
    if len(keys) > num_lines:
        rest = len(keys) - num_lines + 1
        return [*keys[: num_lines - 1], _key(f"and {rest} more", linestyle="None")]
    return [*keys, *(_key("", linestyle="None") for _ in range(num_lines - len(keys)))]


def _key(label: str, **look: Any) -> Line2D:
    return Line2D([], [], label=label, **look)
