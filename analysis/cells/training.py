"""Aligned and unaligned cells that were not trained alike, and are therefore not compared."""

from dataclasses import dataclass

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


def are_trained_alike(first: pd.Series, second: pd.Series) -> bool:
    """Whether tokenizers and generators of two cells have seen as many images; unknown is alike."""
    return not _say_difference(first, second)


def find_unlike_pairs(points: pd.DataFrame) -> list[UnlikePair]:
    """Finds aligned cells that have an unaligned counterpart, but none that was trained alike.

    Args:
        points: Lines of `Cells.points`.

    Returns:
        One a cell, in the order of the points.
    """
    unaligned = points[points["alignment"] == points["baseline"]]
    by_place = dict(list(unaligned.groupby(["counterpart", *PLACE], sort=False)))
    pairs = []
    for _, cell in points[points["alignment"] != points["baseline"]].iterrows():
        rivals = by_place.get((cell["counterpart"], *cell[PLACE]))
        if rivals is None:
            continue
        differences = [_say_difference(cell, rival) for _, rival in rivals.iterrows()]
        if all(differences):
            name = f"{cell['alignment']}, {cell['generator_size']}, d={cell['latent_dim']:g}"
            pairs.append(UnlikePair(cell=name, reason=f"unlike training: {differences[0]}"))
    return pairs


def _say_difference(first: pd.Series, second: pd.Series) -> str:
    return "; ".join(
        f"{first[column]:,.0f} against {second[column]:,.0f} images of the {name}"
        for column, name in TRAINING.items()
        if abs(first[column] - second[column]) > 0
    )
