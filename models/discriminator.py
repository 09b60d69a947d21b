"""The patch discriminator of the tokenizer's adversarial loss, with hinge objectives."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.batch_part import BatchNorm, BatchPart

MAX_WIDTH_MULTIPLIER = 8


@dataclass(frozen=True, kw_only=True)
class NoDiscriminator:
    """No adversarial term."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["none"] = "none"
    """Tells this choice from others."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Shape, weight and start of the patch discriminator; the defaults are the published ones."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["patchgan"] = "patchgan"
    """Tells this choice from others."""
    num_layers: int = 3
    """Convolutions of stride 2; at least 1."""
    base_width: int = 64
    """Channels after the first convolution."""
    weight: float = 0.5
    """Factor on the adaptive weight of the generator's adversarial term."""
    start_step: int = 5001
    """First step with the adversarial terms, in optimiser steps of both optimisers: two a batch."""
    balance: Literal["adaptive", "constant"] = field(
        default="adaptive", metadata={"key": "unless_default"}
    )
    """`constant`, as published for TokenFlow (arXiv 2412.03069): `weight` itself weighs the terms
    of both sides; `start_step` counts batches from 1; and before it the discriminator's optimiser
    steps on zeros, which spends Adam's bias correction."""

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(
                f"`num_layers` of the discriminator must be at least 1, but got "
                f'{self.num_layers}; use kind "none" to train without one'
            )

    @property
    def smallest_image(self) -> int:
        """Side of the smallest image that leaves a logit."""
        return 3 * 2**self.num_layers

    def generator_term_is_on(self, batch_index: int) -> bool:
        """Whether the autoencoder's step of this batch (an even step) sees the discriminator."""
        if self.balance == "constant":
            return batch_index + 1 >= self.start_step
        return 2 * batch_index >= self.start_step

    def discriminator_is_on(self, batch_index: int) -> bool:
        """Whether the discriminator trains on this batch (an odd step)."""
        return self.balance == "constant" or 2 * batch_index + 1 >= self.start_step

    def own_weight(self, batch_index: int) -> float:
        """Weight of the discriminator's own loss on a batch on which it trains."""
        if self.balance == "adaptive":
            return 1.0
        return self.weight if self.generator_term_is_on(batch_index) else 0.0


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class PatchDiscriminator(nn.Module):
    """Convolutional classifier with one logit per overlapping image patch.

    Batch normalisation is over the global batch. The published one is over each worker's images.
    """

    def __init__(self, config: DiscriminatorConfig, *, in_channels: int = 3) -> None:
        super().__init__()
        width = config.base_width
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for depth in range(1, config.num_layers + 1):
            out_width = config.base_width * min(2**depth, MAX_WIDTH_MULTIPLIER)
            stride = 2 if depth < config.num_layers else 1
            layers += [
                nn.Conv2d(width, out_width, 4, stride=stride, padding=1, bias=False),
                BatchNorm(out_width),
                nn.LeakyReLU(0.2),
            ]
            width = out_width
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        self.apply(_initialise)

    def divide(self, part: BatchPart) -> None:
        """Take what comes from now on as this part of a batch."""
        for layer in self.main:
            if isinstance(layer, BatchNorm):
                layer.part = part

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h_out w_out"]:
        """Logits, positive for patches that look real."""
        return self.main(x)


def generator_hinge_loss(fake_logits: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """The autoencoder's adversarial term: minus the mean logit of reconstructions."""
    return -fake_logits.mean()


def discriminator_hinge_loss(
    real_logits: Float[Tensor, "b 1 h w"], fake_logits: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Half the hinge losses of real logits below 1 and fake logits above -1."""
    real = functional.relu(1.0 - real_logits).mean()
    fake = functional.relu(1.0 + fake_logits).mean()
    return 0.5 * (real + fake)
