"""The vision-foundation alignment loss of VA-VAE (arXiv 2501.01423, Section 3.2).

Both terms compare a latent with frozen foundation features on the same grid, after one of them is
projected to the other's width. As in the released code, and unlike Eq. 3 of the paper, the
projected tensor enters both terms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class NoAlignment:
    """A plain autoencoder: no foundation model takes part in the training."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["none"] = "none"
    """Tells this choice from others."""


@dataclass(frozen=True, kw_only=True)
class VFAlignment:
    """Margins and weights of the alignment loss; the defaults are the published ones."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["vf"] = "vf"
    """Tells this choice from others."""
    vf_weight: float = 0.1
    """Weight of the whole loss: a factor on the adaptive weight, or the weight itself."""
    cos_margin: float = 0.5
    """Margin of the marginal cosine term, in units of cosine similarity."""
    distmat_margin: float = 0.25
    """Margin of the distance-matrix term, in units of cosine similarity."""
    cos_weight: float = 1.0
    """Weight of the marginal cosine term inside the loss."""
    distmat_weight: float = 1.0
    """Weight of the distance-matrix term inside the loss."""
    adaptive: bool = True
    """Whether gradient norms scale `vf_weight` at every step; otherwise it is used as it is."""
    project: Literal["latent", "features"] = "latent"
    """Which side the 1x1 projection maps to the width of the other."""
    freeze_projection: bool = False
    """Whether the projection keeps its initial weights."""

    def __post_init__(self) -> None:
        names = ("vf_weight", "cos_margin", "distmat_margin", "cos_weight", "distmat_weight")
        for name in names:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must not be negative, but got {getattr(self, name)}; use 0 to "
                    "switch it off"
                )


def marginal_cosine_loss(
    projected: Float[Tensor, "b d h w"], features: Float[Tensor, "b d h w"], margin: float
) -> Float[Tensor, ""]:
    """Mean over positions of relu(1 - margin - cosine), 0 to 2 (Eq. 2)."""
    similarity = functional.cosine_similarity(projected, features, dim=1, eps=1e-8)
    return functional.relu(1.0 - margin - similarity).mean()


def _similarity_matrix(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n n"]:
    directions = functional.normalize(x.flatten(2), dim=1, eps=1e-12)
    return directions.transpose(1, 2) @ directions


def marginal_distance_matrix_loss(
    projected: Float[Tensor, "b d h w"], features: Float[Tensor, "b d h w"], margin: float
) -> Float[Tensor, ""]:
    """Mean over all position pairs of relu(|difference of similarity| - margin), 0 to 2 (Eq. 3).

    Pairs lie within one image; the diagonal counts in the mean although it contributes nothing.
    """
    difference = _similarity_matrix(projected) - _similarity_matrix(features)
    return functional.relu(difference.abs() - margin).mean()


class AlignmentLoss(nn.Module):
    """The two alignment terms and the projection between latent and features."""

    def __init__(self, config: VFAlignment, *, latent_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        if config.project == "latent":
            self.linear_proj = nn.Conv2d(latent_dim, feature_dim, 1, bias=False)
        else:
            self.linear_proj = nn.Conv2d(feature_dim, latent_dim, 1)
        self.linear_proj.requires_grad_(not config.freeze_projection)

    def forward(
        self, z: Float[Tensor, "b c h w"], features: Float[Tensor, "b d h w"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute the unweighted terms `vf_cos` and `vf_distmat`.

        Args:
            z: posterior sample, before `post_quant_conv`.
            features: frozen features on the latent's grid.
        """
        if self.config.project == "latent":
            left, right = self.linear_proj(z), features
        else:
            left, right = z, self.linear_proj(features)
        return {
            "vf_cos": marginal_cosine_loss(left, right, self.config.cos_margin),
            "vf_distmat": marginal_distance_matrix_loss(left, right, self.config.distmat_margin),
        }

    @property
    def term_weights(self) -> dict[str, float]:
        """Weight of each term inside the loss."""
        return {"vf_cos": self.config.cos_weight, "vf_distmat": self.config.distmat_weight}

    def total(self, terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Weighted sum of the two terms, before the overall (adaptive) weight."""
        weights = self.term_weights
        return weights["vf_cos"] * terms["vf_cos"] + weights["vf_distmat"] * terms["vf_distmat"]
