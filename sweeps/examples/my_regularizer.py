"""A regulariser of one's own: latents are drawn to a centre that learns where they are."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from harness.kinds import REGULARIZERS, AdamWConfig, Regularizer, RegularizerConfig


@dataclass(frozen=True, kw_only=True)
class CentreConfig(RegularizerConfig):
    """Its block in a sweep file."""

    kind: Literal["centre"] = "centre"
    optimizer: AdamWConfig = AdamWConfig(learning_rate=1e-2)

    def build(self, layout):
        """Build it for latents of this layout."""
        return Centre(self.optimizer, layout.channels)


class Centre(Regularizer):
    """It owns the centre, which has an optimiser of its own, and a weight that rises."""

    def __init__(self, optimizer, channels):
        super().__init__()
        self.optimizer, self.centre = optimizer, nn.Parameter(torch.randn(channels, 1, 1))

    def loss(self, mean, latent, drawn, step):
        """Mean squared distance; both encoder and centre learn from it."""
        return {"l2": (mean - self.centre).square().mean()}

    def weights_at(self, step):
        """Weight 4 from the fourth step on."""
        return {"l2": 4.0 * min(1.0, step / 3)}


REGULARIZERS.add("centre", CentreConfig)
