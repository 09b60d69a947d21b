"""The optimization dilemma: generation and PSNR against the latent dim, or what else a line runs
through, a column for each generator size or what else is no colour.

More latent channels reconstruct better and are harder to generate (arXiv 2501.01423, section 1);
where that happens, both rows of the figure rise to the right.
"""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.cells.cells import Cells
from analysis.cells.lines import LATENT_DIM, Axis
from analysis.figures.column import COLUMN_INCH, describe_training, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points, split_panels

PANEL_INCH = 1.3
METRICS = ("gfid", "psnr")
MAX_BESIDE = 4
"""Panels beside each other that two columns of a paper hold."""


def draw_dilemma(cells: Cells, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws generation distance and PSNR, beside each other for each but the compared axis.

    Where all of these fit beside each other, PSNR stands below the distance.
    """
    setting, along = cells.setting, cells.axes.along
    require_points(cells.points, "dilemma", "point with a generation distance", cells.gaps)
    assert along is not None, "the caller plans this figure where lines run through something"
    points = split_panels(cells.points, cells.axes, along_too=True)
    by_params = points.sort_values("generator_params", kind="stable")
    facets = [str(facet) for facet in by_params["facet"].unique()]
    is_flat = len(facets) <= (2 if width_inch == COLUMN_INCH else MAX_BESIDE)
    order = [(m, f) for m in METRICS for f in facets]
    order = order if is_flat else [(m, f) for f in facets for m in METRICS]
    x_label = "latent dim (channels)" if along.column == LATENT_DIM else along.heading
    labels = {
        "gfid": f"{setting.distance_name}\nlower is better",
        "psnr": "PSNR (dB)\nhigher is better",
    }
    figure, grid, marks = draw_panels(
        points,
        [
            Panel(
                x="along",
                y=metric,
                only=facet,
                y_label=labels[metric] if not is_flat or facet == facets[0] else "",
                title=facet if metric == "gfid" else "",
            )
            for metric, facet in order
        ],
        width_inch,
        lines=("colour", "marker"),
        cell_axes=cells.axes,
        along="along",
        panel_by="facet",
        x_label=x_label,
        num_columns=len(facets) if is_flat else len(METRICS),
        share_x=True,
        share_y=is_flat,
        panel_inch=PANEL_INCH,
    )
    _tick_values(grid.flat, points["along"], along)
    finish_column_figure(figure, marks, describe_training(cells))
    return figure


def _tick_values(panels: Iterable[Axes], values: pd.Series, along: Axis) -> None:
    places = sorted(values.unique())
    texts = [along.value_text(place) for place in places]
    for axes in panels:
        if places[0] > 0:
            axes.set_xscale("log", base=2)
            margin = (places[-1] / places[0]) ** 0.06 * 1.2
            axes.set_xlim(places[0] / margin, places[-1] * margin)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FixedFormatter(texts))
        axes.xaxis.set_minor_locator(NullLocator())
