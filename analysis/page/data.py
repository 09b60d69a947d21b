"""The numbers behind the page's plot and table, as one JSON tree.

Columns are lists; values of configuration axes are positions in their lists of values, so that
ten thousand rows stay small. What is not finite is null, since JSON knows no NaN.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells.cells import CELL_COLUMNS, describe_seeds
from analysis.cells.lines import name_lines
from analysis.group import GroupAnalysis
from analysis.table.columns import SEED_COLUMNS, columns_of
from analysis.table.scales import choose_scale

AXIS = "axis."
"""Start of the name of a column that holds what the sweep varied."""
CONFIGURATION_AXES = (
    *("alignment", "alignment_encoder", "vf_weight", "cos_margin", "distmat_margin"),
    *("adaptive_vf", "latent_dim", "tokenizer", "downsample", "generator", "generator_size"),
    *("patch_size", "label_policy", "provenance"),
)
"""Columns that a filter is made of where they differ and the axes do not say so already."""
ROW_AXES = (*SEED_COLUMNS, "generator_images")
"""The same for single rows."""
SIGNIFICANT_DIGITS = 6
NEEDS_LABEL = ("none", "true", "false", "yes", "no", "on", "off")
"""Values that say nothing without the name of their axis; nor does a number."""


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
    # The names of lines replace these two columns, whose values are axes nevertheless.
    plain = rows[["alignment", "generator_size"]]
    rows = name_lines(rows).assign(kind=plain["alignment"], size=plain["generator_size"])
    setting = group.cells.setting
    varied = [name for name in rows.columns if str(name).startswith(AXIS)]
    own = [name for name in varied if not _is_seed(rows, name)]
    axes = _list_axes(rows, [*own, *_undetermined(rows, own)])
    seeds = [name for name in varied if name not in own]
    row_axes = _list_axes(rows, [*ROW_AXES, *seeds])
    lines, roles = _place(rows, axes)
    names = [name for name in measures if np.isfinite(rows[name]).any()]
    return {
        "name": group.name,
        "distance": setting.distance_name,
        "setting": {"dataset": setting.dataset, "guidance": setting.guidance},
        "axes": axes,
        "rowAxes": row_axes,
        "metrics": [_describe_metric(name, rows, group) for name in names],
        "lines": lines,
        "means": _build_means(group, rows, roles, axes, names),
        "rows": _build_rows(rows, roles, [*axes, *row_axes], names),
        "published": [
            {"name": name, "rfid": _numbers(line["rfid"]), "gfid": _numbers(line["gfid"])}
            for name, line in group.published.lines()
        ],
    }


def _is_seed(rows: pd.DataFrame, name: str) -> bool:
    """Whether an axis means repetition; a CSV file says it by the axis's name alone."""
    kind = columns_of(rows)[name].axis
    return kind == "seed" if kind else name.endswith("seed")


def _undetermined(rows: pd.DataFrame, own: Sequence[str]) -> list[str]:
    """Configuration columns that differ between rows which agree in all the sweep's own axes.

    Those of a table without axes are all undetermined. Tables of several sweeps have some: what
    one sweep varied and another fixed.
    """
    if not own:
        return list(CONFIGURATION_AXES)
    texts = pd.DataFrame({name: _axis_values(rows, name) for name in [*own, *CONFIGURATION_AXES]})
    counts = texts.groupby(list(own), sort=False)[list(CONFIGURATION_AXES)].nunique()
    return [name for name in CONFIGURATION_AXES if (counts[name] > 1).any()]


