"""The numbers behind the page's plot and table, as one JSON tree.

Columns are lists; values of configuration axes are positions in their lists of values, so that
ten thousand rows stay small. What is not finite is null, since JSON knows no NaN.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells.cells import describe_seeds, order_points
from analysis.cells.lines import SIZE, SIZE_AXIS, Axes, describe_lines, map_values
from analysis.group import GroupAnalysis
from analysis.table.columns import SEED_COLUMNS, Column, columns_of
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
ROLES = {"name": "cell", "colour": "colour", "mark": "marker", "rest": "panel"}
"""Columns of `describe_lines` by what the page's plot shows them with."""
SIGNIFICANT_DIGITS = 6


def build_data(groups: Sequence[GroupAnalysis]) -> dict[str, Any]:
    """The data of the interactive parts: a tree of JSON's types with a list of `protocols`."""
    return {"protocols": [_build_protocol(group) for group in groups]}


def dump_data(data: dict[str, Any]) -> str:
    """Writes the data so that no text in it ends the script element that holds it: no `<>&`."""
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
    rows, shown = describe_lines(rows)
    rows = rows.assign(kind=plain["alignment"], size=plain["generator_size"])
    setting = group.cells.setting
    varied = [name for name in rows.columns if str(name).startswith(AXIS)]
    about = columns_of(rows)
    own = [name for name in varied if about[name].axis != "seed"]
    axes = _list_axes(rows, [*own, *_undetermined(rows, own)])
    seeds = [name for name in varied if name not in own]
    row_axes = _list_axes(rows, [*ROW_AXES, *seeds])
    lines, roles = _place(rows, shown)
    names = [name for name in measures if np.isfinite(rows[name]).any()]
    return {
        "name": group.name,
        "distance": setting.distance_name,
        "setting": {"dataset": setting.dataset, "guidance": setting.guidance},
        "axes": axes,
        "rowAxes": row_axes,
        "metrics": [
            {
                "name": name,
                "label": group.cells.measures[name].full_label(setting.distance_name),
                "short": group.cells.measures[name].short_label,
                "better": group.cells.measures[name].better,
                "log": choose_scale(rows[name]) == "log",
            }
            for name in names
        ],
        "lines": lines,
        "means": _build_means(group, rows, roles, axes, names),
        "rows": _build_rows(rows, roles, [*axes, *row_axes], names),
        "published": [
            {"name": name, "rfid": _numbers(line["rfid"]), "gfid": _numbers(line["gfid"])}
            for name, line in group.published.lines()
        ],
    }


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
        values = _order_values(rows, column, columns[name], is_size=name in (SIZE, SIZE_AXIS))
        if len(values) > 1:
            about = columns[name]
            label = about.label or name.removeprefix(AXIS)
            leader = leaders.setdefault(tuple(pd.factorize(column)[0].tolist()), name)
            follows = "" if leader == name else columns[leader].label or leader.removeprefix(AXIS)
            axis = {"name": name, "label": label, "values": values, "follows": follows}
            axes.append({**axis, "isNumeric": about.is_number})
    return axes


def _order_values(
    rows: pd.DataFrame, column: pd.Series, about: Column, *, is_size: bool
) -> list[str]:
    """An axis's values as legends have them: sizes by parameters, choices in the sweep's order."""
    ranks: dict[Any, float] = {}
    if is_size:
        ranks = rows["generator_params"].groupby(column).mean().to_dict()
    elif about.axis == "categorical" and about.values:
        ranks = {_format_value(v): place for place, v in enumerate(json.loads(about.values))}
    last = float("inf")
    return sorted(column.unique(), key=lambda text: (ranks.get(text, last), _sort_key(text)))


def _place(rows: pd.DataFrame, axes: Axes) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What the plot tells rows apart by, and the place of each row among it.

    Roles and their order are those of the figures, so that a line has one colour and one name in
    both.
    """
    along, ordered = axes.along, order_points(rows, axes)
    lines: dict[str, Any] = {"prefix": along.text(0.0).removesuffix("0") if along else ""}
    roles: dict[str, list[Any]] = {"along": _numbers(rows["along"])}
    for role, column in ROLES.items():
        names = ordered[column].unique().tolist()
        roles[role] = pd.Categorical(rows[column], names).codes.tolist()
        lines[f"{role}s"] = names
    return lines, roles


def _axis_values(rows: pd.DataFrame, column: str) -> pd.Series:
    known = {"alignment": "kind", "generator_size": "size"}.get(column, column)
    return pd.Series(map_values(rows[known], _format_value), index=rows.index, dtype=object)


def _format_value(value: Any) -> str:
    if pd.isna(value):
        return "none"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _sort_key(text: str) -> tuple[int, float, str]:
    try:
        return 1, float(text), text
    except ValueError:
        return (0, 0.0, text) if text == "none" else (2, 0.0, text)


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
    members = used.groupby("cell", sort=False)["position"].agg(list)
    listed = [[int(each) for each in members[cell]] for cell in points["cell"]]
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
    rows: pd.DataFrame, roles: dict[str, list[Any]], axes: list[dict[str, Any]], names: list[str]
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
