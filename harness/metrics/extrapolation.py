"""Fréchet distance extrapolated to infinitely many samples (Chong & Forsyth, arXiv 1911.07023).

The distance of N samples is too large by a bias that falls as 1/N, with a factor that depends on
the generator; so FIDs of few samples don't rank generators. The samples are dealt at random into
chunks whose moments are kept apart. Groups of 1, 2, ... chunks give distances of several N, and a
line through them over 1/N gives the distance at 1/N = 0. Only groups with more samples than
features take part, since below that the covariance lacks rank and the line is none. The bias from
the reference's own size stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from harness.metrics.frechet import FactoredGaussian, FeatureStatistics, check_width
from harness.metrics.inception_score import splits_shuffled

_PENDING_PER_CHUNK = 256
"""Samples that wait for each chunk, on average, before they are added together: a matrix of
moments is gone through once for all of them."""
_MIN_POINTS = 3
"""Numbers of samples that a line needs; two would hide that there is none."""


@final
@dataclass(frozen=True, kw_only=True)
class ChunkedStatistics:
    """Moments of the features of each chunk; every operation returns a new object.

    Memory is 8 bytes times chunks times width squared, and does not grow with the samples.
    """

    chunk_of: Int64[Tensor, " n"]
    """Chunk of each sample by its position in the set."""
    chunks: tuple[FeatureStatistics, ...]
    pending: tuple[tuple[Float[Tensor, "_ d"], Int64[Tensor, " _"]], ...]
    """Batches that are not yet in the moments, and the chunk of each sample."""

    @classmethod
    def empty(
        cls,
        dim: int,
        num_images: int,
        num_chunks: int = 10,
        seed: int = 2020,
        device: torch.device | str = "cpu",
    ) -> "ChunkedStatistics":
        """Statistics of no samples; later updates are computed on `device`.

        Args:
            num_images: Samples of the whole set, over all workers.
            num_chunks: Chunks, which hold equally many to within one.
            seed: Seed of the deal. It is random since files are often sorted by class.
        """
        return cls(
            chunk_of=splits_shuffled(num_images, num_chunks, seed),
            chunks=(FeatureStatistics.empty(dim, device),) * num_chunks,
            pending=(),
        )

    @property
    def num_samples(self) -> int:
        """Samples seen."""
        return sum(c.num_samples for c in self.chunks) + sum(len(f) for f, _ in self.pending)

    def update(
        self, features: Float[Tensor, "b d"], positions: Int64[Tensor, " b"] | None = None
    ) -> "ChunkedStatistics":
        """Add a batch, in any floating-point type and on any device.

        Args:
            positions: Where the samples stand in the whole set. Absent: they follow on those that
                came before, which is right for a single worker.
        """
        if positions is None:
            positions = self.num_samples + torch.arange(len(features))
        inside = (positions >= 0) & (positions < len(self.chunk_of))
        assert inside.all(), f"positions must lie among the {len(self.chunk_of)} samples announced"
        check_width(self.chunks[0].dim, features.shape[1])
        batch = (features.detach(), self.chunk_of[positions.cpu()])
        added = replace(self, pending=(*self.pending, batch))
        waiting = sum(len(f) for f, _ in added.pending)
        full = waiting >= _PENDING_PER_CHUNK * len(self.chunks)
        return added._settled() if full else added

    def merge(self, other: "ChunkedStatistics") -> "ChunkedStatistics":
        """Statistics of both sets of samples together, those of another worker for instance.

        Where this set is empty, they are the other's to the bit, what waits included.
        """
        same = torch.equal(self.chunk_of, other.chunk_of)
        assert same, "all workers must deal the same samples into the same chunks"
        if self.num_samples == 0:
            pairs = zip(self.chunks, other.chunks, strict=True)
            return replace(other, chunks=tuple(a.merge(b) for a, b in pairs))
        pairs = zip(self._settled().chunks, other._settled().chunks, strict=True)
        return replace(self, chunks=tuple(a.merge(b) for a, b in pairs), pending=())

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits, and what waits."""
        stored = {
            "chunk_of": self.chunk_of,
            "num_samples": torch.tensor([c.num_samples for c in self.chunks]),
            "mean": torch.stack([c.mean for c in self.chunks]),
            "scatter": torch.stack([c.scatter for c in self.chunks]),
        }
        if self.pending:
            stored["pending"] = torch.cat([features for features, _ in self.pending])
            stored["pending_chunks"] = torch.cat([chunks for _, chunks in self.pending])
        return stored

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "ChunkedStatistics":
        """Restore statistics from storage."""
        moments = zip(
            tensors["num_samples"].tolist(), tensors["mean"], tensors["scatter"], strict=True
        )
        waits = "pending" in tensors
        return cls(
            chunk_of=tensors["chunk_of"],
            chunks=tuple(
                FeatureStatistics(num_samples=count, mean=mean, scatter=scatter)
                for count, mean, scatter in moments
            ),
            pending=((tensors["pending"], tensors["pending_chunks"]),) if waits else (),
        )

    def compute(self) -> tuple[FeatureStatistics, ...]:
        """Moments of each chunk."""
        return self._settled().chunks

    def whole(self) -> FeatureStatistics:
        """Moments of all samples."""
        return reduce(FeatureStatistics.merge, self.compute())

    def _settled(self) -> "ChunkedStatistics":
        """The same with nothing pending."""
        if not self.pending:
            return self
        device = self.chunks[0].mean.device
        features = torch.cat([batch.to(device) for batch, _ in self.pending])
        of = torch.cat([chunks for _, chunks in self.pending]).to(device)
        chunks = tuple(c.update(features[of == i]) for i, c in enumerate(self.chunks))
        return replace(self, chunks=chunks, pending=())


