"""Cells: trials that differ in their seeds alone, as mean, deviation and standard error.

A cell is one combination of the sweep's axes at the last snapshot of its trials. Figures and words
are made from cells; what could not become part of one is kept with its reason.

A repetition, "one seed" in figures and words, is one triple of `SEED_COLUMNS`. Repetitions may
share a tokenizer; what is measured on the tokenizer alone is then averaged per tokenizer first,
so that one tokenizer counts once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells.lines import SIZE, Axes, describe_lines, name_given, name_trainings
from analysis.table.columns import GIVEN, SEED_COLUMNS, Columns, columns_of, measures_of
from analysis.table.protocols import join_unique, require_one_protocol

CELL_COLUMNS = ("cell", "line", "colour", "marker", "panel", "along")
"""Columns of rows and points that say which cell they are; the first one says it all."""
UNKNOWN = "unknown"
COUNTS = ("num_images", "num_reconstructions", "generator_images")

GIVEN_ELSEWHERE = (
    "given images without latent_dim or generator_size: in the tables alone; name both with"
    " --column to make a point of them"
)
TOKENIZER_ALONE = "a tokenizer alone: no generator, so no generation distance"
"""Why a row that ends with its tokenizer has no point where generators have some."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that all rows of a figure share, as text for titles and footnotes."""

    dataset: str
    resolution: str
    """Pixels a side."""
    distance_name: str
    """Name of both distances: "in-domain Fréchet distance" or "FID"."""
    extractor: str
    guidance: str
    label_policy: str
    num_images: str
    num_reconstructions: str
    generator_images: str
    """Training images of the generators, count or range of counts."""
    seeds: str
    """Seeds per cell, count or range of counts."""
    tokenizers: str
    """Tokenizers per cell, count or range of counts; empty where each seed has its own."""
    selection: str = ""
    """Which lines are shown where there are more than a figure holds; empty where all are."""

    @property
    def sizes(self) -> str:
        """Samples and reconstructions behind the distances in words, what is known of them."""
        counts = {"samples": self.num_images, "reconstructions": self.num_reconstructions}
        known = [f"{count} {name}" for name, count in counts.items() if count != UNKNOWN]
        return ", ".join(known) or "an unknown number of images"

    @property
    def repetitions(self) -> str:
        """Seeds per cell in words, with the tokenizers where seeds share them."""
        words = f"{self.seeds} seed{'' if self.seeds == '1' else 's'}"
        if not self.tokenizers:
            return words
        plural = "" if self.tokenizers == "1" else "s"
        return f"{words} (reconstruction: {self.tokenizers} tokenizer{plural})"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One table of like protocol, averaged over seeds."""

    rows: pd.DataFrame
    """The rows used: the table's columns, with those of `describe_lines`."""
    axes: Axes
    points: pd.DataFrame
    """One line a cell: `CELL_COLUMNS`, the columns of the axes, `tokenizer_images`, `sweep`,
    `generator_images`, `generator_params`, `train_flops`, `num_seeds`,
    `num_tokenizers`, and for each metric its mean, `<metric>_sd` and `<metric>_se` (NaN
    with one seed; of reconstruction metrics over tokenizers, NaN with one)."""
    given: pd.DataFrame
    """Measured rows of given images without a place among the cells, one line each: the columns
    of `points` but for what is not known, with the row's name as `alignment`."""
    gaps: pd.DataFrame
    """Rows left out: `row_id`, `trial_id`, `reason`; those of `given` among them."""
    setting: Setting
    measures: Columns
    """Metrics of `points`, which are averaged, as the table describes them."""

    @property
    def has_generation(self) -> bool:
        """Whether some cell has a generation distance; else they are cells of tokenizers."""
        return bool(self.known(["gfid"]))

    @cached_property
    def tokenizers(self) -> dict[Any, frozenset[str]]:
        """Cell -> keys of the tokenizers behind its rows; an unknown one is empty."""
        known = self.rows["tokenizer_key"].fillna("")
        return known.groupby(self.rows["cell"], sort=False).agg(frozenset).to_dict()

    def known(self, columns: Iterable[str]) -> list[str]:
        """Those of some columns of `points` in which some point has a number."""
        return [column for column in columns if np.isfinite(self.points[column]).any()]


