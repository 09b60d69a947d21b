"""All that is computed of one protocol's rows: what to draw, what to say, what was left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.cells.cells import GIVEN_ELSEWHERE, Cells, average_group, compute_cells, describe_rows
from analysis.cells.lines import Axes
from analysis.cells.pairs import find_pairs, find_unlike_pairs
from analysis.figures.convergence import ConvergenceData, compute_convergence, draw_convergence
from analysis.figures.curves import compute_curves, draw_curves
from analysis.figures.diagnostics import (
    RankCorrelation,
    compute_correlations,
    draw_diagnostics,
    known_diagnostics,
)
from analysis.figures.dilemma import MAX_BESIDE, draw_dilemma
from analysis.figures.frontier import compute_frontier, draw_frontier
from analysis.figures.guidance import compute_guidance, draw_guidance
from analysis.figures.panels import split_panels
from analysis.figures.price import compute_price, draw_price
from analysis.figures.scaling import COSTS, draw_scaling, name_shapes
from analysis.statistics.dilemma_slope import compute_dilemma_slopes
from analysis.statistics.gain import AXES, compute_gains
from analysis.statistics.pareto import pareto_mask
from analysis.table.protocols import name_some
from analysis.table.published import PublishedOverlay, select_published
from analysis.words.findings import say_correlations, say_gains, say_slopes, say_speedups

MAX_LINES = 24
"""Lines that figures and findings hold; the page's plot and the tables have all of them."""
MAX_LEVELS, MAX_PANELS = 8, 12
"""Colours, or markers, that can be told apart in one figure, and panels that one holds."""
UNLIKE_COST = 1.2
"""Ratio of parameters or FLOPs from which generators are of unlike size."""
NO_GENERATION = "no row has a generation distance"

SPANNING = (
    (
        "guidance",
        "What guidance does: generation against the guidance scale.",
        compute_guidance,
        draw_guidance,
    ),
    (
        "price",
        "What a sample costs: generation against evaluations and measured speed.",
        compute_price,
        draw_price,
    ),
)
"""Figures over rows of unlike protocols: kind, caption, what computes and what draws them."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure that is computed and can be drawn."""

    kind: str
    group: str = ""
    """Name of the protocol; empty where there is one, or where the figure spans several."""
    detail: str = ""
    """What tells it from others of its kind."""
    caption: str
    draw: Callable[[float], Figure]
    """Draws it so many inches wide."""


@dataclass(frozen=True, kw_only=True)
class Omission:
    """Something that is not shown."""

    what: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class GroupAnalysis:
    """Figures, findings and omissions of one protocol's rows."""

    name: str
    """Name of the protocol; empty where there is one."""
    rows: pd.DataFrame
    cells: Cells
    """Means over seeds of all rows with a generation distance, else of tokenizers alone."""
    frontier: Cells
    published: PublishedOverlay
    """Published points of a like protocol, and what was left out."""
    plots: list[Plot]
    findings: list[str]
    omissions: list[Omission]


def analyse_group(
    name: str, rows: pd.DataFrame, columns: Sequence[str] = (), *, every_figure: bool = True
) -> GroupAnalysis:
    """Computes everything of one protocol; each of the columns has a frontier of its own."""
    cells, frontier = average_group(rows), compute_frontier(rows)
    along = cells.axes.along
    kept = select_lines(cells)
    focused = _narrow(frontier, kept)
    selection = say_selection(kept.points, cells, "marker", "panel")
    focused = _tell(focused, selection) if selection else focused
    planned = [
        _plan(
            "frontier",
            "The frontier: reconstruction against generation"
            f"{f', lines through the {along.heading}s' if along else ''}.",
            lambda width: draw_frontier(focused, select_published(focused.rows), width),
            "" if len(focused.points) else "no row has both distances",
        )
    ]
    across = dict.fromkeys(["psnr", *columns]) if every_figure else {}
    planned += [
        Plot(
            kind="frontier",
            detail=metric,
            caption=f"The frontier by {cells.measures[metric].label}, against generation.",
            draw=lambda width, metric=metric: draw_frontier(
                focused, select_published(focused.rows), width, across=metric
            ),
        )
        for metric in focused.known(m for m in across if m in cells.measures and m not in AXES)
    ]
    findings: list[str] = []
    if len(focused.points):
        findings += say_gains(compute_gains(focused))
        slopes = compute_dilemma_slopes(focused)
        along = focused.axes.along
        findings += say_slopes(slopes, f"{along.heading}s") if along else []
    if every_figure:
        generated = kept if cells.has_generation else compute_cells(rows, needs=("gfid",))
        convergence = compute_convergence(rows if kept is cells else _list_trials(rows, kept))
        correlations = compute_correlations(generated)
        if convergence.speedups:
            findings += say_speedups(convergence.speedups)
        findings += say_correlations(correlations)
        planned += _plan_generation(cells, generated, convergence, correlations)
    else:
        what = "frontier by PSNR, dilemma, convergence, scaling and diagnostics"
        reason = "drawn for the protocol with the most rows alone where there are several"
        planned.append(Omission(what=what, reason=reason))
    omissions = [each for each in planned if isinstance(each, Omission)]
    omissions += _list_unlike(cells)
    if len(cells.given):
        names = ", ".join(cells.given["alignment"])
        omissions.append(Omission(what=f"{names} in figures", reason=GIVEN_ELSEWHERE))
    if selection:
        omissions.append(Omission(what="lines of figures and findings", reason=selection))
    published = select_published(frontier.rows)
    return GroupAnalysis(
        name=name,
        rows=rows,
        cells=cells,
        frontier=frontier,
        published=published,
        plots=[replace(each, group=name) for each in planned if isinstance(each, Plot)],
        findings=findings,
        omissions=omissions + _list_unpublished(published),
    )


