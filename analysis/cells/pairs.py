"""Aligned cells and the unaligned ones that they are compared with.

Everything that is said of alignment against none (effects, gains, changes of slope) is said of
these pairs: of one generator size and latent dim, and trained alike.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

TRAINING = {"tokenizer_images": "tokenizer", "generator_images": "generator"}
"""Columns of training images, and what was trained on them."""
PLACE = ["generator_size", "latent_dim"]


@dataclass(frozen=True, kw_only=True)
class UnlikePair:
    """An aligned cell whose unaligned counterpart was trained on more or fewer images."""

    cell: str
    """The aligned cell in words."""
    reason: str
    """How the training differs, in words."""


def find_pairs(points: pd.DataFrame) -> pd.DataFrame:
    """Finds the aligned cells that have an unaligned one to be compared with.

    Args:
        points: Lines of `Cells.points`.

    Returns:
        One line a pair, in the order of the points: `cell` and `base`, their labels in the index
        of the points, and what the cell has there.
    """
    rivals = _find_rivals(points)
    is_baseline = rivals["alignment_base"] == rivals["baseline"]
    return rivals[is_baseline & (rivals["difference"] == "")]


def find_unlike_pairs(points: pd.DataFrame) -> list[UnlikePair]:
    """Finds aligned cells that have an unaligned counterpart, but none that was trained alike.

    Args:
        points: Lines of `Cells.points`.

    Returns:
        One a cell, in the order of the points.
    """
    rivals = _find_rivals(points)
    alike = rivals.loc[rivals["difference"] == "", "cell"]
    unlike = rivals[~rivals["cell"].isin(alike)].drop_duplicates("cell")
    return [
        UnlikePair(
            cell=f"{pair['alignment']}, {pair['generator_size']}, d={pair['latent_dim']:g}",
            reason=f"unlike training: {pair['difference']}",
        )
        for pair in unlike.to_dict("records")
    ]


def _find_rivals(points: pd.DataFrame) -> pd.DataFrame:
    """Aligned cells, each with every unaligned counterpart of its place and how they differ."""
    is_aligned = points["alignment"] != points["baseline"]
    aligned = points.assign(cell=points.index)[is_aligned]
    unaligned = points.assign(base=points.index)[~is_aligned]
    rivals = aligned.merge(unaligned, on=["counterpart", *PLACE], suffixes=("", "_base"))
    return rivals.assign(difference=[_say_difference(row) for row in rivals.to_dict("records")])


def _say_difference(pair: dict[Any, Any]) -> str:
    """How the training of two cells differs; an unknown number of images differs from none."""
    return "; ".join(
        f"{pair[column]:,.0f} against {pair[f'{column}_base']:,.0f} images of the {name}"
        for column, name in TRAINING.items()
        if abs(pair[column] - pair[f"{column}_base"]) > 0
    )
