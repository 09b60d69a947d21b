"""Words inside the axes: labels beside points and the direction of better, put where room is."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from analysis.figures.marks import DOTS_PER_INCH, FONT_SIZE

ANGLES = np.deg2rad([45, 90, 0, -45, 135, -90, 180, -135])
DISTANCES_POINT = np.array([9.0, 13.0, 18.0, 24.0])
OFFSETS_POINT = (
    DISTANCES_POINT[:, None, None] * np.stack([1.3 * np.cos(ANGLES), np.sin(ANGLES)], axis=1)
).reshape(-1, 2)
"""Places of a label around its point, in the order in which they are preferred, points."""
POINT_COST = 10
DISTANCE_COST = 0.3
LEADER_FROM_POINT = 15.0


def point_to_better(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draws an arrow to the lower left, "better", where the fewest points are near.

    Args:
        axes: Axes with their limits set.
        values: Points in data coordinates, shape (points, 2).
    """
    places = np.array([(x, y) for y in (0.08, 0.9) for x in (0.06, 0.35, 0.6, 0.86)])
    taken = axes.transAxes.inverted().transform(axes.transData.transform(values))
    distances = np.linalg.norm(places[:, None] - taken[None], axis=2).min(axis=1)
    x, y = places[int(distances.argmax())]
    axes.annotate(
        "better",
        xy=(x - 0.04, y - 0.05),
        xytext=(x + 0.03, y + 0.04),
        xycoords="axes fraction",
        fontsize=FONT_SIZE,
        color="0.35",
        arrowprops={"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.2},
    )


def place_labels(
    axes: Axes, values: NDArray[np.float64], texts: list[str], colours: list[str]
) -> None:
    """Writes a label beside each point, where it covers least of points, lines and labels.

    Args:
        axes: Axes with their limits set and everything else drawn.
        values: Points in data coordinates, shape (points, 2).
        texts: A label for each point.
        colours: A colour for each label.
    """
    anchors = axes.transData.transform(values)
    strokes = np.concatenate([np.repeat(anchors, POINT_COST, axis=0), *_trace_lines(axes)])
    frame = axes.get_window_extent()
    taken = [note.get_window_extent() for note in axes.texts]
    lengths = np.linalg.norm(OFFSETS_POINT, axis=1)
    for anchor, value, text, colour in zip(anchors, values, texts, colours, strict=True):
        note = axes.annotate(
            text,
            xy=(float(value[0]), float(value[1])),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=FONT_SIZE - 1,
            color=colour,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )
        size = note.get_window_extent()
        boxes = [
            Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height)
            for x, y in anchor + OFFSETS_POINT * DOTS_PER_INCH / 72
        ]
        covers = np.array([_count_cover(box, taken, strokes, frame) for box in boxes])
        best = int((covers + DISTANCE_COST * lengths).argmin())
        offset = OFFSETS_POINT[best]
        note.set_position((float(offset[0]), float(offset[1])))
        taken.append(boxes[best])
        if lengths[best] > LEADER_FROM_POINT:
            _draw_leader(axes, value, offset, colour)


def _count_cover(box: Bbox, boxes: list[Bbox], strokes: NDArray[np.float64], frame: Bbox) -> float:
    """Count what a label would cover: drawn points and lines, other labels, the outside."""
    inside = (strokes >= box.min) & (strokes <= box.max)
    covered = float(inside.all(axis=1).sum())
    overlaps = sum(bool(box.overlaps(other)) for other in boxes)
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0
    return covered + 30.0 * overlaps + 10.0 * outside


def _draw_leader(
    axes: Axes, value: NDArray[np.float64], offset: NDArray[np.float64], colour: str
) -> None:
    axes.annotate(
        "",
        xy=(float(value[0]), float(value[1])),
        xytext=(0.72 * float(offset[0]), 0.72 * float(offset[1])),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 3.5},
    )


def _trace_lines(axes: Axes, step_pixel: float = 6.0) -> list[NDArray[np.float64]]:
    """Points along every drawn line, `step_pixel` apart, in pixels."""
    traces: list[NDArray[np.float64]] = []
    for line in axes.lines:
        if line.get_zorder() < 1 or line.get_linestyle() == "None":
            continue
        corners = axes.transData.transform(np.asarray(line.get_xydata(), dtype=float))
        for start, end in pairwise(corners):
            count = max(2, int(np.linalg.norm(end - start) / step_pixel))
            traces.append(start + np.linspace(0, 1, count)[:, None] * (end - start))
    return traces
