"""Keeping numbers of unlike protocols apart.

A protocol is everything that moves a metric without moving a model. The table carries its hashes
and its fields as JSON; here rows are told apart by the hashes and the fields say how they differ.
"""

import json
from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

PROTOCOL_COLUMNS = (
    *("protocol_hash", "reconstruction_protocol_hash"),
    *("dataset", "resolution", "extractor", "distance_name"),
)
"""Columns in which rows on one axis must agree; a missing value agrees with every value."""
DRAWING = ("sampler", "num_function_evaluations")
"""Fields of a protocol that say how a sample is drawn from a generator. A transformer that draws
one token after the other has no solver and a diffusion transformer no temperature, so generators
of unlike kinds may differ in them; those of one kind may not."""
OF_SAMPLING = (*DRAWING, "guidance")
"""Fields in which ways of sampling one generator differ."""
UNMEASURED = (*DRAWING, "protocol_hash")
MAX_NAMED = 3
"""Fields in the name of a group of rows, count, unless more are needed to tell groups apart."""


def require_one_protocol(table: pd.DataFrame) -> None:
    """Refuses rows whose numbers were measured in unlike ways; rows that are not done don't count.

    How samples are drawn may differ between kinds of generators, as in `split_by_protocol`.

    Raises:
        ValueError: If done rows differ in a protocol hash, data set, resolution, extractor or
            distance; the message spells out the fields that differ and the rows.
    """
    groups = _group_rows(table[table["status"] == "done"])
    if len(groups) < 2:
        return
    fields = [_fields_of(rows) for rows in groups]
    differences = []
    for name in _differing_names(fields):
        row_ids: dict[str, list[str]] = {}
        for known, rows in zip(fields, groups, strict=True):
            row_ids.setdefault(known.get(name, "absent"), []).extend(rows["row_id"])
        values = " or ".join(
            f"{value} (row{'s' if len(ids) > 1 else ''} {name_some(ids)})"
            for value, ids in row_ids.items()
        )
        differences.append(f"'{name}' is {values}")
    raise ValueError(
        f"rows on one axis must share one protocol, but {len(groups)} came:"
        f" {'; '.join(differences)};"
        " split the rows with split_by_protocol and draw one group at a time"
    )


