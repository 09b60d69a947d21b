"""The accumulator of every metric that is a mean over images."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from harness.metrics.parts import Sums


@final
@dataclass(frozen=True, kw_only=True)
class ImageMean(Sums):
    """Count and float64 sum of one value per image; every operation returns a new object."""

    num_images: Int64[Tensor, ""]
    total: Float64[Tensor, ""]
    """Sum of their values; it stays on the values' device, so that nothing waits for it."""

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> "ImageMean":
        """The mean over no images."""
        total = torch.zeros((), dtype=torch.float64, device=device)
        return cls(num_images=torch.tensor(0), total=total)

    def update(self, values: Float[Tensor, " b"] | Bool[Tensor, " b"]) -> "ImageMean":
        """Add one value per image, from `psnr`, `ssim`, `labels_met` or a perceptual module."""
        total = values.detach().to(self.total.device, torch.float64).sum()
        return ImageMean(num_images=self.num_images + len(values), total=self.total + total)

    def compute(self) -> float:
        """Arithmetic mean over all images, of which there must be one."""
        return float(self.total) / int(self.num_images)
