"""Convergence: generation distance over training images, and how much sooner a choice gets there.

The speed-up is the number of training images behind the baseline generator's last snapshot over
the number after which the compared one reaches the same generation distance; between snapshots the
logarithm of the distance is taken to be linear in the images (arXiv 2501.01423, Figure 4).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.cells.cells import Setting, average_cells, describe_rows, list_gaps, order_points
from analysis.cells.lines import Axes, Axis, describe_lines
from analysis.cells.pairs import find_pairs
from analysis.figures.column import COLUMN_INCH, count_axis, describe_setting, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points, split_panels
from analysis.statistics.bootstrap import BootstrapConfig, Interval, percentile_interval
from analysis.table.protocols import require_one_protocol
from analysis.table.reading import SEED_COLUMNS

LINE = "cell"
"""A curve is one configuration; its points are snapshots."""


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How much sooner one generator reaches its counterpart's last distance."""

    axis: Axis
    cell: str
    target: float
    """Mean generation distance of the counterpart at its last snapshot."""
    baseline_images: float
    """Training images of that snapshot, count."""
    images: float
    """Training images after which the line reaches the target, count; NaN if it does not
    within its snapshots."""
    is_bound: bool
    """Whether the first snapshot is below the target already: the speed-up is then at least so."""
    interval: Interval | None
    """Bootstrap interval of the speed-up, its lower end 0 where some resamples don't reach the
    target; None with fewer than two seeds on either side, or where it is not reached."""
    is_last: bool
    """Whether the target is the counterpart's last snapshot; else not all its seeds have that
    and the target is the last one which all have."""

    @property
    def reached(self) -> bool:
        """Whether the line reaches the target."""
        return bool(np.isfinite(self.images))

    @property
    def speedup(self) -> float:
        """The counterpart's images over these; NaN where the target is not reached."""
        return self.baseline_images / self.images


@dataclass(frozen=True, kw_only=True)
class ConvergenceData:
    """Data of the convergence figure."""

    points: pd.DataFrame
    """One line a snapshot: what `average_cells` gives of the cell and `generator_images`."""
    axes: Axes
    speedups: list[Speedup]
    """One a line of two snapshots or more and an axis of which a counterpart has the baseline."""
    gaps: pd.DataFrame
    setting: Setting


def compute_convergence(
    table: pd.DataFrame, *, config: BootstrapConfig | None = None
) -> ConvergenceData:
    """Averages every snapshot over seeds and computes the speed-ups.

    A mean over other seeds is no step of a curve: where half of a line's seeds or more, and at
    least two, have every snapshot, the other seeds are left out; else the snapshots are that not
    all seeds have.
    """
    require_one_protocol(table)
    numbers = table[["gfid", "generator_images"]].to_numpy(dtype=float)
    unknown = ~np.isfinite(numbers).all(axis=1)
    reasons = table["status"].astype(object).where(table["status"] != "done", "")
    reasons[(reasons == "").to_numpy() & unknown] = (
        "gfid or the number of training images is missing or not finite"
    )
    rows, axes = describe_lines(table[reasons == ""])
    snapshots = [LINE, "generator_images"]
    repeated = rows.duplicated([*snapshots, *SEED_COLUMNS])
    reasons[repeated[repeated].index] = "a repetition of another row"
    rows = rows[~repeated]
    latest = rows.groupby(LINE)["generator_images"].max().to_dict()
    torn = _find_torn_seeds(rows)
    reasons[torn[torn].index] = "a seed that lacks a snapshot of its line"
    rows = rows[~torn]
    seeds = rows.groupby(snapshots)["gfid"].transform("size")
    partial = seeds < seeds.groupby(rows[LINE]).transform("max")
    reasons[partial[partial].index] = "a snapshot that not all seeds of its line have"
    rows = rows[~partial]
    points = order_points(average_cells(rows, axes, snapshots), axes, last="generator_images")
    return ConvergenceData(
        points=points,
        axes=axes,
        speedups=_compute_speedups(rows, points, axes, latest, config or BootstrapConfig()),
        gaps=list_gaps(table, reasons),
        setting=describe_rows(rows if len(rows) else table, points),
    )


