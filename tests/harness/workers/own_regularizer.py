"""A regulariser of somebody's own: latents are drawn to a centre that learns where they are."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from harness.config.regularizers import REGULARIZERS
from models.regularizers.contract import AdamWConfig, Regularizer, RegularizerConfig


@dataclass(frozen=True, kw_only=True)
class CentreConfig(RegularizerConfig):
    kind: Literal["centre"] = "centre"
    optimizer: AdamWConfig = AdamWConfig(learning_rate=1e-2)

    def build(self, layout):
        return Centre(self.optimizer, layout.channels)


class Centre(Regularizer):
    def __init__(self, optimizer, channels):
        super().__init__()
        self.optimizer, self.centre = optimizer, nn.Parameter(torch.randn(channels, 1, 1))

    def loss(self, mean, latent, drawn, step):
        return {"l2": (mean - self.centre).square().mean()}

    def weights_at(self, step):
        return {"l2": 4.0 * min(1.0, step / 3)}


REGULARIZERS.add("centre", CentreConfig)
