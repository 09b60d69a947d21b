"""How evenly latent vectors fill their space: density statistics of their t-SNE embedding.

The measure of Table 6 in arXiv 2501.01423: latent vectors of single positions are embedded in two
dimensions with t-SNE, a Gaussian kernel estimates the density at each of them, and three numbers
say how unequal these densities are. Arrays in, numbers out: anything that has latents may call it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_VECTORS_PER_NEIGHBOUR = 3
"""t-SNE's perplexity must stay below the number of vectors; below a third it means something."""


@dataclass(frozen=True, kw_only=True)
class UniformityConfig:
    """How latent vectors are embedded; the defaults are the paper's."""

    num_vectors: int = 10_000
    """Vectors embedded at most, count; more are drawn from at random without replacement."""
    perplexity: float = 30.0
    """Effective number of neighbours of a vector in the embedding, count."""
    seed: int = 42
    """Seed of the drawing and of the embedding."""

    def __post_init__(self) -> None:
        if self.perplexity <= 0 or self.num_vectors < MIN_VECTORS_PER_NEIGHBOUR * self.perplexity:
            raise ValueError(
                f"num_vectors must be at least {MIN_VECTORS_PER_NEIGHBOUR} times a positive"
                f" perplexity, but got {self.num_vectors} and {self.perplexity:g};"
                " embed more vectors or lower the perplexity"
            )


@dataclass(frozen=True, kw_only=True)
class Uniformity:
    """Density statistics of embedded latent vectors."""

    density_cv: float
    """Coefficient of variation of the densities, 0 where they are equal."""
    density_gini: float
    """Gini coefficient of the densities, 0 (equal) to 1."""
    density_entropy: float
    """Entropy of the densities as shares of their sum, over its maximum, 0 to 1 (equal)."""


def measure_uniformity(
    latents: NDArray[np.floating[Any]], config: UniformityConfig | None = None
) -> Uniformity:
    """Measures how evenly latent vectors are spread; about a minute for 10,000.

    Args:
        latents: Array of shape (vectors, channels), channel-normalised, finite; one random
            position of each image, as in the paper.

    Raises:
        ValueError: If the array has another shape, too few vectors or values that are not finite.
    """
    # Importing these takes seconds, which whoever only reads the configuration need not wait.
    from scipy.stats import gaussian_kde
    from sklearn.manifold import TSNE

    config = config or UniformityConfig()
    _require_vectors(latents, config)
    if len(latents) > config.num_vectors:
        chosen = np.random.default_rng(config.seed).permutation(len(latents))[: config.num_vectors]
        latents = latents[np.sort(chosen)]
    embedded = TSNE(n_components=2, perplexity=config.perplexity, random_state=config.seed)
    points = embedded.fit_transform(np.ascontiguousarray(latents, dtype=np.float32))
    transposed = np.asarray(points, dtype=np.float64).T
    return describe_densities(gaussian_kde(transposed)(transposed))


def describe_densities(densities: NDArray[np.float64]) -> Uniformity:
    """Says how unequal densities above 0 are, of shape (points,), two or more, in any unit."""
    assert (densities > 0).all(), "each is a density at one of the points that it is of"
    count = len(densities)
    shares = np.sort(densities) / densities.sum()
    ranks = np.arange(1, count + 1)
    return Uniformity(
        density_cv=float(densities.std() / densities.mean()),
        density_gini=float(2 * (ranks * shares).sum() / count - (count + 1) / count),
        density_entropy=float(-(shares * np.log2(shares)).sum() / np.log2(count)),
    )


def _require_vectors(latents: NDArray[np.floating[Any]], config: UniformityConfig) -> None:
    least = int(np.ceil(MIN_VECTORS_PER_NEIGHBOUR * config.perplexity))
    if latents.ndim != 2 or len(latents) < least:
        raise ValueError(
            f"latents must have the shape (vectors, channels) with at least {least} vectors for"
            f" perplexity {config.perplexity:g}, but got {latents.shape};"
            " take one position of more images or lower the perplexity"
        )
    if not np.isfinite(latents).all():
        raise ValueError(
            "latents must be finite, but some values are NaN or infinite;"
            " look for a diverged tokenizer"
        )
