"""Converts between 8-bit pixels and the range [-1, 1] of the networks."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harness.machine.finite import require_finite


def to_model_range(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Map pixels 0..255 to float32 in [-1, 1]: x / 127.5 - 1."""
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(images: Float[Tensor, "b *shape"]) -> UInt8[Tensor, "b *shape"]:
    """Round [-1, 1] to pixels 0..255, halves upwards: floor(clamp(127.5 x + 128, 0, 255)).

    This is the published rounding; values outside the range are clamped. Half precision is widened
    first, since it cannot hold 127.5 x + 128 to the last pixel step.
    """
    require_finite(images, "images", "look at the weights behind them, or train them anew")
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return (127.5 * wide + 128.0).clamp(0.0, 255.0).floor().to(torch.uint8)
