"""Cells: trials that differ in their seed alone, as mean, deviation and standard error.

A cell is one alignment × generator size × latent dim at the last snapshot of its trials. Figures
and words are made from cells; what could not become part of one is kept with its reason.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.protocol import join_unique, require_one_protocol

METRICS = ("rfid", "gfid", "psnr", "label_accuracy")
CELL_COLUMNS = ("alignment", "generator_size", "latent_dim")
DETAIL_COLUMNS = (
    *("tokenizer", "downsample", "vf_weight", "cos_margin", "distmat_margin"),
    *("generator", "label_policy"),
)
"""Columns that join a line's label where they vary within one cell."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rows of a figure have in common, as text for titles and footnotes."""

    dataset: str
    """Name of the data set."""
    resolution: str
    """Height and width of the images, pixels."""
    distance_name: str
    """Name of both distances: "in-domain Fréchet distance" or "FID"."""
    extractor: str
    """Feature network behind the distances."""
    guidance: str
    """Label of the guidance setting."""
    label_policy: str
    """How class labels of the samples are chosen."""
    num_images: str
    """Samples behind each generation distance, count."""
    num_reconstructions: str
    """Reconstructions behind each reconstruction distance, count."""
    generator_images: str
    """Training images of the generators, count or range of counts."""
    seeds: str
    """Seeds per cell, count or range of counts."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One table of like protocol, averaged over seeds."""

    rows: pd.DataFrame
    """The rows used: the table's columns, `alignment` with details where these vary."""
    points: pd.DataFrame
    """One line a cell: `CELL_COLUMNS`, `generator_params`, `num_seeds`, and for each metric its
    mean, `<metric>_sd` and `<metric>_se` (NaN with one seed)."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`."""
    setting: Setting
    """What the rows have in common."""

    def lines(self) -> list[tuple[str, str, pd.DataFrame]]:
        """Lines through the latent dims: (alignment, generator size, its points by latent dim)."""
        return split_lines(self.points)


def compute_cells(table: pd.DataFrame, *, needs: tuple[str, ...]) -> Cells:
    """Averages the last snapshot of each trial over seeds.

    Args:
        table: Rows of one protocol and one guidance setting, as from `split_by_protocol`.
        needs: Metrics (names in `METRICS`) without which a row is left out.

    Returns:
        The cells; without points where no row has what is needed.

    Raises:
        ValueError: If protocols are mixed, or a cell holds two rows of one seed.
    """
    require_one_protocol(table)
    last = _last_snapshots(table)
    reasons = last.apply(lambda row: _reason_to_omit(row, needs), axis=1).astype(object)
    used = last[reasons == ""]
    used = used.assign(alignment=_label_lines(used))
    late = used.groupby(list(CELL_COLUMNS))["generator_images"].transform("max")
    early = used["generator_images"] < late
    reasons.loc[early[early].index] = "an earlier snapshot than the rest of its cell"
    used = used[~early]
    _require_distinct_seeds(used)
    gaps = last.assign(reason=reasons)[["row_id", "trial_id", "reason"]]
    points = _average(used)
    return Cells(
        rows=used.reset_index(drop=True),
        points=points,
        gaps=gaps[gaps["reason"] != ""].reset_index(drop=True),
        setting=_describe_setting(used if len(used) else table, points),
    )


