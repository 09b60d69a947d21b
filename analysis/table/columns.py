"""Columns of a results table as it describes them itself, and what the analysis needs beyond.

Names, types, directions and labels stand in the table's Parquet schema, where the harness wrote
them. `data/columns.json` holds the same for tables without: CSV files, and Parquet files of earlier
revisions. A column that neither knows has the type that it is stored with.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import pandas as pd
import pyarrow as pa

REQUIRED_COLUMNS = (
    *("row_id", "trial_id", "sweep", "status", "error", "dataset", "resolution", "tokenizer"),
    *("downsample", "latent_dim", "alignment", "alignment_encoder", "vf_weight", "cos_margin"),
    *("distmat_margin", "adaptive_vf", "generator", "generator_size", "patch_size"),
    *("generator_params", "seed", "tokenizer_seed", "generator_seed", "evaluation_seed"),
    *("generator_images", "guidance", "guidance_scale", "label_policy", "rfid", "psnr", "ssim"),
    *("lpips", "gfid", "label_accuracy", "num_images", "num_reconstructions", "extractor"),
    *("distance_name", "protocol_hash", "reconstruction_protocol_hash", "protocol"),
    *("reconstruction_protocol", "tokenizer_key", "generator_key", "tokenizer_s", "generator_s"),
    *("train_flops", "device", "git_revision", "created", "schema_version"),
)
"""Columns without which a table is refused: every table has them since schema version 1. A later
column that a table lacks is read as missing throughout."""

SEED_COLUMNS = ("tokenizer_seed", "generator_seed", "evaluation_seed")
"""Columns that together name a repetition; the trial's `seed` is only their default."""

GIVEN = "given"
"""Provenance of images made elsewhere."""
GIVEN_MAY_LACK = ("latent_dim", "alignment", "generator_size", "tokenizer_key")
"""Columns that nobody may know of given images; they are then no points of a frontier."""

STATUSES = ("done", "failed", "blocked", "diverged", "pending")
"""States of a row."""

TYPES = ("count", "number", "text")
"""Types of columns; each can hold what the ones before it hold."""
ATTRIBUTE = "columns"
"""Key of a frame's `attrs` that says what its columns are. Pandas hands `attrs` on to the frames
that are made from a frame; it is text, so that copies are cheap and the frame can be stored."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Description of one column; the fields are those of the Parquet schema's metadata."""

    type: str
    """One of `TYPES`."""
    description: str = ""
    """Its meaning; empty where only the type is known."""
    unit: str = ""
    better: str = "none"
    """Which way is better: `lower`, `higher` or `none`."""
    measured_on: str = "trial"
    """Object that it is a property of, such as `tokenizer`, `latents` or `samples`."""
    label: str = ""
    """Name in figures and tables; the table's `distance_name` joins where it ends in a colon."""
    axis: str = ""
    """`seed`, `numeric` or `categorical` of an axis of the sweep; else empty."""
    values: str = "[]"
    """Values of an axis in the order of the sweep file, JSON."""
    baseline: str = "null"
    """Value of an axis that the others are compared with, JSON."""
    moves_with: str = "[]"
    """Columns of axes that move together with this one, JSON."""

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers."""
        return self.type != "text"

    @property
    def is_measure(self) -> bool:
        """Whether it is averaged over repetitions, compared and drawn."""
        return self.is_number and bool(self.label) and self.better in ("lower", "higher")

    @property
    def of_tokenizer(self) -> bool:
        """Whether repetitions that share a tokenizer share the value, which then counts once."""
        return self.measured_on in ("tokenizer", "reconstructions", "latents")

    @property
    def short_label(self) -> str:
        """The label where the distance goes without saying."""
        return self.label.rstrip(":")

    def full_label(self, distance_name: str) -> str:
        """The label with the distance as the table calls it: "generation: FID", "PSNR (dB)"."""
        return f"{self.label} {distance_name}" if self.label.endswith(":") else self.label


Columns = Mapping[str, Column]
"""Columns by name."""


@cache
def known_columns() -> Columns:
    """The columns of the harness, as of the revision that this package came with."""
    file = resources.files("analysis") / "data" / "columns.json"
    return _parse(file.read_text(encoding="utf-8"))


def columns_of(table: pd.DataFrame) -> dict[str, Column]:
    """Descriptions of a table's columns, and of those of the harness that it lacks.

    A table that `load_table` or `check_table` gave knows them, and what pandas makes of it does.
    """
    known = {**known_columns(), **_parse(table.attrs.get(ATTRIBUTE, "{}"))}
    stored = {str(name): Column(type=_type_of(dtype)) for name, dtype in table.dtypes.items()}
    return {**known, **{name: column for name, column in stored.items() if name not in known}}


def measures_of(table: pd.DataFrame) -> dict[str, Column]:
    """The columns of a table that are averaged over repetitions, compared and drawn."""
    return {name: column for name, column in columns_of(table).items() if column.is_measure}


def diagnostics_of(measures: Columns) -> list[str]:
    """Measures of latents and of tokenizers; whether they help generation is for data to say."""
    about = ("latents", "tokenizer")
    return [name for name, column in measures.items() if column.measured_on in about]


def join_columns(tables: Iterable[Columns]) -> dict[str, Column]:
    """The columns of several tables; where these differ, the first that describes it counts.

    Types that are described both ways become the wider one, so that no value is lost.
    """
    joined: dict[str, Column] = {}
    for name, column in (each for columns in tables for each in columns.items()):
        known = joined.setdefault(name, column)
        if not known.description and column.description:
            joined[name] = column
        elif bool(known.description) == bool(column.description):
            wider = max(known.type, column.type, key=TYPES.index)
            joined[name] = replace(known, type=wider)
    return joined


def write_columns(columns: Columns) -> str:
    """Text for a frame's `ATTRIBUTE`."""
    return json.dumps({name: asdict(column) for name, column in columns.items()})


def read_schema(schema: pa.Schema) -> dict[str, Column]:
    """Descriptions that a Parquet schema holds; columns without one are left out; ValueError where
    a column has a type that is not one of `TYPES`."""
    columns: dict[str, Column] = {}
    for field in schema:
        about = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        # Earlier revisions wrote a description alone, and pandas writes nothing.
        if "type" in about:
            columns[field.name] = _column(field.name, about)
    return columns


def _column(name: str, about: Mapping[str, str]) -> Column:
    if about["type"] not in TYPES:
        raise ValueError(f"the type of '{name}' must be one of {TYPES}, but is '{about['type']}'")
    fields = Column.__dataclass_fields__
    return Column(**{key: text for key, text in about.items() if key in fields})


@lru_cache(maxsize=64)
def _parse(text: str) -> Columns:
    return {name: _column(name, about) for name, about in json.loads(text).items()}


def _type_of(dtype: Any) -> str:
    """The type of a column of which nothing else is known."""
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        return "text"
    return "count" if pd.api.types.is_integer_dtype(dtype) else "number"