def plan_shared_plots(table: pd.DataFrame, curves: pd.DataFrame) -> list[Plot | Omission]:
    """Computes the figures that belong to no one protocol: guidance, price, training curves."""
    spanning = [
        Plot(
            kind=kind,
            detail="" if number == 1 else str(number),
            caption=caption,
            draw=partial(draw, _limit_lines(data)),
        )
        for kind, caption, compute, draw in SPANNING
        for number, data in enumerate(compute(table), start=1)
    ]
    is_guided = any(plot.kind == "guidance" for plot in spanning)
    has_generation = np.isfinite(table.loc[table["status"] == "done", "gfid"]).any()
    reason = "one guidance setting only" if has_generation else NO_GENERATION
    training = [
        Plot(
            kind="curves",
            detail=data.stage_kind,
            caption=f"Training curves: {data.stage_kind}.",
            draw=partial(draw_curves, data),
        )
        for data in compute_curves(curves, table)
    ]
    no_curves = "the results folder holds no curves.parquet or curves.csv with finite values"
    return [
        *spanning,
        *([] if is_guided else [Omission(what="guidance", reason=reason)]),
        *(training or [Omission(what="training curves", reason=no_curves)]),
    ]


def select_lines(cells: Cells) -> Cells:
    """Selects the lines that figures can hold: `MAX_LEVELS`, `MAX_PANELS` and `MAX_LINES`.

    Values on the Pareto front come first, then those of the lowest generation distance; baselines
    of what is kept always stay.
    """
    points, axes = cells.points, cells.axes
    if points.empty:
        return cells
    front = pareto_mask(points[["rfid", "gfid"]].fillna(np.inf).to_numpy(dtype=float))
    merit = points["gfid"].where(~front, -np.inf)
    first = {axis.column: axis.baseline for axis in axes.compared}
    rules = (
        ("colour", MAX_LEVELS, axes.colours),
        ("marker", MAX_LEVELS, axes.markers),
        ("panel", MAX_PANELS, axes.panels),
    )
    kept = points
    for column, most, shown in rules:
        is_first = pd.Series(True, index=kept.index)
        for axis in shown:
            is_first &= kept[axis.column].isin([first.get(axis.column)])
        # The baseline before all: without it nothing is compared.
        order = merit[kept.index].where(~is_first, -np.inf)
        by_level = pd.DataFrame({"level": kept[column], "late": ~is_first, "merit": order})
        best = by_level.groupby("level", sort=False).min().sort_values(["late", "merit"])
        kept = kept[kept[column].isin(best.index[:most])]
    lines = _best_lines(kept, axes, merit)[:MAX_LINES]
    return _narrow(cells, replace(cells, points=kept[kept["line"].isin(lines)]))


def say_selection(shown: pd.DataFrame, cells: Cells, *parts: str) -> str:
    """Says which part of all lines a figure shows; empty where it shows all.

    Args:
        parts: Columns that part lines beside the colour: `marker`, `panel`, `facet` or `shape`.
    """
    axes = cells.axes
    by = {
        "colour": (axes.colours, "colours"),
        "marker": (axes.markers, "markers"),
        "panel": (axes.panels, "panels"),
        "facet": ((*axes.markers, *axes.panels), "panels"),
        "shape": ((), "markers"),
        "line": ((), "lines"),
    }
    every = _split(cells)
    told = []
    for column in ("colour", *parts, "line"):
        few, most = shown[column].nunique(), every[column].nunique()
        names = " and ".join(axis.heading for axis in by[column][0])
        if few < most:
            told.append(f"{few} of {most} {by[column][1]}{f' ({names})' if names else ''}")
    if not told:
        return ""
    rule = "the Pareto front's, then those of lowest generation distance, with their baselines"
    return f"{', '.join(told)}: {rule}"


def _narrow(data: Cells, kept: Cells) -> Cells:
    """The data of the rows that the points of other cells of the same table are made of.

    Axes and names stay, so that what is left of an axis is named even where it is one value.
    """
    ids = kept.rows.loc[kept.rows["cell"].isin(kept.points["cell"]), "row_id"]
    rows = data.rows[data.rows["row_id"].isin(ids)]
    points = data.points[data.points["cell"].isin(rows["cell"])]
    if len(points) == len(data.points):
        return data
    return replace(
        data,
        rows=rows.reset_index(drop=True),
        points=points.reset_index(drop=True),
        setting=describe_rows(rows, points),
    )


