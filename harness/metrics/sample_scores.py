"""Every metric of a set of samples, from one pass over its images.

Memory does not grow with the images beyond their features, which precision, recall and the kernel
distance compare one by one: 50,000 of Inception's are 0.4 GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.machine.float32 import exact_float32
from harness.metrics.classification import labels_met
from harness.metrics.extractors import Extracted, FeatureExtractor
from harness.metrics.extrapolation import ChunkedStatistics, extrapolated_distance
from harness.metrics.feature_bank import FeatureBank
from harness.metrics.frechet import FeatureStatistics, frechet_distance
from harness.metrics.image_mean import ImageMean
from harness.metrics.inception_score import InceptionScore, splits_in_order, splits_shuffled
from harness.metrics.kernel_distance import kernel_distance
from harness.metrics.parts import Parts, joined_tensors, merged_parts, restored_parts
from harness.metrics.precision_recall import density_coverage, precision_recall
from harness.metrics.statistics_files import write_statistics

NEIGHBORS = 3
"""Neighbours that a ball of precision and recall reaches to, as published."""
SAME = 1e-5
"""Of the reference's variance: distance below which samples are its images. Two sets of a million
from one distribution are a hundred times further from each other."""
DENSE_NEIGHBORS = 5
"""The same of density and coverage, as published."""

METRICS = (
    "gfid", "gfid_infinity", "sfid", "inception_score", "inception_score_shuffled", "kid", "kid_se",
    "precision", "recall", "density", "coverage", "label_accuracy",
)  # fmt: skip
"""What `SampleScores.compute` measures. Samples or features that were kept are scored anew where
their record lacks one of these."""


@final
@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference that samples are compared with; `update` and `merge` return a new object."""

    statistics: FeatureStatistics
    spatial: FeatureStatistics | None = None
    """Moments of the spatial features, where the extractor has some."""
    bank: FeatureBank | None = None
    """Features of single images, where images are at hand."""

    @classmethod
    def empty(cls, dim: int, num_features: int, device: torch.device | str = "cpu") -> "Reference":
        """A reference of no images that will keep the features of the first `num_features`."""
        return cls(
            statistics=FeatureStatistics.empty(dim, device),
            bank=FeatureBank.empty(dim, num_features, device),
        )

    def update(self, found: Extracted, positions: Int64[Tensor, " b"] | None = None) -> "Reference":
        """Add what an extractor found in a batch.

        Args:
            positions: Place of each image among those whose features are kept, or one beyond them.
        """
        return Reference(
            statistics=self.statistics.update(found.features),
            spatial=add_spatial(self.spatial, found),
            bank=self.bank.update(found.features, positions) if self.bank else None,
        )

    def merge(self, other: "Reference") -> "Reference":
        """Both sets of images together, those of another worker for instance, on our device."""
        device = self.statistics.mean.device
        return Reference(**merged_parts(self._parts(), other._parts(), device))

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits."""
        return joined_tensors(self._parts())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Reference":
        """Restore a reference from storage."""
        kinds = {"statistics": FeatureStatistics, "spatial": FeatureStatistics, "bank": FeatureBank}
        return cls(**restored_parts(kinds, tensors))

    def _parts(self) -> dict[str, Any]:
        """The fields that are there."""
        return {name: part for name, part in vars(self).items() if part is not None}


def add_spatial(before: FeatureStatistics | None, found: Extracted) -> FeatureStatistics | None:
    """Moments of spatial features with those of a batch, None where an extractor has none."""
    if found.spatial is None:
        return before
    width, device = found.spatial.shape[1], found.spatial.device
    return (before or FeatureStatistics.empty(width, device)).update(found.spatial)


@final
class SampleScores(Parts):
    """Accumulates `num_images` samples in order; `compute` holds them to a reference."""

    KINDS: ClassVar = {
        "statistics": ChunkedStatistics,
        "features": FeatureBank,
        "spatial": FeatureStatistics,
        "recognised": ImageMean,
        "inception_0": InceptionScore,
        "inception_1": InceptionScore,
    }

    def __init__(
        self, extractor: FeatureExtractor, num_images: int, device: torch.device | str = "cpu"
    ) -> None:
        dim, parts = extractor.feature_dim, min(10, num_images)
        super().__init__(
            device,
            statistics=ChunkedStatistics.empty(dim, num_images, parts, device=device),
            features=FeatureBank.empty(dim, capacity=num_images, device=device),
            recognised=ImageMean.empty(device),
        )
        self._extractor = extractor
        shuffled = splits_shuffled(num_images, parts)
        self._splits = {"inception_0": splits_in_order(num_images), "inception_1": shuffled}

    def update(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        labels: Int64[Tensor, " b"] | None = None,
        positions: Int64[Tensor, " b"] | None = None,
    ) -> None:
        """Add images at places among all; without places they follow on those before."""
        found, state = self._extractor.extract(images), self.state
        if positions is None:
            positions = state["statistics"].num_samples + torch.arange(len(images))
        state["statistics"] = state["statistics"].update(found.features, positions)
        state["features"] = state["features"].update(found.features, positions)
        if (spatial := add_spatial(self.spatial, found)) is not None:
            state["spatial"] = spatial
        # Scores over one class would be 1 and perfect whatever the images look like.
        if found.logits is None or found.logits.shape[1] < 2:
            return
        for name, splits in self._splits.items():
            if name not in state:
                size = int(splits.max()) + 1, found.logits.shape[1]
                state[name] = InceptionScore.empty(*size, self.device)
            state[name] = state[name].update(found.logits, splits[positions])
        if labels is not None and self._extractor.classifies_labels:
            state["recognised"] = state["recognised"].update(labels_met(found.logits, labels))

    def features(self) -> dict[str, Tensor]:
        """All that `restore` needs to compute every metric again: features, and sums over images.

        The moments of the features follow from them, and at 2,048 features are nearly as large.
        """
        return joined_tensors({n: part for n, part in self.state.items() if n != "statistics"})

    def restore(self, tensors: Mapping[str, Tensor], batch_size: int) -> None:
        """Add the images behind `features`, in batches of the size in which they came."""
        self.add_tensors(tensors)
        found, places = tensors["features.features"].to(self.device), tensors["features.places"]
        for part, positions in zip(found.split(batch_size), places.split(batch_size), strict=True):
            self.state["statistics"] = self.state["statistics"].update(part, positions)

    @property
    def statistics(self) -> FeatureStatistics:
        """Moments of all features so far."""
        return self.state["statistics"].whole()

    @property
    def spatial(self) -> FeatureStatistics | None:
        """Moments of all spatial features so far; None where the extractor has none."""
        return self.state.get("spatial")

    def write_statistics(self, path: Path) -> None:
        """Write the moments, as a file that serves again as a reference."""
        name, identity = self._extractor.name, self._extractor.identity
        write_statistics(
            path, self.statistics, extractor=name, extractor_identity=identity, spatial=self.spatial
        )

    def compute(self, reference: Reference) -> dict[str, Any]:
        """Every metric by the name of its column; None where it cannot be measured; ValueError
        where the samples are the reference's own images."""
        whole = self.statistics
        gfid = frechet_distance(whole, reference.statistics)
        if gfid <= SAME * float(reference.statistics.compute()[1].trace()):
            raise ValueError(
                "samples must be other images than those they are held to, but are the same, at "
                "distance 0; give other samples or another reference"
            )
        extrapolated = extrapolated_distance(self.state["statistics"], reference.statistics)
        scores = [self.state[n].compute()[0] if n in self.state else None for n in self._splits]
        recognised = self.state["recognised"]
        sfid, sfid_reason = self._spatial_distance(reference)
        return {
            "gfid": gfid,
            "gfid_infinity": extrapolated.value,
            "gfid_infinity_reason": extrapolated.reason,
            "sfid": sfid,
            "sfid_reason": sfid_reason,
            "inception_score": scores[0],
            "inception_score_shuffled": scores[1],
            **self._neighbourhoods(reference),
            "label_accuracy": recognised.compute() if recognised.num_images else None,
            "num_images": whole.num_samples,
            "num_reference": reference.statistics.num_samples,
            "feature_dim": whole.dim,
            "rank_deficient": whole.rank_deficient or reference.statistics.rank_deficient,
        }

    def _spatial_distance(self, reference: Reference) -> tuple[float | None, str]:
        """The distance, or why there is none: spatial features are wide on large maps."""
        ours, theirs = self.spatial, reference.spatial
        if ours is None:
            return None, "the extractor has no spatial features"
        if theirs is None:
            return None, "the reference has no spatial statistics"
        for whose, found in (("samples", ours), ("reference", theirs)):
            if found.rank_deficient:
                return None, (
                    f"{whose}: {found.num_samples:,} images, but more than {found.dim:,} "
                    "are needed, the number of spatial features"
                )
        return frechet_distance(ours, theirs), ""

    def _neighbourhoods(self, reference: Reference) -> dict[str, Any]:
        names = ("kid", "kid_se", "precision", "recall", "density", "coverage")
        none: dict[str, Any] = dict.fromkeys(names)
        if reference.bank is None:
            return none
        ours, theirs = self.state["features"].compute(), reference.bank.compute().to(self.device)
        fewest = min(len(ours), len(theirs))
        if fewest <= NEIGHBORS:
            return none
        with exact_float32():
            kernel = kernel_distance(ours, theirs)
            found = kernel.value, kernel.standard_error, *precision_recall(ours, theirs, NEIGHBORS)
            if fewest > DENSE_NEIGHBORS:
                found += density_coverage(ours, theirs, DENSE_NEIGHBORS)
        return none | dict(zip(names, found, strict=False))
