"""Figures of a search: front, hypervolume, importance, and proxy against full budget."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.column import COLUMN_INCH, FOOTNOTE_CHARACTERS, FOOTNOTE_SIZE
from analysis.figures.labels import place_labels, point_to_better
from analysis.figures.marks import (
    MARKERS,
    blank_figure,
    choose_colours,
    freeze_layout,
    label_distance,
    scale_axis,
)
from analysis.figures.saving import save_figure
from analysis.tuning.trials import (
    DECIDED_AT,
    Order,
    Recommendation,
    Trials,
    compute_front,
    compute_hypervolumes,
    compute_orders,
    load_repetitions,
    load_trials,
    recommend,
    reference_point,
)

HEIGHT_INCH = 3.0
TITLE_CHARACTERS = 16
"""Characters of a title's line, per inch of the figure's width."""
SEARCHED, BEYOND = "0.45", "0.75"
DISTANCES = {"rfid": ("reconstruction", "eval split"), "gfid": ("generation", "samples")}


def write_tuning_figures(results: Path) -> list[Path]:
    """Writes the figures that the files of a search allow, and removes those of earlier ones;
    ValueError where a file of the search is missing or wrong."""
    trials = load_trials(results)
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("tuning_*"):
        old.unlink()
    figures: dict[str, Callable[[float], Figure]] = {}
    if not trials.measured.empty:
        chosen = recommend(trials)
        if len(trials.objectives) > 1:
            figures["tuning_front"] = partial(draw_front, trials, compute_front(trials), chosen)
        figures["tuning_hypervolume"] = partial(draw_hypervolumes, trials)
    importance = results / "importance.csv"
    if importance.is_file() and len(table := pd.read_csv(importance.absolute())):
        figures["tuning_importance"] = partial(draw_importance, trials, table)
    if promoted := load_repetitions(results, trials).get("promoted"):
        orders = [o for o in compute_orders(trials, promoted) if not o.points.empty]
        if orders:
            figures["tuning_promotion"] = partial(draw_orders, trials, orders)
    return [path for name, draw in figures.items() for path in save_figure(draw, folder, name)]


def draw_front(
    trials: Trials,
    front: pd.DataFrame,
    chosen: Recommendation | None,
    width_inch: float = COLUMN_INCH,
) -> Figure:
    """Draws the first two objectives of all measured trials, first trials and front marked."""
    x, y = trials.objectives[:2]
    title = f"Search {trials.name}: {trials.setting}"
    figure, axes = _new_figure(title, _axis_label(trials, x), _axis_label(trials, y), width_inch)
    beyond = trials.table[~trials.table["trial_id"].isin(front["trial_id"])].dropna(subset=[x, y])
    shown = pd.concat([front, beyond])
    scale_axis(axes, "x", shown[x])
    scale_axis(axes, "y", shown[y])
    best = front[front["on_front"]].sort_values([x, y])
    look = {"drawstyle": "steps-post", "color": "0.85", "linewidth": 4.0, "zorder": 0}
    label = "Pareto front" + (" (first two objectives)" if len(trials.objectives) > 2 else "")
    axes.plot(best[x], best[y], marker="o", markersize=13, label=label, **look)
    searched = front[front["name"] == ""]
    axes.plot(searched[x], searched[y], "o", color=SEARCHED, markersize=5, label="searched")
    if len(beyond):
        axes.plot(beyond[x], beyond[y], "x", color=BEYOND, markersize=5, label="beyond a cap")
    colours = choose_colours(len(trials.references))
    for number, (name, colour) in enumerate(zip(trials.references, colours, strict=True)):
        rows = front[front["name"] == name]
        axes.plot(
            rows[x],
            rows[y],
            MARKERS[1 + number % (len(MARKERS) - 1)],
            markersize=8,
            label=name,
            color=colour,
            markeredgecolor="white",
        )
    if chosen is not None:
        where = front[front["trial"] == chosen.trial]
        ring = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 13}
        axes.plot(where[x], where[y], linestyle="", marker="o", label="recommended", **ring)
    figure.legend(loc="outside upper center", ncols=2 if width_inch == COLUMN_INCH else 4)
    _finish(figure, trials)
    values = front[[x, y]].to_numpy(dtype=float)
    if not any(trials.maximised[:2]):
        point_to_better(axes, values)
    labelled = best[best["name"] == ""]
    place_labels(
        axes,
        labelled[[x, y]].to_numpy(dtype=float),
        labelled["trial"].astype(str).tolist(),
        ["0.2"] * len(labelled),
    )
    return figure


def draw_hypervolumes(trials: Trials, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws what the trials so far dominate, or the best value so far of a single objective."""
    numbers = trials.table["trial"]
    if len(trials.objectives) > 1:
        title, label = "Hypervolume over trials", "dominated hypervolume\nhigher is better"
        values = compute_hypervolumes(trials, reference_point([trials]))["hypervolume"]
        note = "reference point: beyond the worst measured values by 10% of their range"
    else:
        column = next(iter(trials.objectives))
        title, label, note = "Best so far", _axis_label(trials, column), ""
        kept = trials.table[column].where(trials.table["trial"].isin(trials.measured["trial"]))
        values = (kept.cummax() if trials.maximised[0] else kept.cummin()).ffill()
    figure, axes = _new_figure(f"{title}: search {trials.name}", "trial", label, width_inch)
    axes.plot(numbers, values, drawstyle="steps-post", color=choose_colours(1)[0], marker="o")
    num_first = int((trials.table["name"] != "").sum())
    if num_first:
        axes.axvspan(-0.5, num_first - 0.5, color="0.93", zorder=0, label="first trials")
        figure.legend(loc="outside upper center")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, trials, note)
    return figure


