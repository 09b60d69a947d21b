"""Whether a quantity is looked at in logarithms."""

from typing import Literal

import numpy as np
import pandas as pd

LOG_FROM = 5.0
"""Ratio of the largest to the smallest value from which a quantity is looked at in logarithms."""

Scale = Literal["log", "linear"]


def choose_scale(values: pd.Series) -> Scale:
    """Log where all finite values are positive and span more than a factor of `LOG_FROM`."""
    known = values[np.isfinite(values)]
    if known.empty or known.min() <= 0 or known.max() / known.min() <= LOG_FROM:
        return "linear"
    return "log"
