"""Hypervolume: the area or volume that a set of points dominates, up to a reference point."""

import numpy as np
from numpy.typing import NDArray

REFERENCE_MARGIN = 0.1
"""How far the reference point lies beyond the worst value, as a share of the values' range."""


def compute_hypervolume(
    points: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Computes the volume between points and a reference, where lower is better on all axes.

    Args:
        points: Array of shape (..., points, objectives), two objectives or more. Points with NaN,
            or beyond the reference on an axis, add nothing.
        reference: Array of shape (objectives,), finite.

    Returns:
        Array of shape (...): the areas or volumes, 0 or more; 0 where there are no points.

    Raises:
        ValueError: If both have not the same two objectives or more, or the reference is not
            finite.
    """
    width = points.shape[-1]
    if points.ndim < 2 or width < 2 or reference.shape != (width,):
        raise ValueError(
            "points must have the shape (..., points, objectives) and the reference (objectives,),"
            f" but got {points.shape} and {reference.shape}; give both the same two or more"
        )
    if not np.isfinite(reference).all():
        raise ValueError(
            f"the reference must be finite, but got {reference}; take one that is worse than all"
            " points"
        )
    if not points.shape[-2]:
        return np.zeros(points.shape[:-2])
    lost = np.isnan(points).any(axis=-1, keepdims=True) | (points > reference).any(
        -1, keepdims=True
    )
    # A point at the reference spans nothing.
    inside = np.where(lost, reference, points)
    order = np.argsort(inside[..., -1 if width > 2 else 0], axis=-1, kind="stable")
    inside = np.take_along_axis(inside, order[..., None], axis=-2)
    if width > 2:
        return _sum_slices(inside, reference)
    x, y = inside[..., 0], np.minimum.accumulate(inside[..., 1], axis=-1)
    ends = np.concatenate([x[..., 1:], np.full_like(x[..., :1], reference[0])], axis=-1)
    return ((ends - x) * (reference[1] - y)).sum(axis=-1)


def _sum_slices(points: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Volume in slices along the last objective, by which the points are ordered.

    Between two consecutive values of it, the cross section is what all points below dominate.
    """
    ends = [*np.moveaxis(points[..., 1:, -1], -1, 0), reference[-1]]
    slices = [
        (end - points[..., index, -1])
        * compute_hypervolume(points[..., : index + 1, :-1], reference[:-1])
        for index, end in enumerate(ends)
    ]
    return np.sum(slices, axis=0)


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
