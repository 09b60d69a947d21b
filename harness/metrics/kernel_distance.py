"""Kernel distance between two sets of features (KID; Bińkowski et al., arXiv 1801.01401).

The unbiased estimate of the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, on
random subsets of both sets; its mean over the subsets is the distance. Subsets are drawn in
torch-fidelity's order, so that equal features give equal numbers. Kernels are float32, as there;
their sums, of which the estimate is a small difference, are float64.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_BLOCK = 256
"""Rows of the kernel matrix in memory at once; small blocks leave less of its symmetric half."""


@final
@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """Result of `kernel_distance`."""

    value: float
    """Mean over subsets; slightly negative where the sets are alike, since it is unbiased."""
    std: float
    """Standard deviation over subsets (divided by their number)."""
    standard_error: float | None
    """Of `value`, as an estimate for the populations: std / sqrt(k - 1), k the smaller of the
    number of subsets and the number of disjoint ones that the smaller set has. Subsets beyond
    that overlap and say nothing new. None where k is 1: copies of one set don't vary."""


def kernel_distance(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "m d"],
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """Kernel distance of two sets of features (module docstring), on the features' device.

    Args:
        subset_size: Images in each, two at least; capped to the smaller set.
    """
    smaller = min(len(first), len(second))
    size = min(subset_size, smaller)
    assert size > 1, "within a set, no image is paired with itself"
    x, y = first.to(torch.float32), second.to(torch.float32)
    subsets = _draw_subsets(len(x), len(y), num_subsets, size, seed)
    if (len(x) + len(y)) ** 2 <= num_subsets * (2 * size) ** 2:
        # The kernel of everything is less work than the kernels of all subsets.
        members = (_members(chosen, of) for chosen, of in zip(subsets, (x, y), strict=True))
        values = _squared_discrepancies(x, y, *members).numpy(force=True)
    else:
        values = np.array([_of_subset(x, y, *chosen) for chosen in zip(*subsets, strict=True)])
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
    )


def _draw_subsets(
    n: int, m: int, num_subsets: int, size: int, seed: int
) -> tuple[Int64[Tensor, "s k"], Int64[Tensor, "s k"]]:
    """Positions in the first set and in the second, drawn in turn."""
    random = np.random.RandomState(seed)
    draws = [
        [random.choice(count, size, replace=False) for count in (n, m)] for _ in range(num_subsets)
    ]
    first, second = np.array(draws).swapaxes(0, 1)
    return torch.from_numpy(first), torch.from_numpy(second)


def _members(
    chosen: Int64[Tensor, "s k"], features: Float[Tensor, "n d"]
) -> Float64[Tensor, "s n"]:
    """One where an image is in a subset, zero elsewhere."""
    zeros = torch.zeros(len(chosen), len(features), dtype=torch.float64, device=features.device)
    return zeros.scatter_(1, chosen.to(features.device), 1.0)


def _of_subset(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], in_x: Tensor, in_y: Tensor
) -> float:
    everything = torch.ones(1, len(in_x), dtype=torch.float64, device=x.device)
    x, y = x[in_x.to(x.device)], y[in_y.to(y.device)]
    return float(_squared_discrepancies(x, y, everything, everything))


def _squared_discrepancies(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    in_x: Float64[Tensor, "s n"],
    in_y: Float64[Tensor, "s m"],
) -> Float64[Tensor, " s"]:
    """Eq. 4 of the paper for each subset: within a set, no image is paired with itself."""
    size = in_x[0].sum()
    within = _sums_within(x, in_x) + _sums_within(y, in_y)
    return within / (size * (size - 1)) - 2.0 * _sums_across(x, y, in_x, in_y) / size**2


def _sums_within(x: Float[Tensor, "n d"], members: Float64[Tensor, "s n"]) -> Float64[Tensor, " s"]:
    """Kernel over pairs of different images of a subset; each pair is computed once."""
    total = torch.zeros(len(members), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _BLOCK):
        end = min(start + _BLOCK, len(x))
        kernel = _kernel(x[start:end], x[start:])
        own = kernel[:, : end - start].fill_diagonal_(0.0)
        sums = own @ members[:, start:end].T
        sums += 2.0 * (kernel[:, end - start :] @ members[:, end:].T)
        total += (sums.T * members[:, start:end]).sum(dim=1)
    return total


def _sums_across(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    in_x: Float64[Tensor, "s n"],
    in_y: Float64[Tensor, "s m"],
) -> Float64[Tensor, " s"]:
    total = torch.zeros(len(in_x), dtype=torch.float64, device=x.device)
    for rows, members in zip(x.split(_BLOCK), in_x.split(_BLOCK, dim=1), strict=True):
        sums = _kernel(rows, y) @ in_y.T
        total += (sums.T * members).sum(dim=1)
    return total


def _kernel(x: Float[Tensor, "r d"], y: Float[Tensor, "c d"]) -> Float64[Tensor, "r c"]:
    """(x.y / d + 1)^3 in float32, widened for the sums."""
    shifted = torch.mm(x, y.T).div_(x.shape[1]).add_(1.0)
    return shifted.square().mul_(shifted).to(torch.float64)