def compute_cells(table: pd.DataFrame, *, needs: tuple[str, ...]) -> Cells:
    """Averages the last snapshot of each trial over seeds; no points where no row has what is
    needed.

    Args:
        table: Rows of one protocol and one guidance setting, as from `split_by_protocol`.
        needs: Metrics (names in `Cells.measures`) without which a row is left out.
    """
    require_one_protocol(table)
    last = _last_snapshots(table)
    finite = np.isfinite(last[list(needs)].to_numpy(dtype=float)).all(axis=1)
    bad = last[(last["status"] != "done").to_numpy() | ~finite]
    omitted = [_reason_to_omit(row, needs) for _, row in bad.iterrows()]
    reasons = pd.Series(omitted, index=bad.index, dtype=object).reindex(last.index, fill_value="")
    unplaced = _find_unplaced(last, needs)
    reasons[unplaced] = GIVEN_ELSEWHERE
    done, axes = describe_lines(last[(last["status"] == "done") & ~unplaced])
    used = done[reasons[done.index] == ""]
    late = used.groupby("cell")["generator_images"].transform("max")
    early = used["generator_images"] < late
    reasons.loc[early[early].index] = "an earlier snapshot than the rest of its cell"
    used = used[~early]
    points = order_points(average_cells(used, axes), axes)
    return Cells(
        rows=used.reset_index(drop=True),
        axes=axes,
        points=points,
        given=_describe_given(last[unplaced]),
        gaps=list_gaps(last, reasons),
        setting=describe_rows(used if len(used) else table, points),
        measures=measures_of(table),
    )


def list_gaps(rows: pd.DataFrame, reasons: pd.Series) -> pd.DataFrame:
    """The rows that are left out for a reason that is not empty, as `Cells.gaps`."""
    gaps = rows.assign(reason=reasons)[["row_id", "trial_id", "reason"]]
    return gaps[gaps["reason"] != ""].reset_index(drop=True)


def average_group(rows: pd.DataFrame) -> Cells:
    """Averages rows with a generation distance or, where there are none, those with a
    reconstruction distance; why their generators have none is among the gaps then."""
    cells = compute_cells(rows, needs=("gfid",))
    if len(cells.points):
        return cells
    tokenizers = compute_cells(rows, needs=("rfid",))
    if tokenizers.points.empty:
        return cells
    gaps = pd.concat([cells.gaps[cells.gaps["reason"] != TOKENIZER_ALONE], tokenizers.gaps])
    return replace(tokenizers, gaps=gaps.drop_duplicates("row_id").reset_index(drop=True))


def describe_seeds(row: pd.Series) -> str:
    """A repetition in words: "seed 0" where its known seeds agree, else each of them."""
    known = {column: row[column] for column in SEED_COLUMNS if pd.notna(row[column])}
    if len(set(known.values())) == 1:
        return f"seed {next(iter(known.values())):g}"
    words = [f"{column.replace('_', ' ')} {seed:g}" for column, seed in known.items()]
    return ", ".join(words) or "seed unknown"


