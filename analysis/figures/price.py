"""Price: generation distance against what a sample costs, a line a system or solver.

The sampler is part of a protocol, so rows of unlike solvers or steps are of unlike protocol. Here,
and only here, they are put together where their protocols differ in sampler and guidance alone.
"""

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.cells.cells import Cells, average_rows, compute_cells, describe_rows, order_points
from analysis.cells.lines import describe_lines, join_texts, name_trainings
from analysis.figures.column import COLUMN_INCH, describe_setting, finish_column_figure
from analysis.figures.marks import scale_axis
from analysis.figures.panels import Panel, draw_panels, require_points
from analysis.table.columns import measures_of
from analysis.table.protocols import OF_SAMPLING, group_but_for, split_by_protocol

PRICES = {
    "sample_evaluations": "evaluations a sample\n(in full-size ones)",
    "sample_images_per_s": "samples a second\n(measured)",
}
"""Horizontal axes of the panels: column of the table and its label."""


def compute_price(table: pd.DataFrame) -> list[Cells]:
    """Computes generation distance by price.

    Returns:
        Cells of one figure for each group of rows whose protocols differ in sampler and guidance
        alone, where some setting of guidance has two prices or more. Their points have the new
        columns of `PRICES` and `system`, `way` (solver and guidance, as far as they differ).
    """
    done = table[(table["status"] == "done") & np.isfinite(table["gfid"])]
    done = done[np.isfinite(done["sample_evaluations"]) & done["protocol"].notna()]
    samplers = [json.loads(text).get("sampler") for text in done["protocol"]]
    groups = group_but_for(done.assign(solver=[*map(_name_solver, samplers)]), OF_SAMPLING)
    return [
        _compute_one(rows)
        for rows in groups
        if (rows.groupby("guidance")["sample_evaluations"].nunique() > 1).any()
    ]


def draw_price(cells: Cells, width_inch: float = COLUMN_INCH) -> Figure:
    """Draws generation distance against each price that is known."""
    prices, points = cells.known(PRICES), cells.points
    require_points(points, "price", "point with a price", cells.gaps)
    figure, grid, marks = draw_panels(
        points,
        [
            Panel(
                x=price,
                y="gfid",
                x_label=PRICES[price],
                y_label="" if number else cells.setting.distance_name,
            )
            for number, price in enumerate(prices)
        ],
        width_inch,
        lines=("system", "way"),
        num_columns=len(prices),
        share_y=True,
    )
    for axes, price in zip(grid[0], prices, strict=True):
        scale_axis(axes, "x", points[price])
    notes = describe_setting(cells.setting, len(cells.gaps))
    finish_column_figure(figure, marks, [*notes, "evaluations include guidance's"])
    return figure


def _name_solver(sampler: Any) -> str:
    """A solver in words; of a cascade those of its resolutions."""
    if not isinstance(sampler, dict):
        return str(sampler)
    kind = str(sampler.get("kind", "unknown"))
    if "stages" not in sampler:
        return kind
    stages = dict.fromkeys(str(stage.get("kind")) for stage in sampler["stages"])
    return f"{kind} {'+'.join(stages)}"


def _compute_one(rows: pd.DataFrame) -> Cells:
    parts = [compute_cells(group, needs=("gfid",)) for group in split_by_protocol(rows).values()]
    used = rows[rows["row_id"].isin(pd.concat([part.rows["row_id"] for part in parts]))]
    # Named over all protocols at once: in one of them the axes of sampling have one value each.
    named, axes = describe_lines(used, apart=("guidance", "protocol_hash"))
    trainings = named.groupby(name_trainings(named))
    differing = [a for a in axes.listed if named[a.column].nunique(dropna=False) > 1]
    systems = [a for a in differing if trainings[a.column].nunique(dropna=False).max() <= 1]
    ways = [named[name] for name in ("solver", "guidance") if named[name].nunique() > 1]
    system = join_texts(named, systems) if systems or not ways else ways.pop(0)
    way = pd.Series("", index=named.index, dtype=object)
    for each in ways:
        way = way + ", " + each
    named = named.assign(system=system.replace("", "all"), way=way.str.strip(", "))
    first = ["system", "way", *axes.columns]
    points = average_rows(named, ["cell", "protocol_hash"], first=first, means=tuple(PRICES))
    points = order_points(points, axes, last="sample_evaluations")
    return Cells(
        rows=named.reset_index(drop=True),
        axes=axes,
        points=points.assign(line=points["system"] + ", " + points["way"]),
        given=parts[0].given.iloc[:0],
        gaps=pd.concat([part.gaps for part in parts], ignore_index=True),
        setting=describe_rows(named, points),
        measures=measures_of(rows),
    )
