"""Every metric of reconstructions and their originals, from one pass over the pairs."""

import math
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from harness.data.pixel_range import to_model_range
from harness.metrics.code_counts import CodeCounts
from harness.metrics.extractors import FeatureExtractor
from harness.metrics.frechet import FeatureStatistics, frechet_distance
from harness.metrics.image_mean import ImageMean
from harness.metrics.image_quality import psnr, ssim
from harness.metrics.parts import Parts
from models.latent import IndexLayout

_MEANS = ("decibels", "similarity", "distance", "lossless")


@final
class ReconstructionScores(Parts):
    """Accumulates pairs; `compute` gives the distances."""

    KINDS: ClassVar = {
        "reconstructed": FeatureStatistics,
        "original": FeatureStatistics,
        "codes": CodeCounts,
        **dict.fromkeys(_MEANS, ImageMean),
    }

    def __init__(
        self,
        extractor: FeatureExtractor,
        perceptual: nn.Module | None,
        device: torch.device | str = "cpu",
        layout: IndexLayout | None = None,
    ) -> None:
        empty = FeatureStatistics.empty(extractor.feature_dim, device)
        means = dict.fromkeys(_MEANS, ImageMean.empty(device))
        super().__init__(device, reconstructed=empty, original=empty, **means)
        if layout is not None:
            self.state["codes"] = CodeCounts.empty(layout, device)
        self._extractor, self._perceptual, self._layout = extractor, perceptual, layout

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
        """
        images, decibels = to_model_range(originals), psnr(rounded, originals)
        values = {
            "original": self._extractor.features(originals),
            "reconstructed": self._extractor.features(rounded),
            "decibels": decibels,
            "lossless": decibels.isinf(),
            "similarity": ssim(decoded, images),
        }
        if self._perceptual is not None:
            values["distance"] = self._perceptual(decoded, images).flatten()
        for name, found in values.items():
            self.state[name] = self.state[name].update(found)

    def count_codes(self, indices: Int64[Tensor, "b n"]) -> None:
        """Add the codes of images."""
        assert self._layout is not None
        self.state["codes"] = self.state["codes"].update(self._layout.split(indices))

    def compute(self) -> dict[str, Any]:
        """Every metric by the name of its column; None where it cannot be measured.

        `num_lossless` counts the images without any error: with one or more, the published mean
        of decibels is infinite, and `psnr` is None.
        """
        original, decibels = self.state["original"], self.state["decibels"].compute()
        codes = self.state.get("codes")
        return {
            "rfid": frechet_distance(self.state["reconstructed"], original),
            # JSON has no infinite numbers.
            "psnr": decibels if math.isfinite(decibels) else None,
            "num_lossless": int(self.state["lossless"].total),
            "ssim": self.state["similarity"].compute(),
            "lpips": None if self._perceptual is None else self.state["distance"].compute(),
            "codebook_usage": codes and codes.usage,
            "codebook_perplexity": codes and codes.perplexity,
            "codebook_usage_by_scale": codes and codes.usage_by_scale,
            "num_images": original.num_samples,
            "feature_dim": original.dim,
            "rank_deficient": original.rank_deficient,
        }
