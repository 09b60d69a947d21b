"""Reading the results table: the only interface between the harness and the analysis.

`REQUIRED_COLUMNS` says what is read from the table, `load_table` refuses a table that does not
keep to it, and `require_one_protocol` refuses to put numbers of unlike protocols on one axis.
"""

import difflib
from pathlib import Path

import pandas as pd

from analysis.protocol import parse_protocol, require_one_protocol, split_by_protocol

__all__ = [
    "NUMERIC_COLUMNS",
    "REQUIRED_COLUMNS",
    "SEED_COLUMNS",
    "STATUSES",
    "check_table",
    "load_table",
    "require_one_protocol",
    "split_by_protocol",
]

REQUIRED_COLUMNS: dict[str, str] = {
    "row_id": "name of the row, unique in the table",
    "trial_id": "name of the trial; one trial has a row per snapshot and guidance setting",
    "sweep": "name of the sweep",
    "status": "done, failed, blocked, diverged or pending",
    "error": "why the row is not done; missing when it is",
    "dataset": "name of the data set",
    "resolution": "height and width of the images, pixels",
    "tokenizer": "kind of the tokenizer",
    "downsample": "pixels per latent position along one side",
    "latent_dim": "channels of the latent",
    "alignment": "kind of the alignment, 'none' without one",
    "alignment_encoder": "network that the tokenizer is aligned with; missing without alignment",
    "vf_weight": "weight of the alignment loss; missing without alignment",
    "cos_margin": "margin of the cosine term, 0 to 1; missing without alignment",
    "distmat_margin": "margin of the distance-matrix term, 0 to 1; missing without alignment",
    "adaptive_vf": "whether gradient norms scale the weight, yes or no; missing without alignment",
    "generator": "kind of the generator",
    "generator_size": "name of the generator's size",
    "patch_size": "latent positions per token along one side, count",
    "generator_params": "parameters of the generator, count",
    "seed": "seed of the trial, the default of the three below",
    "tokenizer_seed": "seed of the tokenizer",
    "generator_seed": "seed of the generator",
    "evaluation_seed": "seed of noise and labels in the evaluation",
    "generator_images": "training images the generator has seen at this snapshot, count",
    "guidance": "label of the guidance setting, such as 'none' or 'cfg 4.0'",
    "guidance_scale": "guidance scale; 1 or missing without guidance",
    "label_policy": "how class labels of the samples are chosen",
    "rfid": "Fréchet distance of reconstructions to the originals, lower is better",
    "psnr": "peak signal-to-noise ratio of reconstructions, dB, higher is better",
    "ssim": "structural similarity of reconstructions, at most 1, higher is better",
    "lpips": "perceptual distance of reconstructions, lower is better",
    "gfid": "Fréchet distance of samples to the reference, lower is better",
    "label_accuracy": "share of samples recognised as the class asked for, 0 to 1",
    "num_images": "samples behind gfid, count",
    "num_reconstructions": "reconstructions behind rfid, count",
    "extractor": "feature network behind the distances",
    "distance_name": "name of the distances: 'in-domain Fréchet distance' or 'FID'",
    "protocol_hash": "hash of everything but the model that moves gfid, guidance included",
    "reconstruction_protocol_hash": "hash of everything but the model that moves rfid",
    "protocol": "the generation protocol's fields, JSON object",
    "reconstruction_protocol": "the reconstruction protocol's fields, JSON object",
    "tokenizer_key": "key of the tokenizer's artifact",
    "generator_key": "key of the generator's artifact",
    "tokenizer_s": "training time of the tokenizer, seconds",
    "generator_s": "training time of the generator, seconds",
    "train_flops": "training cost of tokenizer and generator, floating point operations",
    "device": "what the trial ran on",
    "git_revision": "revision of the code",
    "created": "when the row was written, ISO 8601",
    "schema_version": "version of the table's schema",
}
"""Every column that the analysis reads, with its meaning and unit."""

SEED_COLUMNS = ("tokenizer_seed", "generator_seed", "evaluation_seed")
"""Columns that together name a repetition; the trial's `seed` is only their default."""
NUMERIC_COLUMNS = (
    *("resolution", "downsample", "latent_dim", "vf_weight", "cos_margin", "distmat_margin"),
    *("patch_size", "generator_params", "seed", *SEED_COLUMNS, "generator_images"),
    *("guidance_scale", "rfid", "psnr", "ssim"),
    *("lpips", "gfid", "label_accuracy", "num_images", "num_reconstructions", "tokenizer_s"),
    *("generator_s", "train_flops"),
)
STATUSES = ("done", "failed", "blocked", "diverged", "pending")


def load_table(path: Path | str) -> pd.DataFrame:
    """Reads and checks a results table.

    Args:
        path: A results folder with `table.parquet` or `table.csv` (the first is preferred), or
            one of these files.

    Returns:
        The table; numbers are numeric with NaN where missing, the rest is text or missing.

    Raises:
        ValueError: If there is no table, it cannot be read, lacks a column, has a value of the
            wrong type, repeats a row or has a metric without its protocol.
    """
    file = _find_table(Path(path))
    return check_table(_read_table(file), source=str(file))


def check_table(table: pd.DataFrame, *, source: str = "the table") -> pd.DataFrame:
    """Checks a table in memory as `load_table` does a stored one.

    Args:
        table: Rows with at least `REQUIRED_COLUMNS`, missing values of any kind.
        source: What messages call the table.

    Returns:
        A new table; numbers are floats with NaN where missing, the rest is text or None.

    Raises:
        ValueError: As `load_table`.
    """
    for column in REQUIRED_COLUMNS:
        if column not in table.columns:
            near = difflib.get_close_matches(column, [str(name) for name in table.columns], n=1)
            hint = f" (is '{near[0]}' meant?)" if near and near[0] not in REQUIRED_COLUMNS else ""
            raise ValueError(
                f"{source} must have the column '{column}' ({REQUIRED_COLUMNS[column]}), but it is"
                f" missing{hint}; compile the table again by running the sweep again"
            )
    converted = {
        column: (_to_number if column in NUMERIC_COLUMNS else _to_text)(table, column, source)
        for column in REQUIRED_COLUMNS
    }
    checked = table.assign(**converted).reset_index(drop=True)
    _check_rows(checked, source)
    return checked


def _find_table(path: Path) -> Path:
    candidates = [path / "table.parquet", path / "table.csv"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix in (".parquet", ".csv"):
            return candidate
    raise ValueError(
        "the results must hold table.parquet or table.csv, but nothing of that name is at"
        f" {path}; name the folder that a sweep wrote, or run the sweep first"
    )


def _read_table(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} must be a readable {file.suffix[1:]} table, but reading it gave: {error};"
            " delete it and run the sweep again to compile it anew"
        ) from error


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
    needs = {"rfid": ("reconstruction_protocol_hash",), "gfid": ("protocol_hash",)}
    identity = (
        *("latent_dim", "alignment", "generator_size", "tokenizer_key", "distance_name"),
        *SEED_COLUMNS,
    )
    for metric, columns in needs.items():
        measured = done & table[metric].notna()
        for column in (*columns, *identity):
            bad = measured & table[column].isna()
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