def _list_axes(rows: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Columns in which rows differ, with their values in order.

    An axis that follows an earlier one, value for value, says which; it needs no filter then.
    """
    axes, columns = [], columns_of(rows)
    leaders: dict[tuple[int, ...], str] = {}
    for name in names:
        column = _axis_values(rows, name)
        values = sorted(column.unique(), key=_sort_key)
        if len(values) > 1:
            about = columns[name]
            label = about.label or name.removeprefix(AXIS)
            leader = leaders.setdefault(tuple(pd.factorize(column)[0].tolist()), name)
            follows = "" if leader == name else columns[leader].label or leader.removeprefix(AXIS)
            is_numeric = about.is_number and about.axis != "categorical"
            axis = {"name": name, "label": label, "values": values, "follows": follows}
            axes.append({**axis, "isNumeric": is_numeric})
    return axes


def _place(
    rows: pd.DataFrame, axes: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Says how the plot tells rows apart: colour, mark, what else splits lines, place along them.

    A table without axes of its own has lines through the latent dims, with the names that figures
    give them. Else a line runs along the latent dim or the first numeric axis; the first
    categorical axis of the rest is the colour, the generator size or the next one the mark.
    """
    leaders = [axis for axis in axes if not axis["follows"]]
    if not any(axis["name"].startswith(AXIS) for axis in axes):
        colour, mark = rows["alignment"].astype(str), rows["generator_size"].astype(str)
        rest, along = pd.Series("", index=rows.index), rows["latent_dim"]
        label, short = "latent dim", "d"
    else:
        numeric = [axis for axis in leaders if axis["isNumeric"]]
        through = _first(numeric, lambda axis: axis["name"].endswith("latent_dim")) or _first(
            numeric
        )
        left = [axis for axis in leaders if axis is not through]
        first = _first(left, lambda axis: not axis["isNumeric"]) or _first(left)
        left = [axis for axis in left if axis is not first]
        second = _first(left, lambda axis: axis["name"].endswith("size")) or _first(left)
        left = [axis for axis in left if axis is not second]
        colour, mark, rest = (_join_values(rows, each) for each in ([first], [second], left))
        along = rows[through["name"]] if through else pd.Series(np.nan, index=rows.index)
        label = short = through["label"] if through else ""
        if through and through["name"].endswith("latent_dim"):
            short = "d"
    roles: dict[str, list[Any]] = {"along": _numbers(along)}
    lines: dict[str, Any] = {"along": {"label": label, "short": short}}
    for role, texts in (("colour", colour), ("mark", mark), ("rest", rest)):
        places, names = pd.factorize(texts)
        roles[role], lines[f"{role}s"] = places.tolist(), [str(name) for name in names]
    return lines, roles


def _first(
    axes: Sequence[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool] = bool
) -> dict[str, Any] | None:
    return next(filter(wanted, axes), None)


def _join_values(rows: pd.DataFrame, axes: Sequence[dict[str, Any] | None]) -> pd.Series:
    """The values of some axes as one text a row, with the names of axes where they are needed."""
    texts = pd.Series("", index=rows.index, dtype=object)
    for axis in filter(None, axes):
        named = {value: _name_value(axis, value) for value in axis["values"]}
        mine = _axis_values(rows, axis["name"]).map(named)
        texts = mine if (texts == "").all() else texts + ", " + mine
    return texts


def _name_value(axis: dict[str, Any], value: str) -> str:
    is_plain = not axis["isNumeric"] and value.lower() not in NEEDS_LABEL
    return value if is_plain else f"{axis['label']} {value}"


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
    group: GroupAnalysis,
    rows: pd.DataFrame,
    roles: dict[str, list[Any]],
    axes: list[dict[str, Any]],
    names: list[str],
) -> dict[str, Any]:
    """The cells, in their order, each with the positions of its rows."""
    points, used = group.cells.points, group.cells.rows
    position = pd.Series(rows.index, index=rows["row_id"])
    used = used.assign(position=used["row_id"].map(position))
    members = used.groupby(list(CELL_COLUMNS), sort=False)["position"].agg(list)
    keys = list(points[list(CELL_COLUMNS)].itertuples(index=False, name=None))
    listed = [[int(each) for each in members[key]] for key in keys]
    first = [each[0] for each in listed]
    return {
        **{role: [values[row] for row in first] for role, values in roles.items()},
        "axes": _build_axes(rows.loc[first], axes),
        "seeds": [int(count) for count in points["num_seeds"]],
        "tokenizers": [int(count) for count in points["num_tokenizers"]],
        "members": listed,
        "metrics": {name: _numbers(points[name]) for name in names},
        "errors": {name: _numbers(points[f"{name}_se"]) for name in names},
    }


def _build_rows(
    rows: pd.DataFrame,
    roles: dict[str, list[Any]],
    axes: list[dict[str, Any]],
    names: list[str],
) -> dict[str, Any]:
    seeds = rows[list(SEED_COLUMNS)].itertuples(index=False, name=None)
    errors = {"gfid": _numbers(rows["gfid_se"])} if rows["gfid_se"].notna().any() else {}
    return {
        **roles,
        "axes": _build_axes(rows, axes),
        "rowId": rows["row_id"].tolist(),
        "trial": rows["trial_id"].fillna("").tolist(),
        "repetition": [_describe_seeds(each) for each in seeds],
        "images": _numbers(rows["generator_images"]),
        "metrics": {name: _numbers(rows[name]) for name in names},
        "errors": errors,
    }


@lru_cache(maxsize=1024)
def _describe_seeds(seeds: tuple[float, ...]) -> str:
    row = pd.Series(seeds, index=SEED_COLUMNS)
    return describe_seeds(row) if row.notna().all() else "seed unknown"


def _build_axes(rows: pd.DataFrame, axes: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The place of each row's value among an axis's values."""
    places = {}
    for axis in axes:
        known = {value: index for index, value in enumerate(axis["values"])}
        places[axis["name"]] = _axis_values(rows, axis["name"]).map(known).astype(int).tolist()
    return places


def _numbers(values: pd.Series) -> list[float | None]:
    return [
        float(f"{value:.{SIGNIFICANT_DIGITS}g}") if np.isfinite(value) else None
        for value in values.to_numpy(dtype=float)
    ]
