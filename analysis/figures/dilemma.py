"""The optimization dilemma: generation and PSNR against the latent dim, per generator size.

More latent channels reconstruct better and are harder to generate (arXiv 2501.01423, section 1);
where that happens, both rows of the figure rise to the right.
"""

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.cells.cells import Cells
from analysis.figures.column import describe_training, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points

PANEL_INCH = 1.3


def draw_dilemma(cells: Cells) -> Figure:
    """Draws generation distance (top) and PSNR (bottom), one column per generator size.

    Args:
        cells: From `compute_cells(rows, needs=("gfid",))`, with at least one point. PSNR is NaN
            where it was not measured.

    Returns:
        A figure one column wide, two columns with more than three sizes.

    Raises:
        ValueError: If there are no points.
    """
    points, setting = cells.points, cells.setting
    require_points(points, "dilemma", "point with a generation distance", cells.gaps)
    by_params = points.sort_values("generator_params", kind="stable")
    sizes = [str(size) for size in by_params["generator_size"].unique()]
    middle = sizes[(len(sizes) - 1) // 2]
    labels = {
        "gfid": f"{setting.distance_name}\nlower is better",
        "psnr": "PSNR (dB)\nhigher is better",
    }
    figure, grid, marks = draw_panels(
        points,
        [
            Panel(
                x="latent_dim",
                y=metric,
                only=size,
                x_label="latent dim (channels)" if (metric, size) == ("psnr", middle) else "",
                y_label=label if size == sizes[0] else "",
                title=f"generator {size}" if metric == "gfid" else "",
            )
            for metric, label in labels.items()
            for size in sizes
        ],
        lines=("alignment", "generator_size"),
        along="latent_dim",
        panel_by="generator_size",
        num_columns=len(sizes),
        share_x=True,
        share_y=True,
        panel_inch=PANEL_INCH,
    )
    dims = sorted(points["latent_dim"].unique())
    for axes in grid[0]:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(dims))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{dim:g}" for dim in dims]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(dims[0] / 1.3, dims[-1] * 1.3)
    finish_column_figure(figure, marks, describe_training(cells))
    return figure
