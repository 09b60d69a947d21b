"""Every metric of a set of samples, from one pass over its images.

Memory does not grow with the images beyond their features, which precision, recall and the kernel
distance compare one by one: 50,000 of Inception's are 0.4 GB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.metrics.classification import labels_met
from harness.metrics.extractors import Extracted, FeatureExtractor, exact_float32
from harness.metrics.extrapolation import ChunkedStatistics, extrapolated_distance
from harness.metrics.feature_bank import FeatureBank
from harness.metrics.frechet import FeatureStatistics, frechet_distance
from harness.metrics.image_mean import ImageMean
from harness.metrics.inception_score import InceptionScore, splits_in_order, splits_shuffled
from harness.metrics.kernel_distance import kernel_distance
from harness.metrics.precision_recall import precision_recall

NEIGHBORS = 3
"""Neighbours that a ball of precision and recall reaches to, as published."""


@runtime_checkable
class Stored(Protocol):
    """An accumulator that can be put into storage."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Reference:
    """What samples are held to; `update` and `merge` return a new object."""

    statistics: FeatureStatistics
    """Moments of the features."""
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
            found: Its features.
            positions: Place of each image among those whose features are kept, or one beyond them.
        """
        return Reference(
            statistics=self.statistics.update(found.features),
            spatial=add_spatial(self.spatial, found),
            bank=self.bank.update(found.features, positions) if self.bank else None,
        )

    def merge(self, other: "Reference") -> "Reference":
        """Both sets of images together, those of another worker for instance."""
        ours, theirs = self.bank, other.bank
        return Reference(
            statistics=self.statistics.merge(other.statistics),
            spatial=_merged(self.spatial, other.spatial),
            bank=ours.merge(theirs) if ours and theirs else None,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits."""
        parts = {"statistics": self.statistics, "spatial": self.spatial, "bank": self.bank}
        return joined_tensors(parts)

    def to(self, device: torch.device | str) -> "Reference":
        """The same on a device, where later updates are computed then."""
        bank = self.bank
        return Reference(
            statistics=self.statistics.to(device),
            spatial=self.spatial.to(device) if self.spatial else None,
            bank=FeatureBank.empty(bank.dim, bank.capacity, device).merge(bank) if bank else None,
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Reference":
        """Restore a reference from storage."""
        parts = parted_tensors(tensors)
        spatial, bank = parts.get("spatial"), parts.get("bank")
        return cls(
            statistics=FeatureStatistics.from_tensors(parts["statistics"]),
            spatial=FeatureStatistics.from_tensors(spatial) if spatial else None,
            bank=FeatureBank.from_tensors(bank) if bank else None,
        )


def joined_tensors(parts: Mapping[str, Stored | None]) -> dict[str, Tensor]:
    """Tensors of several accumulators under `part.name`; one that is None has none."""
    return {
        f"{part}.{name}": tensor
        for part, value in parts.items()
        if value is not None
        for name, tensor in value.to_tensors().items()
    }


def parted_tensors(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `joined_tensors`: part -> its tensors."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def add_spatial(before: FeatureStatistics | None, found: Extracted) -> FeatureStatistics | None:
    """Moments of spatial features with those of a batch, None where an extractor has none."""
    if found.spatial is None:
        return before
    width, device = found.spatial.shape[1], found.spatial.device
    return (before or FeatureStatistics.empty(width, device)).update(found.spatial)


def _merged(
    ours: FeatureStatistics | None, theirs: FeatureStatistics | None
) -> FeatureStatistics | None:
    return ours.merge(theirs) if ours and theirs else ours or theirs


@final
class SampleScores:
    """Accumulates samples in order; `compute` holds them to a reference.

    Args:
        extractor: Network of the features.
        num_images: Samples to come; splits and chunks follow from it.
        device: Where to accumulate.
    """

    def __init__(
        self, extractor: FeatureExtractor, num_images: int, device: torch.device | str = "cpu"
    ) -> None:
        self._extractor, self._device = extractor, device
        dim = extractor.feature_dim
        chunks, splits = min(10, num_images), min(10, num_images)
        self._statistics = ChunkedStatistics.empty(dim, num_images, chunks, device=device)
        self._features = FeatureBank.empty(dim, capacity=num_images, device=device)
        self._spatial: FeatureStatistics | None = None
        self._recognised = ImageMean.empty(device)
        self._splits = (splits_in_order(num_images), splits_shuffled(num_images, splits))
        self._inception: tuple[InceptionScore, ...] = ()

    def update(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        labels: Int64[Tensor, " b"] | None = None,
        positions: Int64[Tensor, " b"] | None = None,
    ) -> None:
        """Add images, and the classes asked for where there are any.

        Args:
            images: Samples.
            labels: Classes asked for.
            positions: Where the images stand among all. Absent: they follow on those before.
        """
        found = self._extractor.extract(images)
        if positions is None:
            positions = self._statistics.num_samples + torch.arange(len(images))
        self._statistics = self._statistics.update(found.features, positions)
        self._features = self._features.update(found.features, positions)
        self._spatial = add_spatial(self._spatial, found)
        if found.logits is None:
            return
        if not self._inception:
            classes = found.logits.shape[1]
            self._inception = tuple(
                InceptionScore.empty(int(splits.max()) + 1, classes, self._device)
                for splits in self._splits
            )
        self._inception = tuple(
            score.update(found.logits, splits[positions])
            for score, splits in zip(self._inception, self._splits, strict=True)
        )
        if labels is not None and self._extractor.classifies_labels:
            self._recognised = self._recognised.update(labels_met(found.logits, labels))

    @property
    def state(self) -> tuple[Any, ...]:
        """What was accumulated, to be sent to another worker's `merge`."""
        parts = (self._statistics, self._features, self._spatial, self._recognised)
        return *parts, self._inception

    def merge(self, state: tuple[Any, ...]) -> None:
        """Add what another worker accumulated of the same set of samples."""
        statistics, features, spatial, recognised, inception = state
        self._statistics = self._statistics.merge(statistics)
        self._features = self._features.merge(features)
        self._spatial = _merged(self._spatial, spatial)
        self._recognised = self._recognised.merge(recognised)
        # One that had no images knows no classes.
        pairs = zip(self._inception, inception, strict=bool(self._inception and inception))
        self._inception = tuple(a.merge(b) for a, b in pairs) or self._inception or inception

    def to_tensors(self) -> dict[str, Tensor]:
        """What was accumulated, for storage."""
        scores = {f"inception_{i}": score for i, score in enumerate(self._inception)}
        return joined_tensors(
            {
                "statistics": self._statistics,
                "features": self._features,
                "spatial": self._spatial,
                "recognised": self._recognised,
                **scores,
            }
        )

    def add_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Add what was stored; the same bits come back where nothing was accumulated before."""
        parts = parted_tensors(tensors)
        scores = [InceptionScore.from_tensors(t) for p, t in parts.items() if "inception" in p]
        spatial = parts.get("spatial")
        state = (
            ChunkedStatistics.from_tensors(parts["statistics"]),
            FeatureBank.from_tensors(parts["features"]),
            FeatureStatistics.from_tensors(spatial).to(self._device) if spatial else None,
            ImageMean.from_tensors(parts["recognised"]),
            tuple(score.to(self._device) for score in scores),
        )
        self.merge(state)

    @property
    def statistics(self) -> FeatureStatistics:
        """Moments of all features so far."""
        return self._statistics.whole()

    @property
    def spatial(self) -> FeatureStatistics | None:
        """Moments of all spatial features so far; None where the extractor has none."""
        return self._spatial

    def compute(self, reference: Reference) -> dict[str, Any]:
        """Every metric by the name of its column; None where it cannot be measured."""
        whole = self.statistics
        extrapolated = extrapolated_distance(self._statistics, reference.statistics)
        scores = [score.compute()[0] for score in self._inception] or [None, None]
        sfid, sfid_reason = self._spatial_distance(reference)
        return {
            "gfid": frechet_distance(whole, reference.statistics),
            "gfid_infinity": extrapolated.value,
            "gfid_infinity_reason": extrapolated.reason,
            "sfid": sfid,
            "sfid_reason": sfid_reason,
            "inception_score": scores[0],
            "inception_score_shuffled": scores[1],
            **self._neighbourhoods(reference),
            "label_accuracy": self._recognised.compute() if self._recognised.num_images else None,
            "num_images": whole.num_samples,
            "num_reference": reference.statistics.num_samples,
            "feature_dim": whole.dim,
            "rank_deficient": whole.rank_deficient or reference.statistics.rank_deficient,
        }

    def _spatial_distance(self, reference: Reference) -> tuple[float | None, str]:
        """The distance, or why there is none: spatial features are wide on large maps."""
        ours, theirs = self._spatial, reference.spatial
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
        names = ("kid", "kid_se", "precision", "recall")
        if reference.bank is None:
            return dict.fromkeys(names)
        ours, theirs = self._features.compute(), reference.bank.compute().to(self._device)
        if min(len(ours), len(theirs)) <= NEIGHBORS:
            return dict.fromkeys(names)
        with exact_float32():
            kernel = kernel_distance(ours, theirs)
            precision, recall = precision_recall(ours, theirs, NEIGHBORS)
        return dict(
            zip(names, (kernel.value, kernel.standard_error, precision, recall), strict=True)
        )
