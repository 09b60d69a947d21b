"""Latents of frozen features: SemVAE, a token VAE (arXiv 2512.04926), and principal components.

Features and latents are maps on one grid; a token is a cell of it, in row-major order.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.posterior import AnyPosterior, PointPosterior, Posterior

Tokens = Float[Tensor, "b n d"]


class FeatureCodec(nn.Module):
    """A network that encodes feature maps into latents of the same grid, and decodes them."""

    @abstractmethod
    def encode(self, features: Float[Tensor, "b d h w"]) -> AnyPosterior:
        """The latent of features, in float32."""

    @abstractmethod
    def decode(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features of latents."""


@dataclass(frozen=True, kw_only=True)
class SemVAEShape:
    """Size of encoder and decoder each; the defaults are the published ones."""

    width: int = 768
    """Width of a token between the blocks."""
    num_heads: int = 6
    """Heads of the attention."""
    num_blocks: int = 4
    """Transformer blocks."""

    def __post_init__(self) -> None:
        if min(self.width, self.num_heads, self.num_blocks) < 1 or self.width % self.num_heads:
            raise ValueError(
                "`width`, `num_heads` and `num_blocks` must be at least 1 and `num_heads` must "
                f"divide `width`, but got {self.width}, {self.num_heads} and {self.num_blocks}; "
                "use 768, 6 and 4"
            )


@dataclass(frozen=True, kw_only=True)
class SemVAELossConfig:
    """Weights of SemVAE's loss; the defaults are those of the released script."""

    mse_weight: float = 1.0
    """Of the mean squared difference."""
    cosine_weight: float = 1.0
    """Of 1 - cosine."""
    cosine_axis: Literal["tokens", "features"] = "tokens"
    """What the cosine runs over: the tokens of a feature, as in the released script, or the
    features of a token, as the paper says."""
    l1_weight: float = 0.0
    """Of the mean absolute difference."""
    kl_weight: float = 1e-7
    """Of the KL divergence, summed over an image's latent."""

    def __post_init__(self) -> None:
        for name in ("mse_weight", "cosine_weight", "l1_weight", "kl_weight"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must not be negative, but got {getattr(self, name)}; use 0 or more"
                )


class SemVAE(FeatureCodec):
    """Token VAE without positions; its tensors have the official names."""

    def __init__(self, *, feature_dim: int, latent_dim: int, shape: SemVAEShape) -> None:
        super().__init__()
        self.encoder = _trunk(feature_dim, 2 * latent_dim, shape)
        self.decoder = _trunk(latent_dim, feature_dim, shape)

    def encode(self, features: Float[Tensor, "b d h w"]) -> Posterior:
        """The posterior of each cell."""
        moments = self.encoder(as_tokens(features))
        return Posterior.from_moments(as_map(moments, features))

    def decode(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features in the caller's arithmetic."""
        return as_map(self.decoder(as_tokens(latent)), latent)


class PrincipalComponents(FeatureCodec):
    """Features along the directions in which they vary most (ReDi, arXiv 2504.16064)."""

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "c d"]

    def __init__(self, *, feature_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("components", torch.zeros(latent_dim, feature_dim))

    def fit(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> None:
        """Take the directions of largest variance of features of this mean and covariance."""
        _, directions = torch.linalg.eigh(covariance)
        chosen = directions.flip(1)[:, : len(self.components)].T
        # An eigenvector's sign is free; its largest entry is made positive.
        largest = chosen.gather(1, chosen.abs().argmax(dim=1, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(chosen * largest.sign())

    def encode(self, features: Float[Tensor, "b d h w"]) -> PointPosterior:
        """Coordinates along the components."""
        tokens = (as_tokens(features).float() - self.mean) @ self.components.T
        return PointPosterior(mean=as_map(tokens, features))

    def decode(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The features that are nearest within the components."""
        return as_map(as_tokens(latent) @ self.components + self.mean, latent)


def semvae_loss(
    config: SemVAELossConfig,
    features: Float[Tensor, "b d h w"],
    reconstruction: Float[Tensor, "b d h w"],
    posterior: Posterior,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The loss, a mean over the images of a batch, and its terms without their weights."""
    target, found = as_tokens(features).float(), as_tokens(reconstruction).float()
    axis = 1 if config.cosine_axis == "tokens" else 2
    terms = {
        "mse": functional.mse_loss(found, target),
        "cosine": (1.0 - functional.cosine_similarity(found, target, dim=axis)).mean(),
        "l1": functional.l1_loss(found, target),
        "kl": posterior.kl().mean(),
    }
    weights = config.mse_weight, config.cosine_weight, config.l1_weight, config.kl_weight
    total = sum(w * term for w, term in zip(weights, terms.values(), strict=True) if w)
    return torch.as_tensor(total), terms


def as_tokens(cells: Float[Tensor, "b d h w"]) -> Tokens:
    """The cells of a map one after the other, rows first."""
    return cells.flatten(2).transpose(1, 2)


def as_map(tokens: Tokens, like: Float[Tensor, "*_ h w"]) -> Float[Tensor, "b d h w"]:
    """Tokens, rows first, as the cells of a map with the sides of another."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[-2:])


def _trunk(input_dim: int, output_dim: int, shape: SemVAEShape) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, shape.width),
        *(_Block(shape) for _ in range(shape.num_blocks)),
        nn.LayerNorm(shape.width),
        nn.Linear(shape.width, output_dim),
    )


class _Block(nn.Module):
    """A pre-norm transformer block with an exact GELU."""

    def __init__(self, shape: SemVAEShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width)
        self.attn = nn.MultiheadAttention(shape.width, shape.num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(shape.width)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width),
            nn.GELU(),
            nn.Linear(4 * shape.width, shape.width),
        )

    def forward(self, tokens: Tokens) -> Tokens:
        tokens = tokens + self._attend(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, tokens: Tokens) -> Tokens:
        # PyTorch's own call takes another path in evaluation, whose operations are not counted.
        weights = self.attn
        heads = functional.linear(tokens, weights.in_proj_weight, weights.in_proj_bias)
        query, key, value = heads.unflatten(2, (3, weights.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return weights.out_proj(mixed.transpose(1, 2).flatten(2))
