"""The Pareto front: which points no other point beats."""

import numpy as np
from numpy.typing import NDArray


def pareto_mask(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Marks the points that no other dominates, where lower is better in every column; shape
    (points,).

    A point dominates another if it is nowhere worse and somewhere better; equal points do not
    dominate each other. One with NaN is never on it. Values are of shape (points, objectives).
    """
    if values.ndim != 2:
        raise ValueError(
            f"values must have the shape (points, objectives), but got {values.shape};"
            " stack the objectives as columns"
        )
    front = np.asarray(~np.isnan(values).any(axis=1))
    for index in np.flatnonzero(front):
        no_worse = (values <= values[index]).all(axis=1)
        better = (values < values[index]).any(axis=1)
        front[index] = not (no_worse & better).any()
    return front
