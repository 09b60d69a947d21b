"""The numbers behind the page's plot and table, as one JSON tree.

Columns are lists; values of configuration axes are positions in their lists of values, so that
ten thousand rows stay small. What is not finite is null, since JSON knows no NaN.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells.cells import CELL_COLUMNS, describe_seeds
from analysis.cells.lines import name_lines
from analysis.group import GroupAnalysis
from analysis.table.columns import SEED_COLUMNS, columns_of
from analysis.table.scales import choose_scale

CONFIGURATION_AXES = (
    *("alignment", "alignment_encoder", "vf_weight", "cos_margin", "distmat_margin"),
    *("adaptive_vf", "latent_dim", "tokenizer", "downsample", "generator", "generator_size"),
    *("patch_size", "label_policy", "provenance"),
)
"""Columns that a filter is made of where they differ."""
ROW_AXES = (*SEED_COLUMNS, "generator_images")
"""The same for single rows."""
SIGNIFICANT_DIGITS = 6


def build_data(groups: Sequence[GroupAnalysis]) -> dict[str, Any]:
    """Builds the data of the interactive parts.

    Args:
        groups: One a protocol.

    Returns:
        A tree of JSON's types: `protocols`, each with `axes`, `metrics`, `means` and `rows`.
    """
    return {"protocols": [_build_protocol(group) for group in groups]}


def dump_data(data: dict[str, Any]) -> str:
    """Writes the data so that no text in it can end the script element that holds it.

    Args:
        data: From `build_data`.

    Returns:
        JSON without `<`, `>`, `&` and line separators.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _build_protocol(group: GroupAnalysis) -> dict[str, Any]:
    rows, measures = group.rows, list(group.cells.measures)
    finite = np.isfinite(rows[measures].to_numpy(dtype=float)).any(axis=1)
    measured = (rows["status"] == "done").to_numpy() & finite
    rows = rows[measured].reset_index(drop=True)
    rows = name_lines(rows).assign(kind=rows["alignment"], size=rows["generator_size"])
    setting = group.cells.setting
    axes = _list_axes(rows, CONFIGURATION_AXES)
    row_axes = _list_axes(rows, ROW_AXES)
    names = [name for name in measures if np.isfinite(rows[name]).any()]
    return {
        "name": group.name,
        "distance": setting.distance_name,
        "setting": {"dataset": setting.dataset, "guidance": setting.guidance},
        "axes": axes,
        "rowAxes": row_axes,
        "metrics": [_describe_metric(name, rows, group) for name in names],
        "lines": {
            "alignments": [str(name) for name in rows["alignment"].unique()],
            "sizes": [str(name) for name in rows["generator_size"].unique()],
        },
        "means": _build_means(group, rows, axes, names),
        "rows": _build_rows(rows, [*axes, *row_axes], names),
        "published": [
            {"name": name, "rfid": _numbers(line["rfid"]), "gfid": _numbers(line["gfid"])}
            for name, line in group.published.lines()
        ],
    }


def _list_axes(rows: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Columns in which rows differ, with their values in order."""
    axes, columns = [], columns_of(rows)
    for column in names:
        source = _axis_values(rows, column)
        values = sorted(source.unique(), key=_sort_key)
        if len(values) > 1:
            axes.append({"name": column, "label": columns[column].label, "values": values})
    return _mark_followers(rows, axes)


def _mark_followers(rows: pd.DataFrame, axes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Says of an axis which earlier one it follows, value for value; it needs no filter then."""
    known: dict[tuple[int, ...], str] = {}
    for axis in axes:
        codes = tuple(pd.factorize(_axis_values(rows, axis["name"]))[0].tolist())
        axis["follows"] = known.setdefault(codes, axis["label"])
        if axis["follows"] == axis["label"]:
            axis["follows"] = ""
    return axes


def _axis_values(rows: pd.DataFrame, column: str) -> pd.Series:
    known = {"alignment": "kind", "generator_size": "size"}.get(column, column)
    return rows[known].map(_format_value, na_action=None).astype(object)


def _format_value(value: Any) -> str:
    if pd.isna(value):
        return "none"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _sort_key(text: str) -> tuple[int, float, str]:
    try:
        return 1, float(text), text
    except ValueError:
        return (0, 0.0, text) if text == "none" else (2, 0.0, text)


def _describe_metric(name: str, rows: pd.DataFrame, group: GroupAnalysis) -> dict[str, Any]:
    measure = group.cells.measures[name]
    return {
        "name": name,
        "label": measure.full_label(group.cells.setting.distance_name),
        "short": measure.short_label,
        "better": measure.better,
        "log": choose_scale(rows[name]) == "log",
    }


def _build_means(
    group: GroupAnalysis, rows: pd.DataFrame, axes: list[dict[str, Any]], names: list[str]
) -> dict[str, Any]:
    """The cells, in their order, each with the positions of its rows."""
    points, used = group.cells.points, group.cells.rows
    position = pd.Series(rows.index, index=rows["row_id"])
    used = used.assign(position=used["row_id"].map(position))
    members = used.groupby(list(CELL_COLUMNS), sort=False)["position"].agg(list)
    keys = list(points[list(CELL_COLUMNS)].itertuples(index=False, name=None))
    listed = [[int(each) for each in members[key]] for key in keys]
    first = rows.loc[[each[0] for each in listed]].reset_index(drop=True)
    return {
        **_build_columns(first, axes),
        "seeds": [int(count) for count in points["num_seeds"]],
        "tokenizers": [int(count) for count in points["num_tokenizers"]],
        "members": listed,
        "metrics": {name: _numbers(points[name]) for name in names},
        "errors": {name: _numbers(points[f"{name}_se"]) for name in names},
    }


def _build_rows(rows: pd.DataFrame, axes: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    seeds = rows[list(SEED_COLUMNS)].drop_duplicates()
    described = {
        _name_seeds(row): describe_seeds(row) if row.notna().all() else "seed unknown"
        for _, row in seeds.iterrows()
    }
    keys = [_name_seeds(row) for row in rows[list(SEED_COLUMNS)].itertuples(index=False)]
    errors = {"gfid": _numbers(rows["gfid_se"])} if rows["gfid_se"].notna().any() else {}
    return {
        **_build_columns(rows, axes),
        "rowId": rows["row_id"].tolist(),
        "trial": rows["trial_id"].fillna("").tolist(),
        "repetition": [described[key] for key in keys],
        "images": _numbers(rows["generator_images"]),
        "metrics": {name: _numbers(rows[name]) for name in names},
        "errors": errors,
    }


def _name_seeds(seeds: Iterable[float]) -> str:
    """A key of three seeds that holds for missing ones too, which equal nothing."""
    return " ".join(f"{seed:g}" for seed in seeds)


def _build_columns(rows: pd.DataFrame, axes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "alignment": [str(name) for name in rows["alignment"]],
        "size": [str(name) for name in rows["generator_size"]],
        "dim": _numbers(rows["latent_dim"]),
        "axes": {
            axis["name"]: _axis_values(rows, axis["name"])
            .map({value: index for index, value in enumerate(axis["values"])})
            .astype(int)
            .tolist()
            for axis in axes
        },
    }


def _numbers(values: pd.Series) -> list[float | None]:
    return [
        float(f"{value:.{SIGNIFICANT_DIGITS}g}") if np.isfinite(value) else None
        for value in values.to_numpy(dtype=float)
    ]
