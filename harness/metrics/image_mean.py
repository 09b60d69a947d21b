"""The accumulator of every metric that is a mean over images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True)
class ImageMean:
    """Count and float64 sum of one value per image; every operation returns a new object."""

    num_images: int
    """Images seen."""
    total: Float64[Tensor, ""]
    """Sum of their values; it stays on the values' device, so that nothing waits for it."""

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> "ImageMean":
        """The mean over no images."""
        return cls(num_images=0, total=torch.zeros((), dtype=torch.float64, device=device))

    def update(self, values: Float[Tensor, " b"] | Bool[Tensor, " b"]) -> "ImageMean":
        """Add one value per image, from `psnr`, `ssim`, `labels_met` or a perceptual module."""
        total = values.detach().to(self.total.device, torch.float64).sum()
        return ImageMean(num_images=self.num_images + len(values), total=self.total + total)

    def merge(self, other: "ImageMean") -> "ImageMean":
        """The mean over both sets of images."""
        total = self.total + other.total.to(self.total.device)
        return ImageMean(num_images=self.num_images + other.num_images, total=total)

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits."""
        return {"num_images": torch.tensor(self.num_images), "total": self.total}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "ImageMean":
        """Restore a mean from storage."""
        return cls(num_images=int(tensors["num_images"]), total=tensors["total"])

    def compute(self) -> float:
        """Arithmetic mean over all images.

        Raises:
            ValueError: There are no images.
        """
        if self.num_images == 0:
            raise ValueError(
                "a mean over images must have at least 1 image, but got 0; evaluate some"
            )
        return float(self.total) / self.num_images
