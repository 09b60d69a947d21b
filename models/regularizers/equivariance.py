"""EQ-VAE (arXiv 2502.09509): a transformed latent decodes to the image transformed alike.

The authors' code additionally shrinks the images of a quarter of the plain batches before they are
encoded. The paper's equations do not have this, and it is left out.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.latent import LatentLayout
from models.regularizers.contract import Drawn, Regularizer, RegularizerConfig


@dataclass(frozen=True, kw_only=True)
class EquivarianceConfig(RegularizerConfig):
    """Which transformations there are, and how often one is applied."""

    provenance: ClassVar[Literal["reproduced", "reconstruction"]] = "reproduced"
    kind: Literal["eq"] = "eq"
    plain_share: float = 0.5
    """Share of batches with the usual loss, in [0, 1]: p of the paper."""
    min_scale: float = 0.25
    """Smallest factor of a side, above 0 and below 1; the largest is one cell less than 1."""
    anisotropic: bool = True
    """Whether height and width have factors of their own (paper; the released training: one)."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How both are resized, without antialiasing (paper; the released training: bilinear)."""

    def __post_init__(self) -> None:
        if not 0 <= self.plain_share <= 1 or not 0 < self.min_scale < 1:
            raise ValueError(
                f"`plain_share` must lie in [0, 1] and `min_scale` in (0, 1), but got "
                f"{self.plain_share} and {self.min_scale}; the paper has 0.5 and 0.25"
            )

    def build(self, layout: LatentLayout) -> "Equivariance":
        """Build it."""
        return Equivariance(self)

    def check(self, layout: LatentLayout, *, downsample: int, smallest_image: int) -> None:
        """Refuse a grid without a smaller one, and images that the loss cannot take."""
        side = min(layout.height, layout.width)
        lowest = self.smallest(side)
        if lowest >= side:
            raise ValueError(
                f"`min_scale` must leave a smaller grid, but {self.min_scale} of {side} latent "
                "cells leaves none; lower it, or use a larger resolution"
            )
        if lowest * downsample < smallest_image:
            raise ValueError(
                f"`min_scale` must leave images of {smallest_image} pixels, which the "
                f"discriminator or LPIPS need, but {self.min_scale} leaves "
                f"{lowest * downsample}; use {smallest_image / (side * downsample):g} or more"
            )

    def smallest(self, cells: int) -> int:
        """The fewest cells to which `cells` are scaled."""
        return max(1, math.ceil(self.min_scale * cells))


@final
class Equivariance(Regularizer):
    """Scales and turns latents and images alike, one transformation a batch.

    Factors are multiples of one latent cell, so that latent and image have exactly the same. Their
    distribution is uniform, as in the authors' code (8 to 31 of 32 cells); angles are 90, 180 and
    270 degrees.
    """

    def __init__(self, config: EquivarianceConfig) -> None:
        super().__init__()
        self.config = config

    def draw(
        self, count: int, layout: LatentLayout, *, choices: torch.Generator, noise: torch.Generator
    ) -> Drawn:
        """Draw the grid to scale to, in cells, and quarter turns; nothing for a plain batch."""
        plain, for_height, for_width, angle = torch.rand(4, generator=choices).tolist()
        if plain < self.config.plain_share:
            return {}
        if not self.config.anisotropic:
            for_width = for_height
        sides = ((layout.height, for_height), (layout.width, for_width))
        return {"grid": tuple(self._scaled(*side) for side in sides), "turns": 1 + int(3 * angle)}

    def perturb(
        self, latent: Float[Tensor, "b c h w"], images: Float[Tensor, "b 3 h_in w_in"], drawn: Drawn
    ) -> tuple[Float[Tensor, "b c h_p w_p"], Float[Tensor, "b 3 h_t w_t"]]:
        """Transform both, or neither."""
        if not drawn:
            return latent, images
        height, width = drawn["grid"]
        pixels = images.shape[-1] // latent.shape[-1]
        return (
            self._transform(latent, (height, width), drawn["turns"]),
            self._transform(images, (height * pixels, width * pixels), drawn["turns"]),
        )

    def _scaled(self, cells: int, uniform: float) -> int:
        lowest = self.config.smallest(cells)
        return lowest + int(uniform * (cells - lowest))

    def _transform(self, x: Tensor, size: tuple[int, int], turns: int) -> Tensor:
        scaled = functional.interpolate(
            x, size=size, mode=self.config.interpolation, align_corners=False
        )
        return torch.rot90(scaled, turns, dims=(-2, -1))
