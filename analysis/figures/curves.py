"""Training curves: loss terms over training images, smoothed and averaged over seeds.

The harness leaves them in `curves.parquet` (or `.csv`) of the results folder, one line a stage,
step and term, with the columns of `CURVE_COLUMNS`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.cells.cells import order_points
from analysis.cells.lines import Axes, describe_lines, join_texts
from analysis.figures.column import COLUMN_INCH, count_axis, finish_column_figure
from analysis.figures.panels import Panel, draw_lines, draw_panels
from analysis.table.reading import find_stored, read_stored

CURVE_COLUMNS: dict[str, str] = {
    "stage_kind": "kind of the stage: tokenizer, generator or encoder",
    "key": "key of the stage's artifact",
    "label": "name of the stage, for one that no row of the table shows",
    "step": "training step, count from 0",
    "images": "training images seen up to this step, count",
    "term": "name of the loss term or weight",
    "value": "its value at this step",
}
"""Columns of the curves' file, with meaning and unit; others are ignored."""
NUMBERS = {"step": "int64", "images": "int64", "value": "float64"}
KEY_COLUMNS = {"tokenizer": "tokenizer_key", "generator": "generator_key"}
"""Column of the results table that holds the key of a stage, by the stage's kind."""
PANEL_INCH = 1.2
SMOOTHED = 0.05
"""Share of a curve's steps over which a value is averaged, half of them after it: no lag."""
TERMS = {
    "l1": "l1 (mean per pixel value)",
    "perceptual": "LPIPS (mean per image)",
    "kl": "KL divergence (nats per image)",
    "gan": "adversarial loss",
    "vf_cos": "VF: cosine",
    "vf_distmat": "VF: distance matrix",
    "velocity_mse": "velocity: squared error",
    "velocity_direction": "velocity: 1 - cosine",
    "repa": "REPA: 1 - cosine",
    "largest_loss": "largest loss since the point before",
}
"""Loss terms as people say them, with their unit."""
PER_VALUE = ("l1", "perceptual")
"""Terms that the loss sums over an image's values; the live view shows their means."""
NUM_CHANNELS = 3
SAME_WITHIN = 0.01
"""Relative difference up to which two terms are shown as one."""
LINE = ["colour", "shape"]


@dataclass(frozen=True, kw_only=True)
class CurvesData:
    """Data of one figure of training curves: the stages of one kind."""

    stage_kind: str
    points: pd.DataFrame
    """One line a term and step of stages that differ in their seeds alone: `term`, `colour`,
    `shape` (what else tells lines apart), `images`, `value` (mean over stages), `smooth` (the
    same of smoothed curves), `low`, `high` (their least and largest) and `num_stages`."""
    left_out: list[str]
    """Terms and values that are not shown, and why."""

    def terms(self) -> list[str]:
        """Loss terms in the order of the file."""
        return [str(term) for term in self.points["term"].unique()]


def load_curves(results_dir: Path | str) -> pd.DataFrame:
    """Reads the training curves of a results folder; empty where it has none; ValueError where the
    file cannot be read or lacks a column."""
    file = find_stored(Path(results_dir), "curves")
    if file is None:
        # Curves of several folders are joined; without types this would take theirs away.
        return pd.DataFrame(columns=list(CURVE_COLUMNS)).astype(NUMBERS)
    curves = read_stored(file)
    missing = [column for column in CURVE_COLUMNS if column not in curves.columns]
    if missing:
        raise ValueError(
            f"{file} must have the columns {', '.join(CURVE_COLUMNS)}, but lacks"
            f" {', '.join(missing)}; delete it and run the sweep again to write it anew"
        )
    return curves[list(CURVE_COLUMNS)].astype(NUMBERS)


def compute_curves(curves: pd.DataFrame, table: pd.DataFrame) -> list[CurvesData]:
    """Averages curves over stages that differ in their seeds alone, one figure a kind of stage."""
    rows = table[table["latent_dim"].notna()]
    named, axes = describe_lines(rows, ("protocol_hash", "reconstruction_protocol_hash"))
    figures = []
    for kind, mine in curves.groupby("stage_kind", sort=False):
        finite = np.isfinite(mine["value"].to_numpy(dtype=float))
        known = mine[finite]
        if known.empty:
            continue
        dull = _find_dull(known)
        shown = _per_value(known[~known["term"].isin(list(dull))], table, str(kind))
        lines = _name_stages(shown, named, axes, str(kind))
        curve = lines.groupby(["key", "term"], sort=False)["value"]
        window = max(1, int(SMOOTHED * curve.size().max()))
        lines["smooth"] = curve.transform(
            lambda values, window=window: values.rolling(window, 1, center=True).mean()
        )
        groups = lines.groupby(["term", *LINE, "images"], sort=False)
        points = groups.agg(
            value=("value", "mean"),
            smooth=("smooth", "mean"),
            low=("smooth", "min"),
            high=("smooth", "max"),
            num_stages=("value", "size"),
        ).reset_index()
        lost = f"{(~finite).sum()} values not finite" if not finite.all() else ""
        left_out = [*dull.values(), lost]
        figures.append(CurvesData(stage_kind=str(kind), points=points, left_out=left_out))
    return figures


