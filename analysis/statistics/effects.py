"""What the numbers say: the dilemma along a line, and alignment against none in a cell.

A difference is called one only where it is beyond Welch's 95 % interval; over seeds for generation,
over tokenizers for reconstruction. One of these has no interval and the verdict says so.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.cells.cells import (
    CELL_COLUMNS,
    Cells,
    split_lines,
)
from analysis.cells.training import are_trained_alike
from analysis.statistics.welch import reach_by_chance
from analysis.table.columns import SEED_COLUMNS, Columns

Seeds = tuple[Any, ...]
Verdict = Literal["higher", "lower", "within noise", "no interval", "not measured"]


@dataclass(frozen=True, kw_only=True)
class DilemmaEffect:
    """One line's ends: the smallest latent dim against the largest."""

    alignment: str
    """Alignment label of the line."""
    generator_size: str
    """Generator size of the line."""
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
class AlignmentEffect:
    """One aligned cell against the unaligned cell of the same size and latent dim."""

    alignment: str
    """Alignment label of the cell."""
    generator_size: str
    """Generator size of both cells."""
    latent_dim: float
    """Latent dim of both cells, channels."""
    gfid_ratio: float
    """Mean generation distance with alignment over without; below 1 alignment is better."""
    gfid_ratio_range: tuple[float, float] | None
    """Least and largest ratio over the seeds that both cells have; None with fewer than two."""
    gfid: Verdict
    """Generation distance with alignment compared with none."""
    rfid_ratio: float
    """Mean reconstruction distance with alignment over without; NaN if not measured."""
    rfid_ratio_range: tuple[float, float] | None
    """Least and largest ratio over the tokenizer seeds that both have; None with fewer than two."""
    rfid: Verdict
    """Reconstruction distance with alignment compared with none."""
    num_seeds: tuple[int, int]
    """Seeds with alignment and without, count."""
    num_tokenizers: tuple[int, int]
    """Tokenizers with alignment and without, count; fewer than seeds where these share them."""


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
    count = "num_tokenizers" if measures[metric].of_tokenizer else "num_seeds"
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
    for alignment, size, line in split_lines(cells.points):
        if len(line) < 2:
            continue
        small, large = line.iloc[0], line.iloc[-1]
        steps = np.sign(np.diff(line["gfid"].to_numpy(dtype=float)))
        effects.append(
            DilemmaEffect(
                alignment=alignment,
                generator_size=size,
                small=small,
                large=large,
                gfid=compare_cells(large, small, "gfid", cells.measures),
                psnr=compare_cells(large, small, "psnr", cells.measures),
                rfid=compare_cells(large, small, "rfid", cells.measures),
                is_monotone=len(set(steps.tolist())) == 1,
            )
        )
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
        ranges = {
            metric: _range_over_seeds(values.get(key, {}), values.get(baseline_key, {}))
            for metric, values in by_seed.items()
        }
        effects.append(
            AlignmentEffect(
                alignment=str(cell["alignment"]),
                generator_size=str(cell["generator_size"]),
                latent_dim=float(cell["latent_dim"]),
                gfid_ratio=divide(cell["gfid"], baseline["gfid"]),
                gfid_ratio_range=ranges["gfid"],
                gfid=compare_cells(cell, baseline, "gfid", cells.measures),
                rfid_ratio=divide(cell["rfid"], baseline["rfid"]),
                rfid_ratio_range=ranges["rfid"],
                rfid=compare_cells(cell, baseline, "rfid", cells.measures),
                num_seeds=(int(cell["num_seeds"]), int(baseline["num_seeds"])),
                num_tokenizers=(int(cell["num_tokenizers"]), int(baseline["num_tokenizers"])),
            )
        )
    return effects


def divide(first: float, second: float) -> float:
    """A ratio; NaN over 0."""
    return float(first / second) if second != 0 else float("nan")


def _range_over_seeds(
    values: dict[Seeds, float], baseline: dict[Seeds, float]
) -> tuple[float, float] | None:
    ratios = [
        divide(value, baseline[seeds]) for seeds, value in values.items() if seeds in baseline
    ]
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
