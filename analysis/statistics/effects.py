"""Effects in the numbers: the dilemma along a line, and an axis's value against its baseline.

A difference is called one only where it is beyond Welch's 95 % interval; over seeds for generation,
over tokenizers for reconstruction. One of these has no interval and the verdict says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.cells.cells import Cells, split_lines
from analysis.cells.lines import Axis
from analysis.cells.pairs import find_pairs
from analysis.statistics.welch import reach_by_chance
from analysis.table.columns import SEED_COLUMNS, Columns

Verdict = Literal["higher", "lower", "within noise", "no interval", "not measured"]
Row = pd.Series | Mapping[Any, Any]
"""A line of `Cells.points`. As a dictionary it is read a hundred times faster."""
BySeed = dict[tuple[Any, ...], float]


@dataclass(frozen=True, kw_only=True)
class DilemmaEffect:
    """One line's ends: the smallest number along it, a latent dim as a rule, and the largest."""

    small: Row
    large: Row
    gfid: Verdict
    """Verdicts on the largest compared with the smallest."""
    psnr: Verdict
    rfid: Verdict
    is_monotone: bool
    """Whether the mean generation distance rises, or falls, at every step between."""

    @property
    def shows(self) -> bool:
        """Whether generation gets worse while reconstruction gets better, beyond noise."""
        return self.gfid == "higher" and (self.psnr == "higher" or self.rfid == "lower")


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one metric of a cell compares with that of its baseline."""

    ratio: float
    """Mean over the baseline's; NaN if not measured. Below 1 a distance is better."""
    ratio_range: tuple[float, float] | None
    """Least and largest ratio over the seeds that both cells have, of reconstruction over their
    tokenizer seeds; None with fewer than two."""
    verdict: Verdict
    counts: tuple[int, int]
    """Seeds, of reconstruction tokenizers, of the cell and of its baseline; count."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One cell against the one with the baseline of an axis, all other axes held."""

    axis: Axis
    cell: Row
    difference: str
    """What the axis changes in the number of training images, in words; empty where nothing."""
    gfid: Change
    rfid: Change


def compare_cells(first: Row, second: Row, metric: str, measures: Columns) -> Verdict:
    """How the first cell's metric compares with the second's, beyond Welch's 95 % interval."""
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
    """Compares the ends of each line that has two points or more."""
    effects: list[DilemmaEffect] = []
    rows = cells.points.to_dict("index")
    for _, line in split_lines(cells.points):
        if line["along"].nunique() < 2:
            continue
        small, large = rows[line.index[0]], rows[line.index[-1]]
        steps = np.sign(np.diff(line["gfid"].to_numpy(dtype=float)))
        verdicts: dict[str, Verdict] = {
            metric: compare_cells(large, small, metric, cells.measures)
            for metric in ("gfid", "psnr", "rfid")
        }
        is_monotone = len(set(steps.tolist())) == 1
        effects.append(DilemmaEffect(small=small, large=large, is_monotone=is_monotone, **verdicts))
    return effects


def compute_effects(cells: Cells) -> list[Effect]:
    """Compares each cell with the baseline of each axis, all other axes held.

    Pairs that were not trained alike are left out; `find_unlike_pairs` names them.
    """
    points = cells.points
    axes = {axis.column: axis for axis in cells.axes.compared}
    by_seed = {metric: _group_by_seed(cells, metric) for metric in ("gfid", "rfid")}
    effects = []
    rows = points.to_dict("index")
    for pair in find_pairs(points, cells.axes).to_dict("records"):
        cell, base = rows[pair["cell"]], rows[pair["base"]]
        changes = {}
        for metric, values in by_seed.items():
            count = _count_column(metric, cells.measures)
            changes[metric] = Change(
                ratio=divide(cell[metric], base[metric]),
                ratio_range=_range_over_seeds(values[cell["cell"]], values[base["cell"]]),
                verdict=compare_cells(cell, base, metric, cells.measures),
                counts=(int(cell[count]), int(base[count])),
            )
        effects.append(
            Effect(axis=axes[pair["axis"]], cell=cell, difference=pair["difference"], **changes)
        )
    return effects


def divide(first: float, second: float) -> float:
    """A ratio; NaN over 0."""
    return float(first / second) if second != 0 else float("nan")


def _count_column(metric: str, measures: Columns) -> str:
    return "num_tokenizers" if measures[metric].of_tokenizer else "num_seeds"


def _range_over_seeds(values: BySeed, base: BySeed) -> tuple[float, float] | None:
    ratios = [divide(value, base[seed]) for seed, value in values.items() if seed in base]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return (min(known), max(known)) if len(known) > 1 else None


def _group_by_seed(cells: Cells, metric: str) -> dict[Any, BySeed]:
    """Each cell's values by its seeds; a tokenizer's own metric by the tokenizer's seed."""
    seeds = ["tokenizer_seed"] if cells.measures[metric].of_tokenizer else list(SEED_COLUMNS)
    # Rows that share a tokenizer have its value once.
    once = cells.rows.groupby(["cell", *seeds, "tokenizer_key"], dropna=False)[metric].mean()
    values: dict[Any, BySeed] = {}
    for place, value in once.groupby(level=["cell", *seeds]).mean().items():
        assert isinstance(place, tuple)
        values.setdefault(place[0], {})[place[1:]] = value
    return values
