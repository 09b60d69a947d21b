"""The frontier: reconstruction against generation, and which points no other point beats.

Reconstruction is the distance or, as papers draw it too, PSNR; any other metric on demand.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes as MatplotlibAxes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.cells.cells import Cells, compute_cells
from analysis.cells.lines import LATENT_DIM, SIZE
from analysis.figures.column import COLUMN_INCH, describe_training, finish_column_figure
from analysis.figures.labels import place_labels, point_to_better
from analysis.figures.marks import label_distance, make_key, scale_axis
from analysis.figures.panels import Panel, draw_panels, require_points
from analysis.statistics.pareto import pareto_mask
from analysis.table.published import PublishedOverlay

PANEL_INCH, SMALL_PANEL_INCH = 2.5, 1.6
MAX_LABELS = 60
"""Points from which on they carry no labels, which would hide them, count."""
PUBLISHED_MARKERS = "os^DvPX<>*ph"
FRONT_LOOK: dict[str, Any] = {"color": "0.85", "linewidth": 2.5}


def compute_frontier(table: pd.DataFrame) -> Cells:
    """Computes the points with both distances; their new column `on_front` says which are best."""
    cells = compute_cells(table, needs=("rfid", "gfid"))
    front = pareto_mask(cells.points[["rfid", "gfid"]].to_numpy(dtype=float))
    return replace(cells, points=cells.points.assign(on_front=front))


def draw_frontier(
    cells: Cells,
    published: PublishedOverlay,
    width_inch: float = COLUMN_INCH,
    *,
    across: str = "rfid",
) -> Figure:
    """Draws reconstruction, or the metric `across`, against generation, one line per compared value
    and marker, a panel for each combination of the rest."""
    points, name = cells.points[np.isfinite(cells.points[across])], cells.setting.distance_name
    require_points(points, "frontier", "point with both measures", cells.gaps)
    names = [str(name) for name in points["panel"].unique()]
    num_columns = min(len(names), 2 if width_inch == COLUMN_INCH else 4)
    is_split = len(names) > 1
    x_label, measure = label_distance("reconstruction", name, "eval split"), cells.measures[across]
    if across != "rfid":
        of_images = "reconstruction: " if measure.measured_on == "reconstructions" else ""
        x_label = f"{of_images}{measure.full_label(name)}\n{measure.better} is better"
    is_by_size = [axis.column for axis in cells.axes.panels[:1]] == [SIZE]
    figure, grid, marks = draw_panels(
        points,
        [
            Panel(
                x=across, y="gfid", only=panel, title=f"generator {panel}" if is_by_size else panel
            )
            for panel in names
        ],
        width_inch,
        lines=("colour", "marker"),
        cell_axes=cells.axes,
        along="along",
        panel_by="panel",
        x_label=x_label,
        y_label=label_distance("generation", name, "samples"),
        num_columns=num_columns,
        share_x=is_split,
        share_y=is_split,
        panel_inch=SMALL_PANEL_INCH if is_split else PANEL_INCH,
        x_errors=True,
    )
    drawn = grid.flat[: len(names)]
    sign = 1.0 if measure.better == "lower" else -1.0
    front = points[pareto_mask(points[[across, "gfid"]].to_numpy(dtype=float) * [sign, 1.0])]
    front = front.sort_values([across, "gfid"])
    keys = [make_key("Pareto front", marker="o", markersize=8, **FRONT_LOOK)]
    for number, axes in enumerate(drawn):
        scale_axis(axes, "x", points[across])
        # The front is that of all panels, so that each shows how far it is from it.
        steps = "steps-post" if sign > 0 else "steps-pre"
        x, y = front[across].to_numpy(), front["gfid"].to_numpy()
        axes.plot(x, y, drawstyle=steps, zorder=0, **FRONT_LOOK)
        axes.plot(x, y, linestyle="", marker="o", markersize=9, color="0.85", zorder=0)
        published_keys = list(_draw_published(axes, published, across))
        keys += published_keys if number == 0 else []
    notes = _write_footnote(cells, published.points)
    if missing := len(cells.points) - len(points):
        notes.append(
            f"{missing} point{'s' if missing > 1 else ''} without {measure.short_label} left out"
        )
    finish_column_figure(figure, marks, notes, keys)
    for panel, axes in zip(names, drawn, strict=True):
        mine = points[points["panel"] == panel]
        values = mine[[across, "gfid"]].to_numpy(dtype=float)
        if not is_split:
            point_to_better(axes, values, to_right=sign < 0)
        along, texts = cells.axes.along, list[str]()
        if along is not None:
            # A long name stands in the footnote instead.
            write = along.text if along.column == LATENT_DIM else along.value_text
            texts = [write(value) for value in mine["along"]]
        elif mine["colour"].is_unique:
            texts = list(mine["colour"])
        # Points say where on their line they are, or what they are where each is alone.
        if texts and len(points) <= MAX_LABELS:
            place_labels(axes, values, texts, [marks.colours[colour] for colour in mine["colour"]])
    return figure


def _draw_published(
    axes: MatplotlibAxes, published: PublishedOverlay, across: str
) -> Iterator[Line2D]:
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
        axes.plot(line[across].to_numpy(), line["gfid"].to_numpy(), zorder=1.5, **look)
        yield make_key(name, **look)


def _write_footnote(cells: Cells, published: pd.DataFrame) -> list[str]:
    notes, along = describe_training(cells), cells.axes.along
    if along is not None and along.column != LATENT_DIM and len(cells.points) <= MAX_LABELS:
        notes.append(f"numbers at points: {along.heading}")
    if len(published):
        sources = ", ".join(published["source"].unique())
        notes.append(f"published: {sources}, of like evaluation but their own training")
        if published["guidance_inferred"].any():
            notes.append("that these are unguided is inferred")
    return notes
