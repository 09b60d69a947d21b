"""Training curves: loss terms over training images, averaged over seeds.

The harness leaves them in `curves.parquet` (or `.csv`) of the results folder, one line a stage,
step and term, with the columns of `CURVE_COLUMNS`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.cells.lines import Axes, describe_lines, join_texts
from analysis.figures.column import count_axis, finish_column_figure
from analysis.figures.panels import Panel, draw_panels
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


@dataclass(frozen=True, kw_only=True)
class CurvesData:
    """Data of one figure of training curves: the stages of one kind."""

    stage_kind: str
    """Kind of the stages."""
    points: pd.DataFrame
    """One line a term and step of stages that differ in their seeds alone: `term`, `colour`,
    `shape` (what else tells lines apart), `images`, `value` (mean over stages), `value_low`,
    `value_high` (least and largest) and `num_stages`."""
    num_nonfinite: int
    """Values left out because they were not finite, count."""

    def terms(self) -> list[str]:
        """Loss terms in the order of the file."""
        return [str(term) for term in self.points["term"].unique()]


def load_curves(results_dir: Path | str) -> pd.DataFrame:
    """Reads the training curves of a results folder.

    Args:
        results_dir: A results folder.

    Returns:
        A table with `CURVE_COLUMNS`; empty where the folder has no curves.

    Raises:
        ValueError: If the file cannot be read or lacks a column.
    """
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
    """Averages curves over stages that differ in their seeds alone.

    Args:
        curves: From `load_curves`.
        table: The results table, which says what a stage's key stands for.

    Returns:
        One figure's data for each kind of stage that has finite values.
    """
    rows = table[table["latent_dim"].notna()]
    named, axes = describe_lines(rows, ("protocol_hash", "reconstruction_protocol_hash"))
    figures = []
    for kind, mine in curves.groupby("stage_kind", sort=False):
        finite = np.isfinite(mine["value"].to_numpy(dtype=float))
        known = mine[finite]
        if known.empty:
            continue
        lines = _name_stages(known, named, axes, str(kind))
        by = ["term", "colour", "shape", "images"]
        groups = lines.groupby(by, sort=False)["value"]
        summary: dict[str, pd.Series] = {
            "value": groups.mean(),
            "value_low": groups.min(),
            "value_high": groups.max(),
            "num_stages": groups.size(),
        }
        points = pd.DataFrame(summary).reset_index()
        figures.append(
            CurvesData(stage_kind=str(kind), points=points, num_nonfinite=int((~finite).sum()))
        )
    return figures


def draw_curves(data: CurvesData) -> Figure:
    """Draws a panel per loss term, means as lines and the range over seeds as a band.

    Args:
        data: One of `compute_curves`.

    Returns:
        A figure one column wide.
    """
    terms = data.terms()
    num_columns = min(2, len(terms))
    first_at_the_bottom = len(terms) - num_columns
    figure, grid, marks = draw_panels(
        data.points,
        [
            Panel(
                x="images",
                y="value",
                only=term,
                x_label="training images" if number >= first_at_the_bottom else "",
                title=term,
            )
            for number, term in enumerate(terms)
        ],
        lines=("colour", "shape"),
        panel_by="term",
        num_columns=num_columns,
        share_x=True,
        panel_inch=PANEL_INCH,
        look={"markevery": 0.25},
    )
    for axes in grid.flat[: len(terms)]:
        count_axis(axes)
    for axes in grid.flat[first_at_the_bottom : len(terms)]:
        axes.tick_params(labelbottom=True)
    most = int(data.points["num_stages"].max())
    seeds = f"mean and range over up to {most} stages" if most > 1 else "one stage a line"
    left_out = f"{data.num_nonfinite} values not finite" if data.num_nonfinite else ""
    finish_column_figure(figure, marks, [f"training of the {data.stage_kind}", seeds, left_out])
    return figure


def _name_stages(curves: pd.DataFrame, named: pd.DataFrame, axes: Axes, kind: str) -> pd.DataFrame:
    """The curves with `colour` and `shape`; a stage that no row shows goes by its label."""
    labels = curves["label"].astype(object)
    unknown = curves.assign(colour=labels, shape=kind)
    column = KEY_COLUMNS.get(kind)
    if column is None or named.empty:
        return unknown
    rows = named.dropna(subset=[column]).drop_duplicates(column).set_index(column)
    # What the generator alone has tells no tokenizers apart.
    own = [axis for axis in axes.listed if kind == "generator" or axis.moves_tokenizer]
    colours = [axis for axis in own if axis in axes.colours] or own[:1]
    colour = join_texts(rows, colours).replace("", "all")
    shape = join_texts(rows, [axis for axis in own if axis not in colours])
    return unknown.assign(
        colour=curves["key"].map(colour).astype(object).fillna(labels),
        shape=curves["key"].map(shape).astype(object).fillna(kind),
    )
