"""Reading the results table: the only interface between the harness and the analysis.

`analysis.table.columns` says what columns there are, `load_table` refuses a table that does not
keep to it, and `load_tables` joins those of several sweeps.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from analysis.table.columns import (
    ATTRIBUTE,
    GIVEN,
    GIVEN_MAY_LACK,
    REQUIRED_COLUMNS,
    SEED_COLUMNS,
    STATUSES,
    Column,
    Columns,
    columns_of,
    join_columns,
    known_columns,
    read_schema,
    write_columns,
)
from analysis.table.protocols import parse_protocol

SUFFIXES = (".parquet", ".csv")
"""Formats of stored tables, the preferred one first."""


def load_table(path: Path | str) -> pd.DataFrame:
    """Reads and checks a results table.

    Args:
        path: A results folder with `table.parquet` or `table.csv` (the first is preferred), or
            one of these files.

    Returns:
        The table; counts and numbers are floats with NaN where missing, the rest is text or None.
        Columns that the table lacks, being older, are missing throughout. A column that only this
        table has keeps the type and the words of its schema; see `columns_of`.

    Raises:
        ValueError: If there is no table, it cannot be read, lacks a column, has a value of the
            wrong type, repeats a row or has a metric without its protocol.
    """
    file = find_stored(Path(path), "table") if Path(path).is_dir() else Path(path)
    if file is None or not (file.is_file() and file.suffix in SUFFIXES):
        raise ValueError(
            "the results must hold table.parquet or table.csv, but nothing of that name is at"
            f" {path}; name the folder that a sweep wrote, or run the sweep first"
        )
    return check_table(read_stored(file), source=str(file))


def load_tables(paths: Sequence[Path | str]) -> pd.DataFrame:
    """Reads and joins the results tables of several sweeps, of any schema version.

    A row that several tables have stands once: sweeps that share a trial share its row. Where it
    is done in one of them only, that one counts.

    Returns:
        The joined table, in the order of the paths, with the new column `results_dir`: the path
        that the row came from, as it was given.

    Raises:
        ValueError: If there is no path, a table is wrong as in `load_table`, or tables have a row
            in common whose distances differ.
    """
    if not paths:
        raise ValueError("there must be a results folder, but none came; name one or more")
    tables = [load_table(path).assign(results_dir=str(path)) for path in paths]
    joined = concat_tables(tables)
    _refuse_conflicts(joined)
    done_first = joined.assign(later=joined["status"] != "done")
    kept = done_first.sort_values("later", kind="stable").drop_duplicates("row_id")
    return joined.loc[kept.index.sort_values()].reset_index(drop=True)


def concat_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Puts checked tables below each other; every column keeps the type that it has there."""
    if len(tables) == 1:
        return tables[0].reset_index(drop=True)
    columns = join_columns(columns_of(table) for table in tables)
    # Without a type pandas would take that of the values, and an all-missing column has none.
    return pd.concat([_typed(each, columns, "a table") for each in tables], ignore_index=True)


def check_table(table: pd.DataFrame, *, source: str = "the table") -> pd.DataFrame:
    """Checks a table in memory as `load_table` does a stored one; returns a new one."""
    table = table.rename(columns=str)
    for column in REQUIRED_COLUMNS:
        if column not in table.columns:
            near = difflib.get_close_matches(column, list(table.columns), n=1)
            hint = f" (is '{near[0]}' meant?)" if near and near[0] not in REQUIRED_COLUMNS else ""
            raise ValueError(
                f"{source} must have the column '{column}' ({known_columns()[column].description}),"
                f" but it is missing{hint}; compile the table again by running the sweep again"
            )
    columns = _with_axes(columns_of(table), table)
    checked = _typed(table, columns, source).reset_index(drop=True)
    _check_rows(checked, source)
    return checked


def _typed(table: pd.DataFrame, columns: Columns, source: str) -> pd.DataFrame:
    """A table with all of these columns, each of its type, and the words on them in `attrs`."""
    absent = [name for name in columns if name not in table.columns]
    whole = table.reindex(columns=[*table.columns, *absent])
    typed = pd.DataFrame(
        {
            name: (_to_number if columns[name].is_number else _to_text)(whole, name, source)
            for name in whole.columns
        }
    )
    typed.attrs = {**table.attrs, ATTRIBUTE: write_columns(columns)}
    return typed