def split_lines(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Splits points into lines: (name, its points in order)."""
    return [(str(name), line) for name, line in points.groupby("line", sort=False)]


def _last_snapshots(table: pd.DataFrame) -> pd.DataFrame:
    """One row a training; a snapshot without a count is taken for the last, so a failure shows.

    Of one training, rows that differ in their seeds or in an axis are no snapshots of each other:
    those of the evaluation.
    """
    ordered = table.sort_values("generator_images", kind="stable", na_position="last")
    axes = [name for name, column in columns_of(table).items() if column.axis]
    known = [name for name in (*SEED_COLUMNS, *axes) if name in ordered]
    keys = ordered[known].assign(training=name_trainings(ordered))
    return ordered[~keys.duplicated(keep="last")].sort_index()


def _reason_to_omit(row: pd.Series, needs: tuple[str, ...]) -> str:
    if row["status"] != "done":
        error = row["error"] if isinstance(row["error"], str) else ""
        first_line = error.strip().splitlines()[0] if error.strip() else "no error was recorded"
        return f"{row['status']}: {first_line}"
    for metric in needs:
        has_generator = row[["generator", "generator_size"]].notna().all()
        if metric == "gfid" and not has_generator and pd.isna(row["gfid"]):
            return TOKENIZER_ALONE
        if not np.isfinite(row[metric]):
            return f"{metric} is missing or not finite ({row[metric]})"
    return ""


def _find_unplaced(rows: pd.DataFrame, needs: tuple[str, ...]) -> pd.Series:
    unknown = rows["latent_dim"].isna()
    if "gfid" in needs:
        unknown |= rows["generator_size"].isna() & rows["gfid"].notna()
    measured = np.isfinite(rows["rfid"]) | np.isfinite(rows["gfid"])
    return (rows["provenance"] == GIVEN) & (rows["status"] == "done") & measured & unknown


def _describe_given(rows: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        return rows
    names = name_given(rows)
    names = names.where(~names.duplicated(keep=False), names + " (" + rows["row_id"] + ")")
    known = rows.assign(
        cell=names,
        alignment=names,
        generator_size=rows["generator_size"].astype(object).fillna("-"),
    )
    return average_rows(known, ["cell", "alignment", "generator_size", "latent_dim", "row_id"])


def average_cells(rows: pd.DataFrame, axes: Axes, by: Sequence[str] = ("cell",)) -> pd.DataFrame:
    """Averages rows of `describe_lines` over their seeds, with `CELL_COLUMNS` and columns of the
    axes.

    Args:
        by: Columns to agree in: the cell, and what else tells points apart.
    """
    about = [*CELL_COLUMNS[1:], *axes.columns, "tokenizer_images", "generator_images", "sweep"]
    first = [name for name in dict.fromkeys([*about, SIZE]) if name not in by]
    return average_rows(rows, by, first=first, means=("generator_params", "train_flops"))


def average_rows(
    rows: pd.DataFrame, by: Sequence[str], *, first: Sequence[str] = (), means: Sequence[str] = ()
) -> pd.DataFrame:
    """Averages every metric over the rows that agree in some columns.

    Args:
        rows: Done rows of a checked table, each a repetition of its own within its group.
        by: Columns to agree in; missing values agree.
        first: Columns of which a group has its first known value.
        means: Columns that are no metrics and of which a group has its mean.

    Returns:
        One line a group: `by`, `first`, `means`, `num_seeds`, `num_tokenizers`, and for each metric
        its mean, `<metric>_sd` and `<metric>_se` as in `Cells.points`.
    """
    by, measures = list(by), measures_of(rows)
    of_tokenizer = [name for name, measure in measures.items() if measure.of_tokenizer]
    cells = rows.groupby(by, sort=False, dropna=False)
    tokenizers = (
        rows.groupby([*by, "tokenizer_key"], sort=False, dropna=False)[of_tokenizer]
        .mean()
        .groupby(level=by, sort=False, dropna=False)
    )
    columns: dict[str, pd.Series] = {
        **{name: cells[name].first() for name in first},
        **{name: cells[name].mean() for name in means},
        "num_seeds": cells.size(),
        "num_tokenizers": cells["tokenizer_key"].nunique(dropna=False),
    }
    for metric, measure in measures.items():
        independent = tokenizers if measure.of_tokenizer else cells
        deviation = independent[metric].std(ddof=1)
        columns[metric] = independent[metric].mean()
        columns[f"{metric}_sd"] = deviation
        columns[f"{metric}_se"] = deviation / np.sqrt(independent[metric].count())
    return pd.DataFrame(columns).rename_axis(index=by).reset_index()


def order_points(points: pd.DataFrame, axes: Axes, last: str = "along") -> pd.DataFrame:
    """Orders points as legends do: baselines first, sizes and numbers from the smallest up."""
    keys = _rank_axes(points, axes)
    ranked = points.assign(**keys).sort_values([*keys, "cell", last], kind="stable")
    return points.loc[ranked.index].reset_index(drop=True)


def list_names(points: pd.DataFrame, column: str, axes: Axes) -> list[str]:
    """The names in a column in the order of legends, also where some panels lack some of them."""
    keys, names = _rank_axes(points, axes), points[column]
    own = [k for k, r in keys.items() if (r.groupby(names).nunique(dropna=False) <= 1).all()]
    named = points[[column]].assign(**keys).drop_duplicates(column)
    ranked = named.sort_values(own, kind="stable") if own else named
    return [str(name) for name in ranked[column]]


def _rank_axes(points: pd.DataFrame, axes: Axes) -> dict[str, pd.Series]:
    """The place of each point's value in the order of each axis, panels before lines."""
    ordered = [*axes.panels, *axes.colours, *axes.markers, *([axes.along] if axes.along else [])]
    return {
        f"rank {place}": points[axis.column].map({v: rank for rank, v in enumerate(axis.order)})
        for place, axis in enumerate(ordered)
    }


def describe_rows(rows: pd.DataFrame, points: pd.DataFrame) -> Setting:
    """Says what rows have in common."""
    shares = (points["num_tokenizers"] < points["num_seeds"]).any()
    return Setting(
        dataset=join_unique(rows["dataset"]) or "unknown data set",
        resolution=join_unique(rows["resolution"]) or "?",
        distance_name=join_unique(rows["distance_name"]) or "Fréchet distance",
        **{n: join_unique(rows[n]) or UNKNOWN for n in ("extractor", "guidance", "label_policy")},
        **{name: _format_range(rows[name]) for name in COUNTS},
        seeds=_format_range(points["num_seeds"]),
        tokenizers=_format_range(points["num_tokenizers"]) if shares else "",
    )


def _format_range(counts: pd.Series) -> str:
    known = counts.dropna()
    if known.empty:
        return UNKNOWN
    low, high = int(known.min()), int(known.max())
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
