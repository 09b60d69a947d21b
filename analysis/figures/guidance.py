"""Guidance: generation distance and inception score against the guidance scale.

Guidance is part of a protocol, so rows of unlike scale are of unlike protocol. Here, and only
here, scale is the axis: rows are put together where their protocols differ in nothing else.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.cells.cells import Cells, compute_cells, describe_rows
from analysis.cells.lines import join_texts
from analysis.figures.column import COLUMN_INCH, describe_setting, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points
from analysis.table.protocols import group_but_for, split_by_protocol

METRIC_PANELS = ("gfid", "inception_score")


def compute_guidance(table: pd.DataFrame) -> list[Cells]:
    """Computes the metrics by guidance scale.

    Returns:
        Cells of one figure for each group of rows whose protocols differ in guidance alone, where
        it has two scales or more. Their points have the new columns `guidance`, `guidance_scale`
        (1 without guidance) and `family`: the setting but for its scale.
    """
    done = table[(table["status"] == "done") & np.isfinite(table["gfid"])]
    # A setting with a scale for each channel group has no place on an axis of one scale.
    unguided = done["guidance"].isna() | done["guidance"].isin(["none", "unknown"])
    done = done[done["guidance_scale"].notna() | unguided]
    done = done.assign(guidance_scale=done["guidance_scale"].fillna(1.0))
    groups = group_but_for(done, ("guidance",))
    return [_compute_one(rows) for rows in groups if rows["guidance_scale"].nunique() > 1]


def draw_guidance(cells: Cells, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws each metric that is known against the guidance scale."""
    metrics, points = cells.known(METRIC_PANELS), cells.points
    require_points(metrics, "guidance", "point with a scale", cells.gaps)
    rest = [axis for axis in cells.axes.listed if axis not in cells.axes.colours]
    shape = join_texts(points, rest)
    if points.loc[points["family"] != "", "family"].nunique() > 1:
        shape = shape + points["family"].map(lambda family: f", {family}" if family else "")
    labels = {
        metric: cells.measures[metric].full_label(cells.setting.distance_name) for metric in metrics
    }
    num_columns = 1 if width_inch == COLUMN_INCH else len(metrics)
    figure, _, marks = draw_panels(
        points.assign(shape=shape),
        [
            Panel(x="guidance_scale", y=metric, y_label=labels[metric].replace(": ", ":\n"))
            for metric in metrics
        ],
        width_inch,
        lines=("colour", "shape"),
        cell_axes=cells.axes,
        x_label="guidance scale (1: none)",
        num_columns=num_columns,
        share_x=True,
    )
    finish_column_figure(figure, marks, describe_setting(cells.setting, len(cells.gaps)))
    return figure


def _compute_one(rows: pd.DataFrame) -> Cells:
    parts = []
    for group in split_by_protocol(rows).values():
        cells = compute_cells(group, needs=("gfid",))
        first = group.iloc[0]
        about = {"guidance": str(first["guidance"]), "guidance_scale": first["guidance_scale"]}
        points = cells.points.assign(**about, family=_name_family(first))
        parts.append(replace(cells, points=points))
    axes = max((part.axes for part in parts), key=lambda each: len(each.listed))
    points = _start_at_none(pd.concat([part.points for part in parts], ignore_index=True))
    used = pd.concat([part.rows for part in parts])
    return replace(
        parts[0],
        rows=used,
        axes=axes,
        points=points,
        given=pd.concat([part.given for part in parts], ignore_index=True),
        gaps=pd.concat([part.gaps for part in parts], ignore_index=True),
        setting=describe_rows(used, points),
    )


def _name_family(row: pd.Series) -> str:
    """Name of a guided setting without its scale; empty without guidance."""
    if row["guidance"] == "none" or not isinstance(row["protocol"], str):
        return ""
    fields = json.loads(row["protocol"]).get("guidance", {})
    words = [f"{k} {v}" if k != "kind" else str(v) for k, v in fields.items() if k != "scale"]
    return " ".join(words) or str(row["guidance"]).split(" ")[0]


def _start_at_none(points: pd.DataFrame) -> pd.DataFrame:
    """Lets each family's line start at the unguided point, which belongs to all of them."""
    families = [str(name) for name in points["family"].unique() if name]
    unguided = points[points["family"] == ""]
    guided = points[points["family"] != ""]
    starts = [unguided.assign(family=family) for family in families]
    return pd.concat([*starts, guided], ignore_index=True) if families else points
