"""Welch's interval: how far two means of few seeds may lie apart by chance."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95
"""Share of intervals that hold the true difference."""


def reach_by_chance(
    errors: tuple[ArrayLike, ArrayLike], counts: tuple[ArrayLike, ArrayLike]
) -> NDArray[np.float64]:
    """Half the width of Welch's interval of the difference of two means.

    With two seeds a side Student's quantile is 4.3, or up to 12.7 where one side has all the
    scatter: "± 2 standard errors" would call too much a difference.

    Args:
        errors: Standard errors of the two means, numbers or arrays of one shape, at least 0.
        counts: Seeds behind each, count, at least 1; of one the error is another estimate.

    Returns:
        Differences up to this are within noise, of the errors' shape; NaN where an error is
        not known.
    """
    squares = [np.asarray(error, dtype=float) ** 2 for error in errors]
    freedoms = [np.maximum(np.asarray(count, dtype=float) - 1, 1) for count in counts]
    total = squares[0] + squares[1]
    parts = squares[0] ** 2 / freedoms[0] + squares[1] ** 2 / freedoms[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees = np.where(parts > 0, total**2 / parts, 1.0)
    return np.sqrt(total) * stdtrit(degrees, (1 + LEVEL) / 2)


def count_by_chance(num_judged: int) -> float:
    """Differences expected among so many comparisons where there is none, count."""
    return (1 - LEVEL) * num_judged
