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
from analysis.cells.lines import LATENT_DIM
from analysis.figures.column import describe_training, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points, split_panels

PANEL_INCH = 1.3


def draw_dilemma(cells: Cells) -> Figure:
    """Draws generation distance (top) and PSNR (bottom), one column for each but the compared axis.

    Args:
        cells: From `compute_cells(rows, needs=("gfid",))`, with at least one point. PSNR is NaN
            where it was not measured.

    Returns:
        A figure one column wide, two columns with more than three panels.

    Raises:
        ValueError: If there are no points.
    """
    setting, along = cells.setting, cells.axes.along
    require_points(cells.points, "dilemma", "point with a generation distance", cells.gaps)
    assert along is not None, "the caller plans this figure where lines run through something"
    points = split_panels(cells.points, cells.axes, along_too=True)
    by_params = points.sort_values("generator_params", kind="stable")
    facets = [str(facet) for facet in by_params["facet"].unique()]
    middle = facets[(len(facets) - 1) // 2]
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
                x_label=x_label if (metric, facet) == ("psnr", middle) else "",
                y_label=label if facet == facets[0] else "",
                title=facet if metric == "gfid" else "",
            )
            for metric, label in labels.items()
            for facet in facets
        ],
        lines=("colour", "marker"),
        along="along",
        panel_by="facet",
        num_columns=len(facets),
        share_x=True,
        share_y=True,
        panel_inch=PANEL_INCH,
    )
    _tick_values(grid[0], points["along"], [along.value_text(v) for v in along.order])
    finish_column_figure(figure, marks, describe_training(cells))
    return figure


def _tick_values(row: Iterable[Axes], values: pd.Series, texts: list[str]) -> None:
    """Ticks the values themselves, on a scale of factors where all are above 0."""
    places = sorted(values.unique())
    for axes in row:
        if places[0] > 0:
            axes.set_xscale("log", base=2)
            margin = (places[-1] / places[0]) ** 0.06 * 1.2
            axes.set_xlim(places[0] / margin, places[-1] * margin)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FixedFormatter(texts))
        axes.xaxis.set_minor_locator(NullLocator())