@final
@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Result of `extrapolated_distance`."""

    value: float | None
    """Distance at infinitely many samples, in squared feature units, or None where no line can be
    drawn. It may fall slightly below 0 where the sets are alike."""
    points: tuple[tuple[int, float], ...]
    """Numbers of samples of a group, and the mean distance of such groups."""
    reason: str
    """Why there is no value, in words; empty where there is one."""


def extrapolated_distance(
    chunked: ChunkedStatistics, reference: FeatureStatistics
) -> Extrapolation:
    """Fréchet distance to a reference at infinitely many samples (module docstring).

    The reference's covariance is factored once; each group costs two products and the eigenvalues
    of a symmetric matrix.
    """
    chunks = chunked.compute()
    check_width(chunks[0].dim, reference.dim)
    if reference.rank_deficient:
        return _no_value(f"the reference has {reference.num_samples:,} images", reference.dim)
    device = chunks[0].mean.device
    mean, covariance = reference.compute()
    gaussian = FactoredGaussian.of(mean.to(device), covariance.to(device))
    points = []
    for size in range(1, len(chunks) + 1):
        # Disjoint groups; chunks left over take no part.
        starts = range(0, len(chunks) - size + 1, size)
        groups = [reduce(FeatureStatistics.merge, chunks[n : n + size]) for n in starts]
        if not any(group.rank_deficient for group in groups):
            distances = [gaussian.distance(*group.compute()) for group in groups]
            num_samples = round(np.mean([group.num_samples for group in groups]))
            points.append((num_samples, float(np.mean(distances))))
    if len(points) < _MIN_POINTS:
        samples = f"{chunked.num_samples:,} samples give {len(points)} groups of chunks"
        return _no_value(samples, reference.dim, tuple(points))
    inverse, distances = 1.0 / np.array(points)[:, 0], np.array(points)[:, 1]
    intercept = np.polynomial.Polynomial.fit(inverse, distances, 1).convert().coef[0]
    return Extrapolation(value=float(intercept), points=tuple(points), reason="")


def _no_value(found: str, dim: int, points: tuple[tuple[int, float], ...] = ()) -> Extrapolation:
    wanted = f"more than {dim:,} images each are needed, and {_MIN_POINTS} such groups"
    return Extrapolation(value=None, points=points, reason=f"{found}, but {wanted}")
