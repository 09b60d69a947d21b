"""The frontier: reconstruction against generation, and which points no other point beats."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.cells.cells import Setting, compute_cells
from analysis.figures.column import describe_setting, finish_column_figure, make_key
from analysis.figures.labels import place_labels, point_to_better
from analysis.figures.marks import label_distance, scale_axis
from analysis.figures.panels import Panel, draw_panels
from analysis.statistics.pareto import pareto_mask
from analysis.table.published import PublishedOverlay, select_published

PANEL_INCH = 2.5
MAX_LABELS = 60
"""Points from which on they carry no labels, which would hide them, count."""
PUBLISHED_MARKERS = "os^DvPX<>*ph"
FRONT_LOOK: dict[str, Any] = {"color": "0.85", "linewidth": 3.5}


@dataclass(frozen=True, kw_only=True)
class FrontierData:
    """What the frontier figure shows."""

    points: pd.DataFrame
    """One line a cell: the columns of `Cells.points` and `on_front`."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`."""
    setting: Setting
    """What the points have in common."""
    published: PublishedOverlay
    """Published points of a like protocol, and what was left out."""

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
    return FrontierData(
        points=points,
        gaps=cells.gaps,
        setting=cells.setting,
        published=select_published(cells.rows),
    )


def draw_frontier(data: FrontierData) -> Figure:
    """Draws reconstruction (x) against generation (y), one line per alignment and size.

    Args:
        data: From `compute_frontier`, with at least one point.

    Returns:
        A figure one column wide.

    Raises:
        ValueError: If there are no points.
    """
    if data.points.empty:
        raise ValueError(
            "a frontier must have at least one point with both distances, but none came"
            f" ({len(data.gaps)} rows left out); finish the sweep first"
        )
    name = data.setting.distance_name
    figure, grid, marks = draw_panels(
        data.points,
        [
            Panel(
                x="rfid",
                y="gfid",
                x_label=label_distance("reconstruction", name, "eval split"),
                y_label=label_distance("generation", name, "samples"),
            )
        ],
        lines=("alignment", "generator_size"),
        along="latent_dim",
        panel_inch=PANEL_INCH,
        x_errors=True,
    )
    axes = grid[0, 0]
    scale_axis(axes, "x", data.points["rfid"])
    _draw_front(axes, data.front())
    published = list(_draw_published(axes, data.published))
    front = make_key("Pareto front", marker="o", markersize=8, **FRONT_LOOK)
    finish_column_figure(figure, marks, _write_footnote(data), [front, *published])
    values = data.points[["rfid", "gfid"]].to_numpy(dtype=float)
    point_to_better(axes, values)
    if len(values) <= MAX_LABELS:
        place_labels(
            axes,
            values,
            [f"d={dim:g}" for dim in data.points["latent_dim"]],
            [marks.colours[alignment] for alignment in data.points["alignment"]],
        )
    return figure


def _draw_front(axes: Axes, front: pd.DataFrame) -> None:
    x, y = front["rfid"].to_numpy(), front["gfid"].to_numpy()
    axes.plot(x, y, drawstyle="steps-post", zorder=0, **FRONT_LOOK)
    axes.plot(x, y, linestyle="", marker="o", markersize=9, color="0.85", zorder=0)


def _draw_published(axes: Axes, published: PublishedOverlay) -> Iterator[Line2D]:
    """Draws published lines grey and hollow, so that nobody takes them for measured ones."""
    for index, (name, line) in enumerate(published.lines()):
        look: dict[str, Any] = {
            "color": "0.5",
            "linestyle": ":",
            "linewidth": 0.8,
            "marker": PUBLISHED_MARKERS[index % len(PUBLISHED_MARKERS)],
            "markersize": 3.5,
            "markerfacecolor": "none",
            "markeredgewidth": 0.6,
        }
        axes.plot(line["rfid"].to_numpy(), line["gfid"].to_numpy(), zorder=1.5, **look)
        yield make_key(name, **look)


def _write_footnote(data: FrontierData) -> list[str]:
    setting, points = data.setting, data.published.points
    notes = [
        *describe_setting(setting, len(data.gaps)),
        f"{setting.num_reconstructions} reconstructions",
        f"{setting.generator_images} training images",
        f"guidance {setting.guidance}",
    ]
    if len(points):
        sources = ", ".join(points["source"].unique())
        notes.append(f"published: {sources}, of like evaluation but their own training")
        if points["guidance_inferred"].any():
            notes.append("that these are unguided is inferred")
    return notes
