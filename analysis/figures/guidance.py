"""Guidance: generation distance and inception score against the guidance scale.

Guidance is part of a protocol, so rows of unlike scale are of unlike protocol. Here, and only
here, scale is the axis: rows are put together where their protocols differ in nothing else.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.cells.cells import Setting, compute_cells, describe_rows
from analysis.figures.column import describe_setting, finish_column_figure
from analysis.figures.panels import Panel, draw_panels
from analysis.table.columns import Columns, measures_of
from analysis.table.protocols import split_by_protocol

METRIC_PANELS = ("gfid", "inception_score")


@dataclass(frozen=True, kw_only=True)
class GuidanceData:
    """What one guidance figure shows."""

    points: pd.DataFrame
    """One line a cell and guidance setting: the columns of `Cells.points`, `guidance`,
    `guidance_scale` (1 without guidance) and `family`: the setting but for its scale."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`."""
    setting: Setting
    """What the points have in common."""
    measures: Columns
    """What is averaged, as the table describes it."""

    def metrics(self) -> list[str]:
        """The columns of `METRIC_PANELS` that some point has."""
        return [name for name in METRIC_PANELS if np.isfinite(self.points[name]).any()]


def compute_guidance(table: pd.DataFrame) -> list[GuidanceData]:
    """Computes the metrics by guidance scale.

    Args:
        table: Any table that `load_table` accepted, of one protocol or several.

    Returns:
        One figure's data for each group of rows whose protocols differ in guidance alone, where
        it has two scales or more.

    Raises:
        ValueError: If a cell holds one repetition twice.
    """
    done = table[(table["status"] == "done") & np.isfinite(table["gfid"])]
    if done.empty:
        return []
    protocols = zip(done["protocol"], done["protocol_hash"], strict=True)
    rest = done.assign(
        rest=[_without_guidance(text, name) for text, name in protocols],
        guidance_scale=done["guidance_scale"].fillna(1.0),
    )
    shared = ["rest", "reconstruction_protocol_hash", "dataset", "extractor", "distance_name"]
    figures = []
    for _, rows in rest.groupby(shared, sort=False, dropna=False):
        if rows["guidance_scale"].nunique() > 1:
            figures.append(_compute_one(rows))
    return figures


def draw_guidance(data: GuidanceData) -> Figure:
    """Draws each metric that is known against the guidance scale.

    Args:
        data: One of `compute_guidance`.

    Returns:
        A figure one column wide.

    Raises:
        ValueError: If there are no points.
    """
    metrics = data.metrics()
    if not metrics:
        raise ValueError(
            "the guidance figure must have at least one point with a scale, but none came;"
            " add guidance settings to the sweep"
        )
    shape = data.points["generator_size"] + [f", d={dim:g}" for dim in data.points["latent_dim"]]
    if data.points.loc[data.points["family"] != "", "family"].nunique() > 1:
        shape = shape + data.points["family"].map(lambda family: f", {family}" if family else "")
    points = data.points.assign(shape=shape)
    figure, _, marks = draw_panels(
        points,
        [
            Panel(
                x="guidance_scale",
                y=metric,
                x_label="guidance scale (1: none)" if metric == metrics[-1] else "",
                y_label=data.measures[metric]
                .full_label(data.setting.distance_name)
                .replace(": ", ":\n"),
            )
            for metric in metrics
        ],
        lines=("alignment", "shape"),
        share_x=True,
    )
    finish_column_figure(figure, marks, describe_setting(data.setting, len(data.gaps)))
    return figure


def _without_guidance(text: Any, protocol_hash: Any) -> str:
    """A protocol but for its guidance; one whose fields are not known is like no other."""
    if not isinstance(text, str):
        return f"unknown {protocol_hash}"
    fields = json.loads(text)
    return json.dumps({k: v for k, v in fields.items() if k != "guidance"}, sort_keys=True)


def _compute_one(rows: pd.DataFrame) -> GuidanceData:
    parts, gaps, used = [], [], []
    for group in split_by_protocol(rows).values():
        cells = compute_cells(group, needs=("gfid",))
        scale, label = group["guidance_scale"].iloc[0], str(group["guidance"].iloc[0])
        parts.append(
            cells.points.assign(
                guidance=label,
                guidance_scale=scale,
                family=_name_family(group.iloc[0]),
            )
        )
        gaps.append(cells.gaps)
        used.append(cells.rows)
    points = pd.concat(parts, ignore_index=True)
    points = _start_at_none(points)
    return GuidanceData(
        points=points,
        gaps=pd.concat(gaps, ignore_index=True),
        setting=describe_rows(pd.concat(used), points),
        measures=measures_of(rows),
    )


def _name_family(row: pd.Series) -> str:
    """What a guided setting is called but for its scale; empty without guidance."""
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
