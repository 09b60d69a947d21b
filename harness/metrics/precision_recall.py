"""Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage.

A set's manifold is the union of balls around its features, each reaching to the k-th nearest other
feature of the set. Precision is the share of generated images that lie in the reference's manifold,
recall the share of reference images in the generated one's (eq. 1 and 2). Density counts how many
of the reference's balls a generated image lies in, and coverage is the share of these balls that
hold a generated image (Naeem et al., arXiv 2002.09797, eq. 3 and 4): one outlier with a large ball
moves them less. Distances are taken block by block, a symmetric pair of blocks once, and both
shares from one pass over the cross distances.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def precision_recall(
    generated: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    neighbors: int = 3,
    block: int = 2048,
) -> tuple[float, float]:
    """Improved precision and recall, each in [0, 1] (module docstring), on the features' device.

    Memory beyond the features is about 4 `block`^2 + 2 `block` d numbers of 4 bytes.

    Args:
        neighbors: Neighbours, the image itself not counted, that a ball reaches to.
        block: Images on each side of a block of distances.
    """
    centre = _centre(generated, reference, neighbors)
    radii = _squared_radii(generated, centre, neighbors, block)
    reference_radii = _squared_radii(reference, centre, neighbors, block)
    precise = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    recalled = torch.zeros(len(reference), dtype=torch.bool, device=generated.device)
    for rows, columns, distances in _cross_blocks(generated, reference, centre, block):
        precise[rows] |= (distances <= reference_radii[columns]).any(dim=1)
        recalled[columns] |= (distances <= radii[rows, None]).any(dim=0)
    return float(precise.double().mean()), float(recalled.double().mean())


def density_coverage(
    generated: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    neighbors: int = 5,
    block: int = 2048,
) -> tuple[float, float]:
    """Density, which may exceed 1, and coverage in [0, 1]; arguments as of `precision_recall`."""
    centre = _centre(generated, reference, neighbors)
    radii = _squared_radii(reference, centre, neighbors, block)
    met = torch.zeros(len(reference), dtype=torch.int64, device=reference.device)
    for _, columns, distances in _cross_blocks(generated, reference, centre, block):
        met[columns] += (distances <= radii[columns]).sum(dim=0)
    density = float(met.sum()) / (neighbors * len(generated))
    return density, float((met > 0).double().mean())


def _centre(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], neighbors: int
) -> Float[Tensor, " d"]:
    """A point amid the features: distances don't depend on the origin, but their precision does."""
    assert min(len(generated), len(reference)) > neighbors > 0, "a ball must reach to a neighbour"
    if not (torch.isfinite(generated.sum()) and torch.isfinite(reference.sum())):
        raise ValueError(
            "features must be finite, but hold NaN or infinity; look at the images and the "
            "extractor's precision"
        )
    return 0.5 * (generated.mean(dim=0) + reference.mean(dim=0)).to(torch.float32)


def _squared_radii(
    features: Float[Tensor, "n d"], centre: Float[Tensor, " d"], neighbors: int, block: int
) -> Float[Tensor, " n"]:
    """Squared distance of each feature to its k-th nearest other one."""
    nearest = torch.full((len(features), neighbors), torch.inf, device=features.device)

    def keep_nearest(rows: slice, distances: Float[Tensor, "r c"]) -> None:
        count = min(neighbors, distances.shape[1])
        found = distances.topk(count, dim=1, largest=False, sorted=False).values
        candidates = torch.cat([nearest[rows], found], dim=1)
        nearest[rows] = candidates.topk(neighbors, dim=1, largest=False).values

    for rows in _ranges(len(features), block):
        x = _centred(features, rows, centre)
        for columns in _ranges(len(features), block, first=rows.start):
            distances = _squared_distances(x, _centred(features, columns, centre))
            if columns == rows:
                distances.fill_diagonal_(torch.inf)
            else:
                keep_nearest(columns, distances.T.contiguous())
            keep_nearest(rows, distances)
    return nearest[:, -1]


def _cross_blocks(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], centre: Float[Tensor, " d"], block: int
) -> Iterator[tuple[slice, slice, Float[Tensor, "r c"]]]:
    for rows in _ranges(len(x), block):
        centred = _centred(x, rows, centre)
        for columns in _ranges(len(y), block):
            yield rows, columns, _squared_distances(centred, _centred(y, columns, centre))


def _squared_distances(x: Float[Tensor, "r d"], y: Float[Tensor, "c d"]) -> Float[Tensor, "r c"]:
    squares = y.square().sum(dim=1)
    return torch.addmm(squares, x, y.T, alpha=-2.0).add_(x.square().sum(dim=1, keepdim=True))


def _centred(
    features: Float[Tensor, "n d"], rows: slice, centre: Float[Tensor, " d"]
) -> Float[Tensor, "r d"]:
    return features[rows].to(torch.float32) - centre


def _ranges(count: int, block: int, first: int = 0) -> Iterator[slice]:
    for start in range(first, count, block):
        yield slice(start, min(start + block, count))
