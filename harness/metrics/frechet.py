"""Fréchet distance between two sets of features, from streamed float64 moments.

The distance of the Gaussians fitted to two sets of features (Heusel et al., arXiv 1706.08500,
eq. 6) is |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)). The last trace is taken as the
sum of square roots of the eigenvalues of R^T S_b R with S_a = R R^T, which is symmetric and has the
eigenvalues of S_a S_b. General matrix square roots are avoided: several releases of SciPy and its
linear algebra got them wrong.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

_NO_SPREAD = 1e-12
"""Of the squared mean: variance that the arithmetic of equal images leaves."""
_ROUND_OFF = 1e-6
"""Of the traces: how far below 0 a distance may fall. Equal sets without full rank reach 1e-7."""


@final
@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """Count, mean and centred scatter of feature vectors; every operation returns a new object.

    Centred sums (Chan et al., 1979) instead of raw second moments keep full precision where the
    mean is large against the spread.
    """

    num_samples: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]
    """Sum of outer products of their deviations from the mean."""

    @classmethod
    def empty(cls, dim: int, device: torch.device | str = "cpu") -> "FeatureStatistics":
        """Statistics of no samples of `dim` features; later updates are computed on `device`."""
        zeros = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        return cls(num_samples=0, mean=zeros[0].clone(), scatter=zeros)

    @classmethod
    def from_moments(
        cls, mean: Float64[Tensor, " d"], covariance: Float64[Tensor, "d d"], num_samples: int
    ) -> "FeatureStatistics":
        """Statistics whose mean and unbiased covariance are known, of at least two samples."""
        return cls(num_samples=num_samples, mean=mean, scatter=covariance * (num_samples - 1))

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.mean.shape[0]

    @property
    def rank_deficient(self) -> bool:
        """Too few samples for a covariance of full rank: the distance is then strongly biased."""
        return self.num_samples <= self.dim

    def update(self, features: Float[Tensor, "b d"]) -> "FeatureStatistics":
        """Add a batch of feature vectors, in any floating-point type and on any device."""
        check_width(self.dim, features.shape[1])
        if features.shape[0] == 0:
            return self
        wide = features.detach().to(self.mean.device, torch.float64)
        num_samples = self.num_samples + len(wide)
        mean = wide.mean(dim=0)
        shift = mean - self.mean
        between = self.num_samples * (len(wide) / num_samples)
        # The shift of the mean is one more row, so that the large matrix is gone through once.
        rows = torch.cat([wide - mean, math.sqrt(between) * shift[None]])
        return FeatureStatistics(
            num_samples=num_samples,
            mean=self.mean + shift * (len(wide) / num_samples),
            scatter=torch.addmm(self.scatter, rows.T, rows),
        )

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets of samples together, those of another worker for instance.

        Where one set is empty, they are the other's to the bit, on this one's device.
        """
        check_width(self.dim, other.dim)
        if self.num_samples == 0:
            return other.to(self.mean.device)
        if other.num_samples == 0:
            return self
        num_samples = self.num_samples + other.num_samples
        other_mean = other.mean.to(self.mean.device)
        shift = other_mean - self.mean
        between = self.num_samples * (other.num_samples / num_samples)
        return FeatureStatistics(
            num_samples=num_samples,
            mean=self.mean + shift * (other.num_samples / num_samples),
            scatter=self.scatter
            + other.scatter.to(self.scatter.device)
            + between * torch.outer(shift, shift),
        )

    def to(self, device: torch.device | str) -> "FeatureStatistics":
        """The same on a device, where later updates are computed then."""
        return FeatureStatistics(
            num_samples=self.num_samples, mean=self.mean.to(device), scatter=self.scatter.to(device)
        )

    def compute(self) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
        """Mean and unbiased covariance (divided by `num_samples` - 1)."""
        if self.num_samples < 2:
            raise ValueError(
                f"a covariance must have at least 2 samples, but got {self.num_samples}; "
                "evaluate more images"
            )
        return self.mean, self.scatter / (self.num_samples - 1)

    def require_spread(self) -> None:
        """Refuse a reference that does not vary: others come near to it at once."""
        mean, covariance = self.compute()
        if float(covariance.trace()) <= _NO_SPREAD * float(mean.square().sum()):
            raise ValueError(
                f"the {self.num_samples:,} images that others are held to must differ, but all "
                "have the same features; look at the images and at the extractor"
            )

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits."""
        return {
            "num_samples": torch.tensor(self.num_samples, dtype=torch.int64),
            "mean": self.mean.cpu(),
            "scatter": self.scatter.cpu(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "FeatureStatistics":
        """Restore statistics from storage."""
        names = ("num_samples", "mean", "scatter")
        if absent := [name for name in names if name not in tensors]:
            raise ValueError(
                f"stored statistics must hold {', '.join(names)}, but {', '.join(absent)} came not "
                f"(found: {', '.join(sorted(tensors)) or 'nothing'}); compute them again"
            )
        mean, scatter = tensors["mean"], tensors["scatter"]
        types_fit = mean.dtype == scatter.dtype == torch.float64
        if not types_fit or mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise ValueError(
                f"stored statistics must be a float64 vector and matrix, but got {mean.dtype} "
                f"{tuple(mean.shape)} and {scatter.dtype} {tuple(scatter.shape)}; compute them "
                "again"
            )
        return cls(num_samples=int(tensors["num_samples"]), mean=mean, scatter=scatter)


def check_width(dim: int, width: int) -> None:
    """Refuse features of another width than those before."""
    if width != dim:
        raise ValueError(
            f"features must be {dim} wide as those before, but got {width}; use one extractor for "
            "everything that is compared"
        )


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features (module docstring).

    Args:
        second: Those of the images that the others are held to.

    Returns:
        The distance in squared feature units, at least 0 (equal sets give round-off around 0).

    Raises:
        ValueError: The widths differ, a set has fewer than two samples, a feature was not finite,
            or the second set's features are all the same.
        RuntimeError: The distance comes out negative by more than round-off.
    """
    check_width(first.dim, second.dim)
    (mean, covariance), other = first.compute(), second.compute()
    second.require_spread()
    gaussian = FactoredGaussian.of(mean, covariance)
    return gaussian.distance(*(moment.to(mean.device) for moment in other))