def _refuse_conflicts(joined: pd.DataFrame) -> None:
    """Refuses one row with two results: which of them to believe is the user's to say."""
    done = joined[joined["status"] == "done"]
    for metric in ("rfid", "gfid"):
        differs = done.groupby("row_id")[metric].nunique() > 1
        if differs.any():
            row_id = differs[differs].index[0]
            rows = done[done["row_id"] == row_id]
            values = " and ".join(
                f"{value:g} ({place})"
                for value, place in zip(rows[metric], rows["results_dir"], strict=True)
            )
            raise ValueError(
                f"a row of several results must have one {metric}, but row {row_id} has {values};"
                " give one of the folders, or set them side by side with"
                " `python -m analysis.compare`"
            )


def find_stored(folder: Path, name: str) -> Path | None:
    """The Parquet or CSV file of a name in a folder, Parquet before CSV; None without either."""
    files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def read_stored(file: Path) -> pd.DataFrame:
    """Reads a Parquet file with what its schema says of the columns, or a CSV file as text."""
    try:
        if file.suffix == ".csv":
            return pd.read_csv(file.absolute(), dtype=str, keep_default_na=False, na_values=[""])
        # Not `pq.read_table`, which takes a folder `a=b` in the path for a further column.
        with pq.ParquetFile(file.absolute()) as stored:
            table = stored.read()
        frame = table.to_pandas()
        frame.attrs[ATTRIBUTE] = write_columns(read_schema(table.schema))
        return frame
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} must be a readable {file.suffix[1:]} table, but reading it gave: {error};"
            " delete it and run the sweep again to compile it anew"
        ) from error


def _with_axes(columns: Columns, table: pd.DataFrame) -> Columns:
    """The columns, with what names and values say of the axes of a CSV file."""
    axes: dict[str, Column] = {}
    for name, column in columns.items():
        if column.axis or column.description or not name.startswith("axis."):
            continue
        known = table[name].dropna()
        numbers = pd.to_numeric(known, errors="coerce")
        is_number = bool(numbers.notna().all())
        values = (numbers if is_number else known).unique().tolist()
        is_seed = name.endswith("seed")
        axes[name] = Column(
            type="number" if is_number else "text",
            label=name.rpartition(".")[2],
            axis="seed" if is_seed else "numeric" if is_number else "categorical",
            values=json.dumps(values),
            baseline=json.dumps(values[0] if values and not is_seed else None),
        )
    return {**columns, **axes}


def _to_number(table: pd.DataFrame, column: str, source: str) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce")
    text = table[column].map(lambda value: str(value).strip().lower(), na_action="ignore")
    wrong = numbers.isna() & text.notna() & ~text.isin(["nan", "none", ""])
    if wrong.any():
        position = int(wrong.to_numpy().argmax())
        raise ValueError(
            f"{source}: the column '{column}' must hold numbers, but row {position + 1} has"
            f" '{table[column].iloc[position]}'; mend the row or leave its value empty"
        )
    return numbers.astype(float)


def _to_text(table: pd.DataFrame, column: str, source: str) -> pd.Series:
    text = table[column].astype(object).map(str, na_action="ignore").astype(object)
    return text.where(text.notna(), None)


def _check_rows(table: pd.DataFrame, source: str) -> None:
    unknown = ~table["status"].isin(STATUSES)
    _refuse(table, source, unknown, f"'status' must be one of {', '.join(STATUSES)}")
    _refuse(table, source, table["row_id"].isna(), "'row_id' must name the row")
    _refuse(table, source, table["row_id"].duplicated(), "'row_id' must be unique")
    done = table["status"] == "done"
    # A trial of a tokenizer alone has rfid and no generator.
    of_generator = ("generator_size", "generator_seed")
    given = table["provenance"] == GIVEN
    identity = (
        *("latent_dim", "alignment", "tokenizer_key", "distance_name"),
        *(column for column in SEED_COLUMNS if column not in of_generator),
    )
    needs = {
        "rfid": ("reconstruction_protocol_hash", *identity),
        "gfid": ("protocol_hash", *identity, *of_generator),
    }
    for metric, columns in needs.items():
        measured = done & table[metric].notna()
        for column in columns:
            bad = measured & table[column].isna()
            if column in GIVEN_MAY_LACK:
                bad &= ~given
            _refuse(table, source, bad, f"'{column}' must be known where '{metric}' is")
    for column in ("protocol", "reconstruction_protocol"):
        for text, row_ids in table.groupby(column, sort=False)["row_id"]:
            parse_protocol(str(text), source=f"'{column}' of row {row_ids.iloc[0]}")


def _refuse(table: pd.DataFrame, source: str, bad: pd.Series, rule: str) -> None:
    if bad.any():
        row = table[bad].iloc[0]
        column = rule.split("'")[1]
        raise ValueError(
            f"{source}: {rule}, but row {row['row_id']} has '{row[column]}';"
            " mend the row's file and run the sweep again to compile the table anew"
        )