def draw_importance(
    trials: Trials, importance: pd.DataFrame, width_inch: float = COLUMN_INCH
) -> Figure:
    """Draws each parameter's importance for each objective as bars."""
    labels = list(dict.fromkeys(zip(importance["parameter"], importance["among"], strict=True)))
    figure, axes = _new_figure(
        f"What the objectives depend on: search {trials.name}",
        "share of importance (PED-ANOVA)\namong these trials",
        "",
        width_inch,
        height_inch=max(HEIGHT_INCH / 2, 0.5 * len(labels) + 1.6),
    )
    objectives = list(dict.fromkeys(importance["objective"]))
    width, colours = 0.8 / len(objectives), choose_colours(len(objectives))
    for position, objective in enumerate(objectives):
        rows = importance[importance["objective"] == objective]
        lines = [labels.index(key) for key in zip(rows["parameter"], rows["among"], strict=True)]
        places = np.array(lines) + (position - (len(objectives) - 1) / 2) * width
        look = {"height": width, "color": colours[position], "label": objective}
        axes.barh(places, rows["importance"], **look)
        tick = {"linestyle": "", "marker": "|", "markersize": 10, "color": "black"}
        label = "by chance" if position == len(objectives) - 1 else None
        axes.plot(rows["chance"], places, label=label, **tick)
    counts = importance.groupby(["parameter", "among"])["num_trials"].max()
    texts = [
        f"{parameter.removeprefix('tokenizer.').removeprefix('alignment.')}\n"
        f"({among}, {counts[(parameter, among)]} trials)"
        for parameter, among in labels
    ]
    axes.set_yticks(range(len(labels)), texts)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    figure.legend(loc="outside upper center", ncols=3)
    note = "by chance: what 9 of 10 shuffles of the values stay below; bars below it say nothing"
    _finish(figure, trials, note)
    return figure


def draw_orders(trials: Trials, orders: list[Order], width_inch: float = COLUMN_INCH) -> Figure:
    """Draws the promoted settings' objectives in the search against those at full budget."""
    is_narrow = width_inch == COLUMN_INCH
    shape = (len(orders), 1) if is_narrow else (1, len(orders))
    figure = blank_figure(width_inch, 2.4 * shape[0] + 0.4)
    characters = int(TITLE_CHARACTERS * width_inch / shape[1])
    for axes, order in zip(figure.subplots(*shape, squeeze=False).flat, orders, strict=True):
        points = order.points
        scale_axis(axes, "x", points["proxy"])
        scale_axis(axes, "y", points["full"])
        look = {"linestyle": "", "marker": "o", "color": choose_colours(1)[0]}
        errors = points["full_se"].fillna(0.0)
        axes.errorbar(points["proxy"], points["full"], yerr=errors, **look)
        tau = "too few settings" if np.isnan(order.tau) else f"Kendall's tau {order.tau:.2f}"
        axes.set_title(fill(f"{order.column}: {tau}, {order.words}", characters))
        axes.set_xlabel(f"{order.column} in the search, one seed")
        axes.set_ylabel(f"{order.column} at full budget")
    note = (
        "full budget: mean ± standard error over seeds; undecided: means closer than "
        f"{DECIDED_AT:g} standard errors"
    )
    _finish(figure, trials, note)
    for axes, order in zip(figure.axes, orders, strict=True):
        values = order.points[["proxy", "full"]].to_numpy(dtype=float)
        place_labels(axes, values, [str(n) for n in order.points.index], ["0.3"] * len(values))
    return figure


def _new_figure(
    title: str, x: str, y: str, width_inch: float, *, height_inch: float = HEIGHT_INCH
) -> tuple[Figure, Axes]:
    figure = blank_figure(width_inch, height_inch)
    axes = figure.add_subplot()
    axes.set_title(fill(title, int(TITLE_CHARACTERS * width_inch)))
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _axis_label(trials: Trials, column: str) -> str:
    if column in DISTANCES:
        side, images = DISTANCES[column]
        return label_distance(side, trials.distance_name, images)
    better = "higher" if trials.maximised[trials.objectives.index(column)] else "lower"
    return f"{column}\n{better} is better"


def _finish(figure: Figure, trials: Trials, note: str = "") -> None:
    counts = trials.table["status"].value_counts()
    words = ", ".join(f"{count} {status}" for status, count in counts.items())
    caps = f"; caps: {', '.join(trials.caps)}" if trials.caps else ""
    text = f"{len(trials.table)} trials ({words}), one seed each{caps}"
    text += f"; {note}" if note else ""
    text = fill(text, int(FOOTNOTE_CHARACTERS * figure.get_figwidth()))
    figure.supxlabel(text, fontsize=FOOTNOTE_SIZE, color="0.35", x=0.01, ha="left")
    freeze_layout(figure)