def draw_curves(data: CurvesData, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws a panel per loss term: smoothed means, their range over seeds, and faint raw values."""
    terms, points = data.terms(), data.points
    num_columns = min(2 if width_inch == COLUMN_INCH else 4, len(terms))
    first_at_the_bottom = len(terms) - num_columns
    figure, grid, marks = draw_panels(
        points,
        [Panel(x="images", y="smooth", only=term, title=say_term(term)) for term in terms],
        width_inch,
        lines=("colour", "shape"),
        panel_by="term",
        x_label="training images",
        num_columns=num_columns,
        share_x=True,
        panel_inch=PANEL_INCH,
    )
    is_smoothed = not np.allclose(points["value"], points["smooth"])
    for number, (axes, term) in enumerate(zip(grid.flat, terms, strict=False)):
        # Seeds may have recorded a term at unlike steps.
        mine = points[points["term"] == term].sort_values("images", kind="stable")
        if is_smoothed:
            limits = axes.get_ylim()
            faint = {"alpha": 0.3, "linewidth": 0.4, "zorder": 1}
            draw_lines(axes, mine, "images", "value", ("colour", "shape"), marks, **faint)
            axes.set_ylim(limits)
        for (colour, _), line in mine[mine["num_stages"] > 1].groupby(LINE, sort=False):
            look = {"color": marks.colours[str(colour)], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(line["images"], line["low"], line["high"], **look)
        count_axis(axes)
        axes.tick_params(labelbottom=number >= first_at_the_bottom)
    most = int(points["num_stages"].max())
    notes = [
        f"training of the {data.stage_kind}",
        f"mean and range over up to {most} stages" if most > 1 else "one stage a line",
        f"mean over {SMOOTHED:.0%} of the steps, faint: as recorded" if is_smoothed else "",
        *data.left_out,
    ]
    finish_column_figure(figure, marks, notes)
    return figure


def say_term(term: str) -> str:
    """A loss term, or its weight, as people say it."""
    if term.startswith("weight_"):
        return f"weight of {say_term(term.removeprefix('weight_')).partition(' (')[0]}"
    return TERMS.get(term, term.replace("_", " "))


def _find_dull(curves: pd.DataFrame) -> dict[str, str]:
    """Terms that show nothing: constant in every stage, or as another one; and that in words."""
    values = curves.pivot_table(index=["key", "step"], columns="term", values="value", sort=False)
    stages = values.groupby(level="key")
    spread = stages.max() - stages.min()
    is_constant = (spread.fillna(0.0) <= 1e-6 * stages.max().abs().fillna(0.0)).all()
    is_constant &= stages.count().max() > 1
    dull: dict[str, str] = {}
    kept: list[str] = []
    for term, mine in values.items() if not is_constant.all() else ():
        same = [o for o in kept if np.allclose(mine, values[o], SAME_WITHIN, 0.0, equal_nan=True)]
        if is_constant[str(term)]:
            low, high = mine.min(), mine.max()
            range_text = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
            dull[str(term)] = f"{say_term(str(term))} is {range_text} throughout"
        elif same:
            dull[str(term)] = f"{say_term(str(term))}: as {say_term(same[0])}"
        else:
            kept.append(str(term))
    return dull


def _per_value(curves: pd.DataFrame, table: pd.DataFrame, kind: str) -> pd.DataFrame:
    if kind != "tokenizer" or not (summed := curves["term"].isin(PER_VALUE)).any():
        return curves
    sides = table.dropna(subset="resolution").drop_duplicates("tokenizer_key")
    by_key = sides.set_index("tokenizer_key")["resolution"]
    side = curves["key"].map(by_key).fillna(by_key.iloc[0] if len(by_key) else np.nan)
    mean = curves["value"] / (NUM_CHANNELS * side**2)
    return curves.assign(value=curves["value"].where(~summed, mean))


def _name_stages(curves: pd.DataFrame, named: pd.DataFrame, axes: Axes, kind: str) -> pd.DataFrame:
    """The curves with `colour` and `shape`; a stage that no row shows goes by its label."""
    labels = curves["label"].astype(object)
    unknown = curves.assign(colour=labels, shape=kind)
    column = KEY_COLUMNS.get(kind)
    if column is None or named.empty:
        return unknown
    rows = order_points(named.dropna(subset=[column]), axes).drop_duplicates(column)
    rows = rows.set_index(column)
    # What the generator alone has tells no tokenizers apart.
    own = [axis for axis in axes.listed if kind == "generator" or axis.moves_tokenizer]
    colours = [axis for axis in own if axis in axes.colours] or own[:1]
    colour = join_texts(rows, colours).replace("", "all")
    shape = join_texts(rows, [axis for axis in own if axis not in colours])
    places = {key: place for place, key in enumerate(rows.index)}
    ordered = curves.assign(place=curves["key"].map(places)).sort_values("place", kind="stable")
    return unknown.loc[ordered.index].assign(
        colour=curves["key"].map(colour).astype(object).fillna(labels),
        shape=curves["key"].map(shape).astype(object).fillna(kind),
    )
