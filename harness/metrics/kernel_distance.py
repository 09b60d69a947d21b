"""Kernel distance between two sets of features (KID; Bińkowski et al., arXiv 1801.01401).

The unbiased estimate of the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, on
random subsets of both sets; its mean over the subsets is the distance. Subsets are drawn in
torch-fidelity's order, so that equal features give equal numbers. Products are taken in float32,
as there, everything after them in float64.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

_BLOCK = 2048
"""Rows of the kernel matrix in memory at once."""


@final
@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """What `kernel_distance` found."""

    value: float
    """Mean over subsets; slightly negative where the sets are alike, since it is unbiased."""
    std: float
    """Standard deviation over subsets (divided by their number)."""
    standard_error: float | None
    """Of `value`, as an estimate for the populations: std / sqrt(k - 1), k the smaller of the
    number of subsets and the number of disjoint ones that the smaller set has. Subsets beyond
    that overlap and say nothing new. None where k is 1: copies of one set don't vary."""
    num_subsets: int
    """Subsets drawn of each set."""
    subset_size: int
    """Images in a subset: what was asked for, or the size of the smaller set if that is less."""


def kernel_distance(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "m d"],
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """Kernel distance of two sets of features (module docstring), on the features' device.

    Args:
        first: Features of one set.
        second: Features of the other, on the same device.
        num_subsets: Subsets to average over.
        subset_size: Images in each; capped to the smaller set.
        seed: Seed of the draws.

    Raises:
        ValueError: A set has fewer than two images, the widths differ, no subset is asked for, or
            a feature is not finite.
    """
    _check_sets(first, second, num_subsets, subset_size)
    smaller = min(len(first), len(second))
    size = min(subset_size, smaller)
    random = np.random.RandomState(seed)
    values = np.array(
        [
            _squared_discrepancy(_subset(first, size, random), _subset(second, size, random))
            for _ in range(num_subsets)
        ]
    )
    if not np.isfinite(values).all():
        raise ValueError(
            "features must be finite, but their kernel holds NaN or infinity; look at the images "
            "and the extractor's precision"
        )
    independent = min(num_subsets, smaller // size)
    std = float(values.std())
    return KernelDistance(
        value=float(values.mean()),
        std=std,
        standard_error=std / math.sqrt(independent - 1) if independent > 1 else None,
        num_subsets=num_subsets,
        subset_size=size,
    )


def _subset(
    features: Float[Tensor, "n d"], size: int, random: np.random.RandomState
) -> Float[Tensor, "k d"]:
    chosen = torch.from_numpy(random.choice(len(features), size, replace=False))
    return features[chosen.to(features.device)].to(torch.float32)


def _squared_discrepancy(x: Float[Tensor, "k d"], y: Float[Tensor, "k d"]) -> float:
    """Eq. 4 of the paper: pairs of an image with itself stay out within a set, not across."""
    size = len(x)
    within = _sum_of_kernel(x, x) + _sum_of_kernel(y, y) - _trace_of_kernel(x) - _trace_of_kernel(y)
    return float(within / (size * (size - 1)) - 2.0 * _sum_of_kernel(x, y) / size**2)


def _sum_of_kernel(x: Float[Tensor, "k d"], y: Float[Tensor, "k d"]) -> Float64[Tensor, ""]:
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in x.split(_BLOCK):
        total += _cubed((rows @ y.T).to(torch.float64), x.shape[1]).sum()
    return total


def _trace_of_kernel(x: Float[Tensor, "k d"]) -> Float64[Tensor, ""]:
    return _cubed(x.to(torch.float64).square().sum(dim=1), x.shape[1]).sum()


def _cubed(products: Float64[Tensor, "..."], width: int) -> Float64[Tensor, "..."]:
    shifted = products.div_(width).add_(1.0)
    return shifted.square().mul_(shifted)


def _check_sets(first: Tensor, second: Tensor, num_subsets: int, subset_size: int) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"both sets must have features of one width, but got {first.shape[1]} and "
            f"{second.shape[1]}; use one extractor for everything that is compared"
        )
    if min(len(first), len(second), subset_size) < 2 or num_subsets < 1:
        raise ValueError(
            "a kernel distance must have 1 subset or more, of 2 images or more, but got "
            f"{num_subsets} of {subset_size} from sets of {len(first)} and {len(second)}; "
            "evaluate more images"
        )
