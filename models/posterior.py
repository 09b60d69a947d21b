"""The posterior of an image's latent: a diagonal Gaussian, a single latent, or indices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Mean and log-variance of q(z | x), one Gaussian per latent element."""

    mean: Float[Tensor, "b c h w"]
    """Mean, unbounded."""
    log_variance: Float[Tensor, "b c h w"]
    """Natural log of the variance, within `LOG_VARIANCE_RANGE`."""

    @classmethod
    def from_moments(cls, moments: Float[Tensor, "b twice_c h w"]) -> "Posterior":
        """Split `quant_conv`'s output in float32: mean first, then log-variance, clamped."""
        mean, log_variance = moments.float().chunk(2, dim=1)
        return cls(mean=mean, log_variance=log_variance.clamp(*LOG_VARIANCE_RANGE))

    def sample(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Reparametrised sample for standard normal `noise`."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def mode(self) -> Float[Tensor, "b c h w"]:
        """The most likely latent, which is the mean."""
        return self.mean

    def kl(self) -> Float[Tensor, " b"]:
        """KL divergence from N(0, I) in nats, summed over the latent of each image."""
        per_element = self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        return 0.5 * per_element.sum(dim=(1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class PointPosterior:
    """Posterior of a deterministic encoder: all of q(z | x) at one latent."""

    mean: Float[Tensor, "b c h w"]
    """The latent, unbounded."""

    def sample(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The latent whatever the `noise`."""
        return self.mean

    def mode(self) -> Float[Tensor, "b c h w"]:
        """The latent."""
        return self.mean


@dataclass(frozen=True, kw_only=True)
class IndexPosterior:
    """Posterior of a tokenizer with a codebook: all of it at one code a token."""

    indices: Int64[Tensor, "b n"]
    """Indices of the codes, grid after grid, each row by row."""

    def mode(self) -> Int64[Tensor, "b n"]:
        """The indices."""
        return self.indices


AnyPosterior = Posterior | PointPosterior | IndexPosterior
"""What encoding gives."""


def draw(posterior: AnyPosterior, random: torch.Generator) -> Tensor:
    """A sample of a posterior; of one that has no spread, its only latent.

    Args:
        posterior: the posterior, on the device of `random`.
    """
    if isinstance(posterior, IndexPosterior):
        return posterior.indices
    mean = posterior.mean
    return posterior.sample(torch.randn(mean.shape, generator=random, device=mean.device))


def join(posteriors: Sequence[AnyPosterior]) -> AnyPosterior:
    """The posteriors of one encoder for several batches as that of all their images."""
    if len(posteriors) == 1:
        return posteriors[0]
    indices = [p.indices for p in posteriors if isinstance(p, IndexPosterior)]
    if indices:
        return IndexPosterior(indices=torch.cat(indices))
    mean = torch.cat([p.mean for p in posteriors if not isinstance(p, IndexPosterior)])
    spread = [p.log_variance for p in posteriors if isinstance(p, Posterior)]
    if not spread:
        return PointPosterior(mean=mean)
    return Posterior(mean=mean, log_variance=torch.cat(spread))