@final
@dataclass(frozen=True, kw_only=True)
class FactoredGaussian:
    """A Gaussian with the root of its covariance, to which many others are compared."""

    mean: Float64[Tensor, " d"]
    trace: Float64[Tensor, ""]
    root: Float64[Tensor, "d d"]
    """A matrix R with R R^T its covariance."""

    @classmethod
    def of(
        cls, mean: Float64[Tensor, " d"], covariance: Float64[Tensor, "d d"]
    ) -> "FactoredGaussian":
        """Factor a covariance: by Cholesky, or by its eigenvalues where it lacks rank.

        Eigenvalues below zero, which are round-off, count as zero.
        """
        _check_finite(mean, covariance)
        root, failed_at = torch.linalg.cholesky_ex(covariance)
        if failed_at:
            values, vectors = torch.linalg.eigh(covariance)
            root = vectors * values.clamp_min(0.0).sqrt()
        return cls(mean=mean, trace=covariance.trace(), root=root)

    def distance(self, mean: Float64[Tensor, " d"], covariance: Float64[Tensor, "d d"]) -> float:
        """Fréchet distance to another Gaussian (module docstring), at least 0.

        Raises:
            ValueError: A moment is not finite.
            RuntimeError: The distance comes out negative by more than round-off.
        """
        _check_finite(mean, covariance)
        product = self.root.T @ covariance @ self.root
        eigenvalues = torch.linalg.eigvalsh(0.5 * (product + product.T))
        trace_of_root = eigenvalues.clamp_min(0.0).sqrt().sum()
        traces = self.trace + covariance.trace()
        distance = float((self.mean - mean).square().sum() + traces - 2.0 * trace_of_root)
        if not distance >= -_ROUND_OFF * float(traces):
            raise RuntimeError(
                f"a Fréchet distance must be at least 0 but for round-off ({_ROUND_OFF:g} of the "
                f"traces {float(traces):.6g}), but {distance:.6g} came out; the matrices are no "
                "covariances, or this machine's linear algebra library is broken: compute the "
                "statistics again, or on another device"
            )
        return max(0.0, distance)


def _check_finite(mean: Float64[Tensor, " d"], covariance: Float64[Tensor, "d d"]) -> None:
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise ValueError(
            "features must be finite, but their moments hold NaN or infinity; look at the "
            "images and the extractor's precision"
        )


def self_test(device: torch.device | str = "cpu", num_blocks: int = 64) -> None:
    """Check this machine's linear algebra on a pair of Gaussians whose distance is known.

    The covariances are 2x2 blocks, for which tr((A B)^(1/2))^2 = tr(A B) + 2 det(A B)^(1/2), hidden
    by one rotation of the whole space. They don't commute, and the condition number is 1e4; then
    every other block of one is zero, so that it lacks rank.

    Raises:
        RuntimeError: The distance is off by more than 1e-8 relative (1e-6 without full rank); no
            metric can be trusted.
    """
    random = torch.Generator().manual_seed(0)
    blocks_a, blocks_b = (_covariance_blocks(num_blocks, random) for _ in range(2))
    shift = torch.randn(2 * num_blocks, dtype=torch.float64, generator=random)
    square = torch.randn(2 * num_blocks, 2 * num_blocks, dtype=torch.float64, generator=random)
    basis = torch.linalg.qr(square).Q
    holes = blocks_a.clone()
    holes[::2] = 0.0
    for blocks, tolerance in ((blocks_a, 1e-8), (holes, 1e-6)):
        products = blocks @ blocks_b
        traces = products.diagonal(dim1=1, dim2=2).sum(-1)
        roots = (traces + 2.0 * torch.linalg.det(products).clamp_min(0.0).sqrt()).sqrt()
        covariance_traces = (blocks + blocks_b).diagonal(dim1=1, dim2=2).sum()
        expected = float(shift.square().sum() + covariance_traces - 2.0 * roots.sum())
        rotated = [basis @ torch.block_diag(*part) @ basis.T for part in (blocks, blocks_b)]
        mean = torch.zeros_like(shift, device=device)
        gaussian = FactoredGaussian.of(mean, rotated[0].to(device))
        found = gaussian.distance((basis @ shift).to(device), rotated[1].to(device))
        if abs(found - expected) > tolerance * expected:
            raise RuntimeError(
                f"the Fréchet distance of a known pair of Gaussians must be {expected:.12g}, but "
                f"this machine computes {found:.12g} on {device}; its linear algebra library is "
                "broken: reinstall torch, or compute metrics on another device"
            )


def _covariance_blocks(num_blocks: int, random: torch.Generator) -> Float64[Tensor, "k 2 2"]:
    scales = torch.logspace(-2, 2, num_blocks, dtype=torch.float64)[:, None, None]
    factors = torch.randn(num_blocks, 2, 2, dtype=torch.float64, generator=random)
    return scales * (factors @ factors.mT + 0.1 * torch.eye(2, dtype=torch.float64))
