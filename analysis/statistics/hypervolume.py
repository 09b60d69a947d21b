"""Hypervolume: the area that a set of points dominates, up to a reference point."""

import numpy as np
from numpy.typing import NDArray

REFERENCE_MARGIN = 0.1
"""How far the reference point lies beyond the worst value, as a share of the values' range."""


def compute_hypervolume(
    points: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Computes the area between points and a reference, where lower is better on both axes.

    Args:
        points: Array of shape (..., points, 2). Points with NaN, or beyond the reference on an
            axis, add nothing.
        reference: Array of shape (2,), finite.

    Returns:
        Array of shape (...): the areas, 0 or more; 0 where there are no points.

    Raises:
        ValueError: If the last axis of either has not length 2, or the reference is not finite.
    """
    if points.ndim < 2 or points.shape[-1] != 2 or reference.shape != (2,):
        raise ValueError(
            "points must have the shape (..., points, 2) and the reference (2,), but got"
            f" {points.shape} and {reference.shape}; give two objectives"
        )
    if not np.isfinite(reference).all():
        raise ValueError(
            f"the reference must be finite, but got {reference}; take one that is worse than all"
            " points"
        )
    lost = np.isnan(points).any(axis=-1, keepdims=True) | (points > reference).any(
        -1, keepdims=True
    )
    inside = np.where(lost, reference, points)
    order = np.argsort(inside[..., 0], axis=-1, kind="stable")
    x = np.take_along_axis(inside[..., 0], order, axis=-1)
    y = np.minimum.accumulate(np.take_along_axis(inside[..., 1], order, axis=-1), axis=-1)
    ends = np.concatenate([x[..., 1:], np.broadcast_to(reference[0], (*x.shape[:-1], 1))], axis=-1)
    if not x.shape[-1]:
        return np.zeros(x.shape[:-1])
    return ((ends - x) * (reference[1] - y)).sum(axis=-1)


def choose_reference(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chooses a reference point: the worst value on each axis, and a tenth of the range beyond.

    Args:
        values: Array of shape (points, 2), finite, in the scale in which areas are taken.

    Returns:
        Array of shape (2,). Where an axis has no range, its reference lies a tenth of the
        value, or 0.1 of zero, beyond.
    """
    worst, spread = values.max(axis=0), np.ptp(values, axis=0)
    alone = np.where(worst == 0, 1.0, np.abs(worst))
    return worst + REFERENCE_MARGIN * np.where(spread > 0, spread, alone)
