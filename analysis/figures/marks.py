"""How figures look: colours, markers and axes shared by all of them.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; size is carried by the
marker and the line style, so that a figure also reads in grey.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.table.scales import choose_scale

DOTS_PER_INCH = 200
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", ":", "-.")
FONT_SIZE = 7.0


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Colour by one property, marker and line style by another: alignment and size, say."""

    colours: dict[str, str]
    """The first property's value to hexadecimal colour."""
    shapes: dict[str, tuple[str, str]]
    """The other property's value to marker and line style."""

    def of_line(self, colour: str, shape: str) -> dict[str, Any]:
        """Keyword arguments of a line's `plot` or `errorbar`."""
        marker, style = self.shapes[shape]
        return {
            "color": self.colours[colour],
            "marker": marker,
            "linestyle": style,
            "linewidth": 1.0,
            "markersize": 4.0,
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
        }


def choose_marks(points: pd.DataFrame, colour_by: str, shape_by: str) -> Marks:
    """Gives each value of one column a colour and of another a marker, in the points' order."""
    names = [str(name) for name in points[colour_by].unique()]
    shapes = [str(name) for name in points[shape_by].unique()]
    colours = list(OKABE_ITO)
    if len(names) > len(colours):
        colours = [to_hex(c) for c in colormaps["viridis"](np.linspace(0, 0.95, len(names)))]
    return Marks(
        colours=dict(zip(names, colours, strict=False)),
        shapes={
            shape: (MARKERS[i % len(MARKERS)], LINE_STYLES[i % len(LINE_STYLES)])
            for i, shape in enumerate(shapes)
        },
    )


def blank_figure(width_inch: float, height_inch: float) -> Figure:
    """An empty figure with a canvas to measure text on; width and height in inches."""
    figure = Figure(
        figsize=(width_inch, height_inch), dpi=DOTS_PER_INCH, layout="constrained", facecolor="w"
    )
    FigureCanvasAgg(figure)
    return figure


def freeze_layout(figure: Figure) -> None:
    """Lays a finished figure out once, so that labels can be measured and every format agrees.

    Names come from sweep files, so that a dollar sign in one is a dollar sign and begins no
    formula.

    The layout engine is taken away and not replaced by the one that does nothing ("none"): for any
    engine matplotlib draws a figure a second time whenever it is saved.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def style_axes(axes: Axes) -> None:
    """Light grid, no frame at the top and right, small numbers."""
    axes.grid(visible=True, color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT_SIZE - 0.5, length=2.5)


def label_distance(side: str, distance_name: str, images: str) -> str:
    """An axis label that names the distance as the table does, and the better direction."""
    return f"{side}: {distance_name} ({images})\nlower is better"


def scale_axis(axes: Axes, side: Literal["x", "y"], values: pd.Series) -> None:
    """Makes an axis logarithmic, with plain numbers, where `choose_scale` says so."""
    if choose_scale(values) == "linear":
        return
    known = values[np.isfinite(values)]
    axes.set(**{f"{side}scale": "log"})
    axis = axes.xaxis if side == "x" else axes.yaxis
    few = known.max() / known.min() > 3000
    axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
