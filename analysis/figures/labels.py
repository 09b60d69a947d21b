"""Words inside the axes: labels beside points and the direction of better, put where room is.

A word never lies on a point, a line or another word: what has no room goes without.
"""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from analysis.figures.marks import FONT_SIZE

ANGLES = np.deg2rad([45, 90, 0, -45, 135, -90, 180, -135])
DISTANCES_POINT = np.array([9.0, 13.0, 18.0, 24.0])
OFFSETS_POINT = (
    DISTANCES_POINT[:, None, None] * np.stack([1.3 * np.cos(ANGLES), np.sin(ANGLES)], axis=1)
).reshape(-1, 2)
"""Places of a label around its point, in the order in which they are preferred, points."""
LEADER_FROM_POINT = 15.0
MARK_POINT, MARGIN_POINT = 2.5, 1.2
REACH_POINT = 45.0
"""Distance from its point up to which a label may cover something, points."""
ARROW_ROOM = 0.12
"""Distance to the nearest line from which an arrow has room, share of the axes."""


def point_to_better(axes: Axes, values: NDArray[np.float64], *, to_right: bool = False) -> None:
    """Draws an arrow to where lower is better, if there is room beside all that is drawn."""
    across = [1 - x if to_right else x for x in (0.06, 0.35, 0.6, 0.8)]
    places = np.array([(x, y) for y in (0.08, 0.9) for x in across])
    strokes = _trace(axes, axes.transData.transform(values))
    taken = axes.transAxes.inverted().transform(strokes)
    distances = np.linalg.norm(places[:, None] - taken[None], axis=2).min(axis=1)
    if distances.max() < ARROW_ROOM:
        return
    x, y = places[int(distances.argmax())]
    side = -1 if to_right else 1
    axes.annotate(
        "better",
        xy=(x - side * 0.04, y - 0.05),
        xytext=(x + side * 0.03, y + 0.04),
        ha="right" if to_right else "left",
        xycoords="axes fraction",
        color="0.35",
        arrowprops={"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.2},
    )


def place_labels(
    axes: Axes, values: NDArray[np.float64], texts: list[str], colours: list[str]
) -> None:
    """Writes a label beside each point that has room for it among all that is drawn."""
    pixels_per_point = _pixels_per_point(axes)
    anchors = axes.transData.transform(values)
    strokes = _trace(axes, anchors)
    # A mark is wider than its place, and a line than its trace.
    margin = MARGIN_POINT * pixels_per_point
    frame = axes.get_window_extent()
    taken = [note.get_window_extent().padded(margin) for note in axes.texts]
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
            path_effects=[withStroke(linewidth=1.0, foreground="white")],
        )
        size = note.get_window_extent()
        near = strokes[(np.abs(strokes - anchor) < REACH_POINT * pixels_per_point).all(axis=1)]
        for offset in OFFSETS_POINT:
            x, y = anchor + offset * pixels_per_point - (size.width / 2, size.height / 2)
            box = Bbox.from_bounds(x, y, size.width, size.height).padded(margin)
            is_far = np.linalg.norm(offset) > LEADER_FROM_POINT
            # It ends at the word's edge, which lies nearer than the word's middle.
            sides = (size.width, size.height) / (2 * pixels_per_point * np.abs(offset) + 1e-9)
            tip = (1 - min(sides)) * offset
            leader = anchor + np.linspace(0, 1, 9)[:, None] * tip * pixels_per_point
            if is_far and any(_covers(other, leader) for other in taken):
                continue
            if _is_free(box, taken, near, frame):
                note.set_position((float(offset[0]), float(offset[1])))
                taken.append(box)
                if is_far:
                    strokes = np.concatenate([strokes, leader])
                    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 3.5}
                    end = (float(tip[0]), float(tip[1]))
                    axes.annotate("", note.xy, end, textcoords="offset points", arrowprops=line)
                break
        else:
            note.remove()


def _is_free(box: Bbox, boxes: list[Bbox], strokes: NDArray[np.float64], frame: Bbox) -> bool:
    inside = box.x0 > frame.x0 and box.x1 < frame.x1 and box.y0 > frame.y0 and box.y1 < frame.y1
    return inside and not _covers(box, strokes) and not any(box.overlaps(other) for other in boxes)


def _covers(box: Bbox, strokes: NDArray[np.float64]) -> bool:
    return bool(((strokes >= box.min) & (strokes <= box.max)).all(axis=1).any())


def _trace(
    axes: Axes, anchors: NDArray[np.float64], step_pixel: float = 6.0
) -> NDArray[np.float64]:
    """Points along all that is drawn, `step_pixel` apart, in pixels, shape (points, 2)."""
    radius = MARK_POINT * _pixels_per_point(axes)
    traces = [anchors + radius * np.array([np.cos(a), np.sin(a)]) for a in ANGLES]
    paths = [
        np.transpose(STEP_LOOKUP_MAP[line.get_drawstyle()](*np.transpose(line.get_xydata())))
        for line in axes.lines
        if line.get_linestyle() != "None"
    ]
    for bars in axes.collections:
        paths += [path.vertices for path in bars.get_paths()]
    for path in paths:
        corners = axes.transData.transform(np.asarray(path, dtype=float))
        for start, end in pairwise(corners[np.isfinite(corners).all(axis=1)]):
            count = max(2, int(np.linalg.norm(end - start) / step_pixel))
            traces.append(start + np.linspace(0, 1, count)[:, None] * (end - start))
    return np.concatenate(traces)


def _pixels_per_point(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes of a figure"
    return figure.dpi / 72