def split_by_protocol(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Splits a table into groups of like protocol.

    A row without a protocol, such as a trial that failed early, is in every group, so that each
    group knows what it lacks. Generators of unlike kinds share a group where nothing but how they
    are sampled (`DRAWING`) tells them apart and each kind is sampled in one way.

    Returns:
        Groups by name, the largest number of done rows first, then the smaller guidance scale.
        A name lists the fields that tell the groups apart ("guidance=cfg 4.0"), at most
        `MAX_NAMED` where those are enough, and is empty where there is one group.
    """
    groups = _group_rows(table)
    if len(groups) == 1:
        return {"": groups[0]}
    groups.sort(key=lambda rows: (-int((rows["status"] == "done").sum()), _guidance_scale(rows)))
    fields = [_fields_of(rows) for rows in groups]
    names = _telling_names(fields)
    return {
        ", ".join(f"{name}={_shorten(name, known.get(name, 'absent'))}" for name in names): rows
        for known, rows in zip(fields, groups, strict=True)
    }


def group_but_for(rows: pd.DataFrame, fields: Collection[str]) -> list[pd.DataFrame]:
    """Groups rows whose protocols differ in some fields alone; an unknown one is like no other."""
    texts = [
        json.dumps({k: v for k, v in json.loads(text).items() if k not in fields}, sort_keys=True)
        if isinstance(text, str)
        else f"unknown {name}"
        for text, name in zip(rows["protocol"], rows["protocol_hash"], strict=True)
    ]
    rest = pd.Series(texts, index=rows.index)
    shared = ["reconstruction_protocol_hash", "dataset", "extractor", "distance_name"]
    keys = [rest, *(rows[column] for column in shared)]
    return [group for _, group in rows.groupby(keys, sort=False, dropna=False)]


def parse_protocol(text: str, *, source: str) -> dict[str, str]:
    """Reads a protocol's fields as text by dotted name ("guidance.scale")."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError:
        tree = None
    if not isinstance(tree, dict):
        raise ValueError(
            f"{source} must be a JSON object, but it is {text[:60]!r};"
            " mend the row's file and run the sweep again to compile the table anew"
        )
    return _flatten(tree)


def say_drawing(rows: pd.DataFrame) -> str:
    """How each kind of generator was sampled ("lightningdit euler, ..."); empty where all are
    alike."""
    known = rows[rows["protocol"].notna()]
    if known["protocol_hash"].nunique() < 2:
        return ""
    samplers = {
        kind: of_kind["protocol"].map(_name_sampler) for kind, of_kind in known.groupby("generator")
    }
    return ", ".join(f"{kind} {join_unique(names)}" for kind, names in samplers.items())


def format_value(value: object) -> str:
    """A number as briefly as it can be, text as it is."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def join_unique(values: pd.Series, separator: str = "/") -> str:
    """The values that occur, each once, as text; empty where none is known."""
    return separator.join(map(format_value, values.dropna().unique()))


def name_some(names: Iterable[object], separator: str = ", ") -> str:
    """The first three names, and how many more there are."""
    texts = list(map(str, names))
    return separator.join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def list_some(texts: Iterable[str], most: int, what: str = "") -> list[str]:
    """A list after hyphens; what is more than it may hold is counted."""
    lines = [f"- {text}" for text in texts]
    more = len(lines) - most
    return [*lines[:most], f"- and {more} more {what}".rstrip()] if more > 0 else lines


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _group_rows(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows by protocol; a row with missing values joins every group it does not contradict."""
    columns = list(PROTOCOL_COLUMNS)
    matched = pd.Series(False, index=table.index)
    groups: list[pd.DataFrame] = []
    # First those that know everything, then those that were measured in part.
    for is_known in (table[columns].notna().all(axis=1), table[columns[:2]].notna().any(axis=1)):
        for _, key in table.loc[is_known & ~matched, columns].drop_duplicates().iterrows():
            fits = ((table[columns] == key) | table[columns].isna()).all(axis=1)
            matched |= fits
            groups.append(table[fits])
    groups += [rows for _, rows in table[~matched].groupby(columns, dropna=False, sort=False)]
    return _join_kinds(table, groups) or [table]


def _join_kinds(table: pd.DataFrame, groups: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Joins groups of unlike generators that differ in `DRAWING` alone; see `split_by_protocol`."""
    alike: dict[tuple[tuple[str, str], ...], list[pd.DataFrame]] = {}
    for rows in groups:
        fields = _fields_of(rows).items()
        measured = [each for each in fields if each[0].split(".")[0] not in UNMEASURED]
        alike.setdefault(tuple(measured), []).append(rows)
    joined = []
    for same in alike.values():
        kinds = [kind for rows in same for kind in rows.loc[_is_whole(rows), "generator"].unique()]
        if len(set(kinds)) < len(kinds) or not kinds:
            joined += same
        else:
            joined.append(table[table.index.isin([label for rows in same for label in rows.index])])
    return joined


def _is_whole(rows: pd.DataFrame) -> pd.Series:
    return rows[list(PROTOCOL_COLUMNS)].notna().all(axis=1)


def _name_sampler(protocol: str) -> str:
    sampler = json.loads(protocol).get("sampler")
    return str(sampler["kind"]) if isinstance(sampler, dict) else str(sampler)


def _fields_of(rows: pd.DataFrame) -> dict[str, str]:
    """Fields of a group's protocol: those of its JSON, the label of guidance, columns."""
    whole = rows[_is_whole(rows)]
    known = whole if len(whole) else rows
    fields: dict[str, str] = {}
    if known["guidance"].notna().any():
        fields["guidance"] = join_unique(known["guidance"])
    for column, prefix in (("protocol", ""), ("reconstruction_protocol", "reconstruction.")):
        for text in known[column].dropna()[:1]:
            parsed = parse_protocol(str(text), source=f"'{column}'")
            fields |= {f"{prefix}{name}": value for name, value in parsed.items()}
    for column in PROTOCOL_COLUMNS:
        value = join_unique(known[column]) or "absent"
        fields[column] = value[:16] if column.endswith("_hash") else value
    return fields


def _differing_names(fields: list[dict[str, str]]) -> list[str]:
    """The fields that tell the groups apart; the hashes where nothing else does."""
    names = list(dict.fromkeys(name for known in fields for name in known))
    differing = [name for name in names if len({known.get(name) for known in fields}) > 1]
    readable = [name for name in differing if not name.endswith("protocol_hash")]
    enough = _count_distinct(fields, readable) == len(fields)
    return readable if enough else differing


def _telling_names(fields: list[dict[str, str]]) -> list[str]:
    """The fields that groups are named by: those that part them, then others to `MAX_NAMED`.

    Guidance's label comes before its parts, and what people read before hashes. Fields that follow
    from those named, as an extractor's hash from the data set, are in the message of
    `require_one_protocol` and in the page's facts.
    """
    parts = ("guidance.", "reconstruction.")
    differing = _differing_names(fields)
    order = sorted(differing, key=lambda n: (_is_digest(n), n.startswith(parts)))
    needed: list[str] = []
    for name in order:
        if _count_distinct(fields, [*needed, name]) > _count_distinct(fields, needed):
            needed.append(name)
    beside = [n for n in order if not _is_digest(n) and not n.startswith(parts)]
    others = [name for name in beside if name not in needed][: max(0, MAX_NAMED - len(needed))]
    return [name for name in differing if name in needed or name in others]


def _is_digest(name: str) -> bool:
    return name.endswith(("_hash", "sha256"))


def _shorten(name: str, value: str) -> str:
    return value[:8] if _is_digest(name) else value


def _count_distinct(fields: list[dict[str, str]], names: list[str]) -> int:
    return len({tuple(known.get(name) for name in names) for known in fields})


def _guidance_scale(rows: pd.DataFrame) -> float:
    scale = rows["guidance_scale"].min()
    return 1.0 if pd.isna(scale) else float(scale)
