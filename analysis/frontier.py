"""The frontier: reconstruction against generation, and which points no other point beats."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.cells import Setting, compute_cells, split_lines
from analysis.labels import place_labels, point_to_better
from analysis.marks import (
    FONT_SIZE,
    TITLE_SIZE,
    Marks,
    add_footnote,
    add_legend,
    choose_marks,
    freeze_layout,
    label_distance,
    new_figure,
    scale_axis,
)
from analysis.pareto import pareto_mask


@dataclass(frozen=True, kw_only=True)
class FrontierData:
    """What the frontier figure shows."""

    points: pd.DataFrame
    """One line a cell: the columns of `Cells.points` and `on_front`."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`."""
    setting: Setting
    """What the points have in common."""

    def lines(self) -> list[tuple[str, str, pd.DataFrame]]:
        """Lines through the latent dims: (alignment, generator size, its points by latent dim)."""
        return split_lines(self.points)

    def front(self) -> pd.DataFrame:
        """The points on the Pareto front, from the best reconstruction to the worst."""
        return self.points[self.points["on_front"]].sort_values(["rfid", "gfid"])


def compute_frontier(table: pd.DataFrame) -> FrontierData:
    """Computes the points of the frontier and its Pareto front over the means.

    Args:
        table: Rows of one protocol and one guidance setting, as from `split_by_protocol`.

    Returns:
        The figure's data; without points where no row has both distances.

    Raises:
        ValueError: If protocols are mixed, or a cell holds one repetition twice.
    """
    cells = compute_cells(table, needs=("rfid", "gfid"))
    front = pareto_mask(cells.points[["rfid", "gfid"]].to_numpy(dtype=float))
    points = cells.points.assign(on_front=front)
    return FrontierData(points=points, gaps=cells.gaps, setting=cells.setting)


def draw_frontier(data: FrontierData) -> Figure:
    """Draws reconstruction (x) against generation (y), one line per alignment and size.

    Args:
        data: From `compute_frontier`, with at least one point.

    Returns:
        A figure of 6.5 × 4.5 inches at 200 dots per inch.

    Raises:
        ValueError: If there are no points.
    """
    if data.points.empty:
        raise ValueError(
            "a frontier must have at least one point with both distances, but none came"
            f" ({len(data.gaps)} rows left out); finish the sweep first"
        )
    setting = data.setting
    figure, axes = new_figure()
    axes.set_title(
        f"Reconstruction against generation: {setting.dataset}, {setting.resolution} px",
        fontsize=TITLE_SIZE,
    )
    axes.set_xlabel(
        label_distance("reconstruction", setting.distance_name, "test split"),
        fontsize=FONT_SIZE,
    )
    axes.set_ylabel(
        label_distance("generation", setting.distance_name, "samples"), fontsize=FONT_SIZE
    )
    scale_axis(axes, "x", data.points["rfid"])
    scale_axis(axes, "y", data.points["gfid"])
    marks = choose_marks(data.points)
    _draw_front(axes, data.front())
    for alignment, size, line in data.lines():
        _draw_line(axes, line, marks, alignment, size)
    add_legend(figure, marks, with_front=True)
    add_footnote(figure, setting, len(data.gaps))
    freeze_layout(figure)
    point_to_better(axes, data.points[["rfid", "gfid"]].to_numpy(dtype=float))
    place_labels(
        axes,
        data.points[["rfid", "gfid"]].to_numpy(dtype=float),
        [f"d={dim:g}" for dim in data.points["latent_dim"]],
        [marks.colours[alignment] for alignment in data.points["alignment"]],
    )
    return figure


def _draw_line(axes: Axes, line: pd.DataFrame, marks: Marks, alignment: str, size: str) -> None:
    axes.errorbar(
        line["rfid"].to_numpy(),
        line["gfid"].to_numpy(),
        xerr=line["rfid_se"].fillna(0.0).to_numpy(),
        yerr=line["gfid_se"].fillna(0.0).to_numpy(),
        elinewidth=0.8,
        **marks.of_line(alignment, size),
    )


def _draw_front(axes: Axes, front: pd.DataFrame) -> None:
    x, y = front["rfid"].to_numpy(), front["gfid"].to_numpy()
    axes.plot(x, y, drawstyle="steps-post", color="0.85", linewidth=4.0, zorder=0)
    axes.plot(x, y, linestyle="", marker="o", markersize=13, color="0.85", zorder=0)
