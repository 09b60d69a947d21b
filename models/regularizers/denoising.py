"""Latent denoising of l-DeTok (arXiv 2507.15856): images are decoded from latents full of noise.

l-DeTok is a transformer that also masks image patches, and its decoder is tuned on clean latents at
the end. Masking has no counterpart in a convolutional encoder; both are left out.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from models.latent import LatentLayout
from models.regularizers.contract import Drawn, Regularizer, RegularizerConfig


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig(RegularizerConfig):
    """How strong the noise is."""

    kind: Literal["denoise"] = "denoise"
    gamma: float = 3.0
    """Deviation of the noise, in `unit`; positive."""
    unit: Literal["one", "latent"] = "one"
    """`one`: the latent's own numbers, as published. A KL latent is free to grow beyond such noise,
    held by the KL term alone. `latent`: each channel's deviation over the batch, without gradient,
    so that growing does not help."""

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ValueError(
                f"`gamma` must be positive, but got {self.gamma}; the paper has 3, and leaving "
                "the regulariser out has no noise"
            )

    def build(self, layout: LatentLayout) -> "Denoising":
        """Build it."""
        return Denoising(self)


@final
class Denoising(Regularizer):
    """Mixes every latent with noise, by a share of its own: (1 - tau) z + tau gamma eps."""

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__()
        self.config = config

    def draw(
        self, count: int, layout: LatentLayout, *, choices: torch.Generator, noise: torch.Generator
    ) -> Drawn:
        """Draw the share of noise of each image, uniform in [0, 1), and standard normal noise."""
        device = noise.device
        return {
            "share": torch.rand((count, 1, 1, 1), generator=noise, device=device),
            "noise": torch.randn((count, *layout.shape), generator=noise, device=device),
        }

    def perturb(
        self, latent: Float[Tensor, "b c h w"], images: Float[Tensor, "b 3 h_in w_in"], drawn: Drawn
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 3 h_in w_in"]]:
        """Mix the latents with noise; the images stay."""
        deviation = self.config.gamma * self._unit(latent.detach())
        # An earlier regulariser may have left a smaller grid.
        height, width = latent.shape[2:]
        share, noise = drawn["share"], drawn["noise"][..., :height, :width]
        return (1 - share) * latent + share * deviation * noise, images

    def _unit(self, latent: Float[Tensor, "b c h w"]) -> Tensor | float:
        if self.config.unit == "one":
            return 1.0
        count = self.part.total or len(latent)
        values = count * latent[0, 0].numel()
        mean = self.part.sum(latent.sum(dim=(0, 2, 3), keepdim=True)) / values
        squares = self.part.sum((latent - mean).square().sum(dim=(0, 2, 3), keepdim=True))
        return (squares / values).sqrt()
