"""What is measured of a trial: names, directions and where the noise of each measure comes from."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

LOG_FROM = 5.0
"""Ratio of the largest to the smallest value from which a quantity is looked at in logarithms."""

Scale = Literal["log", "linear"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One column of the table that is averaged over repetitions."""

    label: str
    """Name in figures and tables; the table's `distance_name` joins where this ends in a colon."""
    of: Literal["tokenizer", "samples"]
    """What it is measured on; repetitions may share a tokenizer, which then counts once."""
    better: Literal["lower", "higher"]
    """Which direction is better, or more uniform."""


MEASURES: dict[str, Measure] = {
    "rfid": Measure(label="reconstruction:", of="tokenizer", better="lower"),
    "psnr": Measure(label="PSNR (dB)", of="tokenizer", better="higher"),
    "ssim": Measure(label="SSIM", of="tokenizer", better="higher"),
    "lpips": Measure(label="LPIPS", of="tokenizer", better="lower"),
    "gfid": Measure(label="generation:", of="samples", better="lower"),
    "gfid_infinity": Measure(label="generation, unlimited samples:", of="samples", better="lower"),
    "sfid": Measure(label="spatial Fréchet distance", of="samples", better="lower"),
    "inception_score": Measure(label="inception score", of="samples", better="higher"),
    "kid": Measure(label="kernel distance", of="samples", better="lower"),
    "precision": Measure(label="precision", of="samples", better="higher"),
    "recall": Measure(label="recall", of="samples", better="higher"),
    "label_accuracy": Measure(label="label accuracy", of="samples", better="higher"),
    "density_cv": Measure(label="density CV", of="tokenizer", better="lower"),
    "density_gini": Measure(label="density Gini", of="tokenizer", better="lower"),
    "density_entropy": Measure(label="density entropy", of="tokenizer", better="higher"),
    "linear_probe_accuracy": Measure(
        label="linear-probe accuracy", of="tokenizer", better="higher"
    ),
    "spectrum_high_share": Measure(label="high-frequency share", of="tokenizer", better="lower"),
    "channel_std_ratio": Measure(label="channel std ratio", of="tokenizer", better="lower"),
}
"""Measures by their column."""

DIAGNOSTICS = (
    *("density_cv", "density_gini", "density_entropy"),
    *("linear_probe_accuracy", "spectrum_high_share", "channel_std_ratio"),
)
"""Measures that describe latents; that their direction helps generation is for data to say."""


def name_measure(column: str, distance_name: str) -> str:
    """A measure's name, with the distance as the table calls it.

    Args:
        column: One of `MEASURES`.
        distance_name: The table's `distance_name`.

    Returns:
        "generation: FID" or "PSNR (dB)".
    """
    label = MEASURES[column].label
    return f"{label} {distance_name}" if label.endswith(":") else label


def choose_scale(values: pd.Series) -> Scale:
    """Whether a quantity is drawn, and reckoned with, in logarithms.

    Args:
        values: The quantity; what is not finite does not count.

    Returns:
        "log" where all values are positive and span more than a factor of `LOG_FROM`.
    """
    known = values[np.isfinite(values)]
    if known.empty or known.min() <= 0 or known.max() / known.min() <= LOG_FROM:
        return "linear"
    return "log"
