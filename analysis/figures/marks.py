"""How figures look: style, colours and markers shared by all of them.

Colours are those of seaborn's palette for colour-blind readers; size is carried by the marker and
the line style, so that a figure also reads in grey.

Seaborn is imported where a figure is drawn: it imports pyplot, and importing the analysis shall
change no state that a user's program shares.
"""

from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from matplotlib.typing import RcKeyType

from analysis.cells.cells import list_names
from analysis.cells.lines import Axes as CellAxes
from analysis.table.scales import choose_scale

DOTS_PER_INCH = 300
FONT_SIZE = 7.0
PLACE_DIGITS = 6
"""Digits of a place in a figure, in shares of its width or height."""
PAPER_FONT_SIZE = 9.6
"""Size of the font in seaborn's context "paper", points."""
COLOUR_ORDER = (0, 3, 2, 4, 1, 9, 7, 5)
"""Places in seaborn's palette, so that neighbours differ most; the page has the same."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1), (3, 1, 1, 1))
MAX_MARKED = 24
"""Points of a line up to which it has markers."""
OWN_STYLE: dict[RcKeyType, Any] = {
    "figure.dpi": DOTS_PER_INCH,
    "savefig.dpi": DOTS_PER_INCH,
    # Seaborn prefers Arial, which only some machines have.
    "font.sans-serif": ["DejaVu Sans"],
    "figure.labelsize": FONT_SIZE,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.92",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.0,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    # Names come from sweep files: a dollar sign in one begins no formula.
    "text.parse_math": False,
    "svg.hashsalt": "latent-frontier",
    "pdf.fonttype": 42,
}
NO_STYLE = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")


def figure_style() -> dict[Any, Any]:
    """All settings of a figure: matplotlib's own, seaborn's for papers, and ours."""
    import seaborn as sns

    defaults = {name: v for name, v in mpl.rcParamsDefault.items() if name not in NO_STYLE}
    context = sns.plotting_context("paper", font_scale=FONT_SIZE / PAPER_FONT_SIZE)
    return {**defaults, **sns.axes_style("ticks"), **context, **OWN_STYLE}


def choose_colours(number: int) -> list[str]:
    """As many colours as are asked for, told apart by colour-blind readers up to eight."""
    import seaborn as sns

    if number > len(COLOUR_ORDER):
        return sns.color_palette("viridis", number).as_hex()
    palette = sns.color_palette("colorblind").as_hex()
    return [palette[place] for place in COLOUR_ORDER[:number]]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Colour by one property, marker and dashes by another: alignment and size, say."""

    colours: dict[str, str]
    markers: dict[str, str]
    """The other property's value to its marker; empty where lines are too dense for markers."""
    dashes: dict[str, tuple[float, ...]]
    """The other property's value to the dashes of its line; empty: a whole line."""

    def keys(self) -> tuple[list[Line2D], list[Line2D]]:
        """Entries of a legend: the colours, and the markers with their dashes."""
        colours = [make_key(name, color=c, linewidth=2.5) for name, c in self.colours.items()]
        shapes = [
            make_key(name, color="0.35", marker=self.markers.get(name, ""), dashes=dashes)
            for name, dashes in self.dashes.items()
            if name
        ]
        return colours, shapes


def make_key(label: str, *, dashes: tuple[float, ...] = (), **look: Any) -> Line2D:
    """An entry of a legend."""
    key = Line2D([], [], label=label, **look)
    if dashes:
        key.set_dashes(dashes)
    return key


def choose_marks(
    points: pd.DataFrame, colour_by: str, shape_by: str, most: int, axes: CellAxes | None = None
) -> Marks:
    """Gives each value of one column a colour and of another a marker, in the order of legends.

    Args:
        most: Points of the longest line; beyond `MAX_MARKED` there are no markers.
        axes: Axes of the points; if None, the points are in order.
    """
    names, shapes = (
        list(map(str, points[column].unique()))
        if axes is None
        else list_names(points, column, axes)
        for column in (colour_by, shape_by)
    )
    markers = {shape: MARKERS[i % len(MARKERS)] for i, shape in enumerate(shapes)}
    return Marks(
        colours=dict(zip(names, choose_colours(len(names)), strict=True)),
        markers=markers if most <= MAX_MARKED else {},
        dashes={shape: DASHES[i % len(DASHES)] for i, shape in enumerate(shapes)},
    )


def blank_figure(width_inch: float, height_inch: float) -> Figure:
    """An empty figure with a canvas to measure text on; width and height in inches."""
    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def freeze_layout(figure: Figure, free_below: float = 0.0) -> None:
    """Lays a finished figure out once, so that labels can be measured and every format agrees.

    Some share of the height, above the footnote, may be left free. The layout engine is taken away
    and not replaced by the one that does nothing ("none"): for any engine matplotlib draws a figure
    a second time whenever it is saved.
    """
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine), "a figure of `blank_figure`"
    if free_below:
        engine.set(rect=(0, free_below, 1, 1 - free_below))
    engine.execute(figure)
    figure.set_layout_engine(None)
    # The solver behind the layout sums in the order of addresses, so the last bits of a place
    # change from one drawing to the next, and with them now and then a pixel.
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position().get_points().round(PLACE_DIGITS)))
        axes.set_in_layout(True)
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((round(x, PLACE_DIGITS), round(y, PLACE_DIGITS)))


def label_distance(side: str, distance_name: str, images: str) -> str:
    """An axis label that names the distance as the table does, and the better direction."""
    return f"{side}: {distance_name} ({images})\nlower is better"


def scale_axis(axes: Axes, side: Literal["x", "y"], values: pd.Series) -> None:
    """Makes an axis logarithmic, with plain numbers, where `choose_scale` says so."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    if choose_scale(values) == "linear":
        if side == "x":  # Numbers of many digits touch where there are as many as usual.
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        return
    known = values[np.isfinite(values)]
    axes.set(**{f"{side}scale": "log"})
    span = known.max() / known.min()
    subs = (1.0,) if span > 3000 else (1.0, 2.0, 5.0) if span > 8 else (1.0, 2.0, 3.0, 4.0, 6.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # Minor ticks say little beside 1, 2 and 5, and double the time of drawing.
    axis.set_minor_locator(NullLocator())
