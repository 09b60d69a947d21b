"""Effects in the numbers: the dilemma along a line, and alignment against none in a cell.

A difference is called one only where it is beyond Welch's 95 % interval; over seeds for generation,
over tokenizers for reconstruction. One of these has no interval and the verdict says so.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.cells.cells import CELL_COLUMNS, Cells, split_lines
from analysis.cells.training import are_trained_alike
from analysis.statistics.welch import reach_by_chance
from analysis.table.columns import SEED_COLUMNS, Columns

Seeds = tuple[Any, ...]
Verdict = Literal["higher", "lower", "within noise", "no interval", "not measured"]


@dataclass(frozen=True, kw_only=True)
class DilemmaEffect:
    """One line's ends: the smallest latent dim against the largest."""

    small: pd.Series
    """The cell of the smallest latent dim."""
    large: pd.Series
    """The cell of the largest latent dim."""
    gfid: Verdict
    """Generation distance of the largest dim compared with the smallest."""
    psnr: Verdict
    """PSNR of the largest dim compared with the smallest."""
    rfid: Verdict
    """Reconstruction distance of the largest dim compared with the smallest."""
    is_monotone: bool
    """Whether the mean generation distance rises, or falls, at every step between."""

    @property
    def shows(self) -> bool:
        """Whether generation gets worse while reconstruction gets better, beyond noise."""
        return self.gfid == "higher" and (self.psnr == "higher" or self.rfid == "lower")


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one metric of an aligned cell compares with that of the unaligned one."""

    ratio: float
    """Mean with alignment over without; NaN if not measured. Below 1 a distance is better."""
    ratio_range: tuple[float, float] | None
    """Least and largest ratio over the seeds that both cells have, of reconstruction over their
    tokenizer seeds; None with fewer than two."""
    verdict: Verdict
    """Mean with alignment compared with without."""
    counts: tuple[int, int]
    """Seeds, of reconstruction tokenizers, with alignment and without; count."""


@dataclass(frozen=True, kw_only=True)
class AlignmentEffect:
    """One aligned cell against the unaligned cell of the same size and latent dim."""

    cell: pd.Series
    """The aligned cell."""
    gfid: Change
    """Generation distance with alignment compared with none."""
    rfid: Change
    """Reconstruction distance with alignment compared with none."""


def compare_cells(first: pd.Series, second: pd.Series, metric: str, measures: Columns) -> Verdict:
    """Says how the first cell's metric compares with the second's.

    Args:
        first: A line of `Cells.points`.
        second: A line of `Cells.points`.
        metric: One of `measures`.
        measures: Those of the cells.

    Returns:
        "higher" or "lower" only where the difference is beyond Welch's 95 % interval.
    """
    difference = first[metric] - second[metric]
    count = _count_column(metric, measures)
    reach = reach_by_chance(
        (first[f"{metric}_se"], second[f"{metric}_se"]), (first[count], second[count])
    )
    if not np.isfinite(difference):
        return "not measured"
    if not np.isfinite(reach):
        return "no interval"
    if abs(difference) <= reach:
        return "within noise"
    return "higher" if difference > 0 else "lower"


def compute_dilemma_effects(cells: Cells) -> list[DilemmaEffect]:
    """Compares the ends of each line that has two latent dims or more."""
    effects: list[DilemmaEffect] = []
    for _, _, line in split_lines(cells.points):
        if len(line) < 2:
            continue
        small, large = line.iloc[0], line.iloc[-1]
        steps = np.sign(np.diff(line["gfid"].to_numpy(dtype=float)))
        verdicts: dict[str, Verdict] = {
            metric: compare_cells(large, small, metric, cells.measures)
            for metric in ("gfid", "psnr", "rfid")
        }
        is_monotone = len(set(steps.tolist())) == 1
        effects.append(DilemmaEffect(small=small, large=large, is_monotone=is_monotone, **verdicts))
    return effects


def compute_alignment_effects(cells: Cells) -> list[AlignmentEffect]:
    """Compares each aligned cell with the unaligned one of its size and latent dim, if any.

    Pairs that were not trained alike are left out; `find_unlike_pairs` names them.
    """
    effects: list[AlignmentEffect] = []
    columns = list(CELL_COLUMNS)
    by_seed = {metric: _index_by_seed(cells, metric) for metric in ("gfid", "rfid")}
    keys = cells.points[columns].itertuples(index=False, name=None)
    points = dict(zip(keys, (cell for _, cell in cells.points.iterrows()), strict=True))
    for key, cell in points.items():
        baseline_key = (cell["baseline"], *key[1:])
        baseline = points.get(baseline_key)
        if baseline is None or baseline_key == key or not are_trained_alike(cell, baseline):
            continue
        changes = {}
        for metric, values in by_seed.items():
            count = _count_column(metric, cells.measures)
            changes[metric] = Change(
                ratio=divide(cell[metric], baseline[metric]),
                ratio_range=_range_over_seeds(values.get(key, {}), values.get(baseline_key, {})),
                verdict=compare_cells(cell, baseline, metric, cells.measures),
                counts=(int(cell[count]), int(baseline[count])),
            )
        effects.append(AlignmentEffect(cell=cell, **changes))
    return effects


def divide(first: float, second: float) -> float:
    """A ratio; NaN over 0."""
    return float(first / second) if second != 0 else float("nan")


def _count_column(metric: str, measures: Columns) -> str:
    """The column that counts the repetitions behind a metric."""
    return "num_tokenizers" if measures[metric].of_tokenizer else "num_seeds"


def _range_over_seeds(
    values: dict[Seeds, float], baseline: dict[Seeds, float]
) -> tuple[float, float] | None:
    ratios = [divide(values[seeds], baseline[seeds]) for seeds in values if seeds in baseline]
    known = [ratio for ratio in ratios if np.isfinite(ratio)]
    return (min(known), max(known)) if len(known) > 1 else None


def _index_by_seed(cells: Cells, metric: str) -> dict[Seeds, dict[Seeds, float]]:
    """Each cell's values by its seeds; a tokenizer's own metric by the tokenizer's seed."""
    columns, rows = list(CELL_COLUMNS), cells.rows
    values = rows.set_index([*columns, *SEED_COLUMNS])[metric]
    if cells.measures[metric].of_tokenizer:
        tokenizers = rows.groupby([*columns, "tokenizer_key", "tokenizer_seed"], dropna=False)
        once = tokenizers[metric].mean()
        values = once.groupby(level=[*columns, "tokenizer_seed"]).mean()
    index: dict[Seeds, dict[Seeds, float]] = {}
    for key, value in zip(values.index, values, strict=True):
        index.setdefault(key[: len(columns)], {})[key[len(columns) :]] = float(value)
    return index