def find_crossing(
    images: NDArray[np.float64], distance: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Finds where curves first reach their targets.

    Shapes are (snapshots,) of the ascending training images, (..., snapshots) of the distances and
    (...) of the targets, both above 0. Returned are images, shape (...): log-linear between
    snapshots; the first snapshot where it is at or below the target already; NaN where none is.
    """
    reached = distance <= target[..., None]
    after = reached.argmax(axis=-1)
    before = np.maximum(after - 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        high = np.log(np.take_along_axis(distance, before[..., None], axis=-1)[..., 0])
        low = np.log(np.take_along_axis(distance, after[..., None], axis=-1)[..., 0])
        share = np.where(after > 0, (high - np.log(target)) / (high - low), 0.0)
    crossing = images[before] + share * (images[after] - images[before])
    return np.where(reached.any(axis=-1), crossing, np.nan)


def draw_convergence(data: ConvergenceData, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws generation distance over training images, a panel for each but the compared axis."""
    need = "snapshot with a generation distance"
    require_points(data.points, "convergence", need, data.gaps)
    points = split_panels(data.points, data.axes)
    facets = [str(facet) for facet in points["facet"].unique()]
    num_columns = min(1 if width_inch == COLUMN_INCH else 2, len(facets))
    figure, grid, marks = draw_panels(
        points,
        [Panel(x="generator_images", y="gfid", only=facet, title=facet) for facet in facets],
        width_inch,
        lines=("colour", "place"),
        cell_axes=data.axes,
        panel_by="facet",
        x_label="training images",
        y_label=data.setting.distance_name,
        num_columns=num_columns,
        share_x=True,
    )
    for axes in grid.flat[: len(facets)]:
        count_axis(axes)
    notes = [*describe_setting(data.setting, len(data.gaps)), f"guidance {data.setting.guidance}"]
    finish_column_figure(figure, marks, notes)
    return figure


def _find_torn_seeds(rows: pd.DataFrame) -> pd.Series:
    """Seeds that lack a snapshot of their line, where enough others have them all."""
    num_snapshots = rows.groupby(LINE)["generator_images"].transform("nunique")
    mine = rows.groupby([LINE, *SEED_COLUMNS])["generator_images"].transform("size")
    is_whole = mine == num_snapshots
    repetition = rows[[LINE, *SEED_COLUMNS]].duplicated()
    num_seeds = (~repetition).groupby(rows[LINE]).transform("sum")
    num_whole = (~repetition & is_whole).groupby(rows[LINE]).transform("sum")
    return ~is_whole & (num_whole >= 2) & (2 * num_whole >= num_seeds)


def _compute_speedups(
    rows: pd.DataFrame,
    points: pd.DataFrame,
    axes: Axes,
    latest: dict[Any, float],
    config: BootstrapConfig,
) -> list[Speedup]:
    lines = {str(cell): line for cell, line in points.groupby(LINE, sort=False)}
    members = {str(cell): mine for cell, mine in rows.groupby(LINE, sort=False)}
    # The target is another training's end, so unlike numbers of images are what is compared.
    ends = points.groupby(LINE, sort=False).tail(1).assign(generator_images=np.nan)
    by_name = {axis.column: axis for axis in axes.compared}
    speedups = []
    for pair in find_pairs(ends, axes).to_dict("records"):
        name, base_name = (str(points.loc[label, LINE]) for label in (pair["cell"], pair["base"]))
        line, base = lines[name], lines[base_name].iloc[-1]
        if len(line) < 2 or (line["gfid"] <= 0).any() or base["gfid"] <= 0:
            continue
        images, distance = (line[c].to_numpy(dtype=float) for c in ("generator_images", "gfid"))
        reach = float(find_crossing(images, distance, np.array(base["gfid"], dtype=float)))
        sides = (_curves_of(members[name]), _curves_of(members[base_name]))
        has_interval = np.isfinite(reach) and min(map(len, sides)) > 1
        speedups.append(
            Speedup(
                axis=by_name[pair["axis"]],
                cell=name,
                target=float(base["gfid"]),
                baseline_images=float(base["generator_images"]),
                images=reach,
                is_bound=bool(distance[0] <= base["gfid"]),
                interval=_resample(sides, images, base, reach, config) if has_interval else None,
                is_last=bool(base["generator_images"] == latest[base_name]),
            )
        )
    return speedups


def _curves_of(members: pd.DataFrame) -> NDArray[np.float64]:
    """One curve an independent unit, shape (units, snapshots): tokenizer if several, else seed."""
    several = members["tokenizer_key"].nunique(dropna=False) > 1
    unit = ["tokenizer_key"] if several else list(SEED_COLUMNS)
    means = members.groupby([*unit, "generator_images"], dropna=False)["gfid"].mean()
    return means.unstack("generator_images").to_numpy(dtype=float)


def _resample(
    curves: tuple[NDArray[np.float64], NDArray[np.float64]],
    images: NDArray[np.float64],
    base: pd.Series,
    reach: float,
    config: BootstrapConfig,
) -> Interval:
    """The speed-up's interval; taken in logarithms, where not reaching the target is -infinity."""
    generator = np.random.default_rng(config.seed)
    means = [
        side[generator.integers(0, len(side), (config.num_resamples, len(side) - 1))].mean(axis=1)
        for side in curves
    ]
    crossings = find_crossing(images, means[0], means[1][:, -1])
    logs = np.log(float(base["generator_images"]) / crossings)
    low, high = percentile_interval(
        np.where(np.isnan(logs), -np.inf, logs),
        float(np.log(base["generator_images"] / reach)),
        num_freedoms=sum(len(side) - 1 for side in curves),
        config=config,
    )
    return float(np.exp(low)), float(np.exp(high))
