"""Every metric of reconstructions and their originals, from one pass over the pairs."""

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from harness.data.pixel_range import to_model_range
from harness.metrics.extractors import FeatureExtractor
from harness.metrics.frechet import FeatureStatistics, frechet_distance
from harness.metrics.image_mean import ImageMean
from harness.metrics.image_quality import psnr, ssim
from harness.metrics.sample_scores import joined_tensors, parted_tensors

_PARTS = ("reconstructed", "original", "decibels", "similarity", "distance", "lossless")
"""What is accumulated, in the order of `state`."""


@final
class ReconstructionScores:
    """Accumulates pairs; `compute` gives the distances.

    Args:
        extractor: Network of the features.
        perceptual: LPIPS on `device`, or None.
        device: Where to accumulate.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        perceptual: nn.Module | None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._extractor, self._perceptual = extractor, perceptual
        empty = FeatureStatistics.empty(extractor.feature_dim, device)
        self._reconstructed = self._original = empty
        self._decibels = self._similarity = self._distance = ImageMean.empty(device)
        self._lossless = ImageMean.empty(device)

    def update(
        self,
        decoded: Float[Tensor, "b 3 h w"],
        rounded: UInt8[Tensor, "b 3 h w"],
        originals: UInt8[Tensor, "b 3 h w"],
    ) -> None:
        """Add pairs.

        Args:
            decoded: Reconstructions in [-1, 1] and beyond, as decoded: SSIM and LPIPS see them.
            rounded: The same as 8-bit images: PSNR and features see them.
            originals: What they are reconstructions of.
        """
        images = to_model_range(originals)
        self._original = self._original.update(self._extractor.features(originals))
        self._reconstructed = self._reconstructed.update(self._extractor.features(rounded))
        decibels = psnr(rounded, originals)
        self._decibels = self._decibels.update(decibels)
        self._lossless = self._lossless.update(decibels.isinf())
        self._similarity = self._similarity.update(ssim(decoded, images))
        if self._perceptual is not None:
            self._distance = self._distance.update(self._perceptual(decoded, images).flatten())

    @property
    def state(self) -> tuple[Any, ...]:
        """What was accumulated, to be sent to another worker's `merge`."""
        means = (self._decibels, self._similarity, self._distance, self._lossless)
        return self._reconstructed, self._original, *means

    def merge(self, state: tuple[Any, ...]) -> None:
        """Add what another worker accumulated of other pairs of the same set."""
        merged = [ours.merge(theirs) for ours, theirs in zip(self.state, state, strict=True)]
        self._reconstructed, self._original, *means = merged
        self._decibels, self._similarity, self._distance, self._lossless = means

    def to_tensors(self) -> dict[str, Tensor]:
        """What was accumulated, for storage."""
        return joined_tensors(dict(zip(_PARTS, self.state, strict=True)))

    def add_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Add what was stored; the same bits come back where nothing was accumulated before."""
        parts = [parted_tensors(tensors)[name] for name in _PARTS]
        moments = map(FeatureStatistics.from_tensors, parts[:2])
        self.merge((*moments, *map(ImageMean.from_tensors, parts[2:])))

    def compute(self) -> dict[str, Any]:
        """Every metric by the name of its column; None where it cannot be measured.

        `num_lossless` counts the images without any error: with one or more, the published mean
        of decibels is infinite, and `psnr` is None.
        """
        decibels = self._decibels.compute()
        return {
            "rfid": frechet_distance(self._reconstructed, self._original),
            # JSON has no infinite numbers.
            "psnr": decibels if math.isfinite(decibels) else None,
            "num_lossless": int(self._lossless.total),
            "ssim": self._similarity.compute(),
            "lpips": None if self._perceptual is None else self._distance.compute(),
            "num_images": self._original.num_samples,
            "feature_dim": self._original.dim,
            "rank_deficient": self._original.rank_deficient,
        }