def split_lines(points: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Splits points into lines: (alignment, generator size, its points by latent dim)."""
    groups = points.groupby(["alignment", "generator_size"], sort=False)
    return [(str(key[0]), str(key[1]), line) for key, line in groups]


def _last_snapshots(table: pd.DataFrame) -> pd.DataFrame:
    """One row a trial; a snapshot without a count is taken for the last, so a failure shows."""
    ordered = table.sort_values("generator_images", kind="stable", na_position="last")
    trial = ordered["trial_id"].fillna(ordered["row_id"])
    return ordered[~trial.duplicated(keep="last")].sort_index()


def _reason_to_omit(row: pd.Series, needs: tuple[str, ...]) -> str:
    if row["status"] != "done":
        error = row["error"] if isinstance(row["error"], str) else ""
        first_line = error.strip().splitlines()[0] if error.strip() else "no error was recorded"
        return f"{row['status']}: {first_line}"
    for metric in needs:
        if not np.isfinite(row[metric]):
            return f"{metric} is missing or not finite ({row[metric]})"
    return ""


def _label_lines(rows: pd.DataFrame) -> pd.Series:
    """The alignment's label, with every detail that varies within one of its cells."""
    labels = rows["alignment"].astype(object)
    for column in DETAIL_COLUMNS:
        kinds = rows.groupby(list(CELL_COLUMNS))[column].transform("nunique", dropna=False)
        varied = rows["alignment"].isin(rows.loc[kinds > 1, "alignment"])
        detail = rows[column].map(lambda value: f"{value:g}" if _is_number(value) else str(value))
        labels = labels.where(~varied, labels + f", {column} " + detail)
    return labels


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _require_distinct_seeds(rows: pd.DataFrame) -> None:
    repeated = rows[rows.duplicated([*CELL_COLUMNS, "seed"], keep=False)]
    if repeated.empty:
        return
    first = repeated.iloc[0]
    same = (repeated[[*CELL_COLUMNS, "seed"]] == first[[*CELL_COLUMNS, "seed"]]).all(axis=1)
    second = repeated[same].iloc[1]
    raise ValueError(
        f"a point must be a mean over seeds, but rows {first['row_id']} and {second['row_id']}"
        f" are both {first['alignment']}, {first['generator_size']}, d={first['latent_dim']:g}"
        f" with seed {first['seed']:g}; they differ in a setting that no column read here shows,"
        " so give the analysis one setting at a time"
    )


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    records: list[dict[str, Any]] = []
    for _, members in rows.groupby(list(CELL_COLUMNS), sort=False):
        record: dict[str, Any] = {column: members[column].iloc[0] for column in CELL_COLUMNS}
        record["generator_params"] = members["generator_params"].mean()
        record["num_seeds"] = len(members)
        for metric in METRICS:
            values = members[metric].dropna()
            deviation = values.std(ddof=1) if len(values) > 1 else np.nan
            record[metric] = values.mean() if len(values) else np.nan
            record[f"{metric}_sd"] = deviation
            record[f"{metric}_se"] = deviation / np.sqrt(max(len(values), 1))
        records.append(record)
    spread = [f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_sd", "_se")]
    columns = [*CELL_COLUMNS, "generator_params", "num_seeds", *spread]
    points = pd.DataFrame(records, columns=pd.Index(columns))
    return _order(points)


def _order(points: pd.DataFrame) -> pd.DataFrame:
    """Unaligned first, then by label; sizes from the smallest to the largest; then latent dims."""
    params = points.groupby("generator_size")["generator_params"].transform("mean")
    keys = points.assign(aligned=points["alignment"] != "none", params=params)
    by = ["aligned", "alignment", "params", "generator_size", "latent_dim"]
    return points.loc[keys.sort_values(by, kind="stable").index].reset_index(drop=True)


def _describe_setting(rows: pd.DataFrame, points: pd.DataFrame) -> Setting:
    return Setting(
        dataset=join_unique(rows["dataset"]) or "unknown data set",
        resolution=join_unique(rows["resolution"]) or "?",
        distance_name=join_unique(rows["distance_name"]) or "Fréchet distance",
        extractor=join_unique(rows["extractor"]) or "unknown",
        guidance=join_unique(rows["guidance"]) or "unknown",
        label_policy=join_unique(rows["label_policy"]) or "unknown",
        num_images=_format_range(rows["num_images"]),
        num_reconstructions=_format_range(rows["num_reconstructions"]),
        generator_images=_format_range(rows["generator_images"]),
        seeds=_format_range(points["num_seeds"]),
    )


def _format_range(counts: pd.Series) -> str:
    known = counts.dropna()
    if known.empty:
        return "unknown"
    low, high = int(known.min()), int(known.max())
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