def _list_trials(rows: pd.DataFrame, kept: Cells) -> pd.DataFrame:
    """All snapshots of some cells' trials, and all rows that are not done."""
    trials = [each["trial_id"].fillna(each["row_id"]) for each in (rows, kept.rows)]
    return rows[trials[0].isin(trials[1]) | (rows["status"] != "done")]


def _best_lines(points: pd.DataFrame, axes: Axes, merit: pd.Series) -> list[str]:
    """Lines of lowest merit first, each followed by those that it is compared with."""
    pairs = find_pairs(points, axes)
    line_of = points["line"]
    bases: dict[str, list[str]] = {}
    for cell, base in zip(line_of[pairs["cell"]], line_of[pairs["base"]], strict=True):
        bases.setdefault(str(cell), []).append(str(base))
    ordered = merit[points.index].groupby(line_of, sort=False).min().sort_values(kind="stable")
    names = map(str, ordered.index)
    return list(dict.fromkeys(each for name in names for each in (name, *bases.get(name, ()))))


def _limit_lines(data: Cells) -> Cells:
    """Cells of at most `MAX_LINES` lines, those of lowest generation distance."""
    best = data.points.groupby("line", sort=False)["gfid"].min().sort_values(kind="stable")
    if len(best) <= MAX_LINES:
        return data
    kept = data.points[data.points["line"].isin(best.index[:MAX_LINES])]
    return _tell(replace(data, points=kept), f"{MAX_LINES} of {len(best)} lines shown")


def _tell(data: Any, selection: str) -> Any:
    """The data with the selection in its setting, from where the footnote takes it."""
    return replace(data, setting=replace(data.setting, selection=selection))


def _fit(data: Any, cells: Cells, most: int = MAX_PANELS, part: str = "facet") -> Any:
    """The data of at most so many panels, those of lowest generation distance, and its footnote."""
    points = _split(data)
    best = points.groupby(part, sort=False)["gfid"].min().sort_values(kind="stable")
    shown = points[points[part].isin(best.index[:most])]
    data = replace(data, points=data.points.loc[shown.index])
    return _tell(data, say_selection(shown, cells, part))


def _split(data: Any) -> pd.DataFrame:
    """The points with what parts the lines of every figure."""
    return name_shapes(split_panels(data.points, data.axes), data.axes)


def _plan(
    kind: str, caption: str, draw: Callable[[float], Figure], missing: str
) -> Plot | Omission:
    """A figure, or why it is left out where something is missing."""
    if missing:
        return Omission(what={"diagnostics": "latent diagnostics"}.get(kind, kind), reason=missing)
    return Plot(kind=kind, caption=caption, draw=draw)


def _plan_generation(
    every: Cells, cells: Cells, convergence: ConvergenceData, correlations: list[RankCorrelation]
) -> list[Plot | Omission]:
    """The figures of rows with a generation distance, and of those that figures can hold."""
    nothing, along = "" if len(cells.points) else NO_GENERATION, cells.axes.along
    snapshots = convergence.points.groupby("cell").size()
    told = _tell(cells, say_selection(cells.points, every))
    costs = cells.points[cells.known(COSTS)]
    has_costs = bool((costs.max() > UNLIKE_COST * costs.min()).any())
    return [
        _plan(
            "dilemma",
            f"The dilemma: generation and PSNR against the {along.heading if along else 'line'}.",
            lambda width: draw_dilemma(_fit(cells, every, MAX_BESIDE), width),
            nothing or ("" if along else "no axis of numbers has tokenizers of its own"),
        ),
        _plan(
            "convergence",
            "Convergence: generation against training images.",
            lambda width: draw_convergence(_fit(convergence, every), width),
            "" if (snapshots > 1).any() else "no generator has two snapshots with a distance",
        ),
        _plan(
            "scaling",
            "Scaling: generation against the generator's parameters and the training FLOPs.",
            lambda width: draw_scaling(_fit(cells, every, MAX_LEVELS, "shape"), width),
            nothing or ("" if has_costs else "all generators are of about one size and cost"),
        ),
        _plan(
            "diagnostics",
            "Latent diagnostics against generation, with rank correlations.",
            lambda width: draw_diagnostics(told, correlations, width),
            nothing or ("" if known_diagnostics(cells) else "the table has none of their columns"),
        ),
    ]


def _list_unlike(cells: Cells) -> list[Omission]:
    """Ratios, gains and changes of slope that are not given, by the difference in training."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for pair in find_unlike_pairs(cells.points, cells.axes):
        by_reason.setdefault((pair.base, pair.reason), []).append(pair.cell)
    return [
        Omission(what=f"{name_some(names, '; ')} against {base}", reason=reason)
        for (base, reason), names in by_reason.items()
    ]


def _list_unpublished(overlay: PublishedOverlay) -> list[Omission]:
    reasons = overlay.left_out.groupby("reason", sort=False)["count"].sum()
    return [
        Omission(what=f"{count} published number{'s' if count > 1 else ''}", reason=str(reason))
        for reason, count in reasons.items()
    ]
