"""The features of single images, for metrics that compare image by image.

KID, precision and recall need the features themselves, not their moments. A bank keeps those of
the images whose places are below its capacity, so that its memory is known before the first image
comes: 4 bytes times capacity times width. Features come back in the order of their places,
whichever worker handled which.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from harness.metrics.frechet import check_width


@final
@dataclass(frozen=True, kw_only=True)
class FeatureBank:
    """Features of up to `capacity` images; every operation returns a new object.

    Batches are kept as they came, so that adding one copies nothing that was there before.
    """

    dim: int
    capacity: int
    device: torch.device
    num_seen: int = 0
    """Images that came, kept or not."""
    batches: tuple[Float32[Tensor, "_ d"], ...] = ()
    places: tuple[Int64[Tensor, " _"], ...] = ()
    """Place of each image that is kept, on the CPU."""

    @classmethod
    def empty(cls, dim: int, capacity: int, device: torch.device | str = "cpu") -> "FeatureBank":
        """A bank without images."""
        return cls(dim=dim, capacity=capacity, device=torch.device(device))

    @property
    def num_images(self) -> int:
        """Images kept."""
        return sum(len(places) for places in self.places)

    def update(
        self, features: Float[Tensor, "b d"], positions: Int64[Tensor, " b"] | None = None
    ) -> "FeatureBank":
        """Add a batch from any device; features are stored as float32.

        Args:
            positions: Place of each image; one outside 0..`capacity` - 1 is not kept. Absent: the
                images follow on those that came before.
        """
        check_width(self.dim, features.shape[1])
        if positions is None:
            positions = self.num_seen + torch.arange(len(features))
        places = positions.cpu()
        kept = torch.nonzero((places >= 0) & (places < self.capacity)).flatten()
        chosen = features.detach()[kept.to(features.device)].to(self.device, torch.float32)
        return self._with(len(features), (chosen,), (places[kept],))

    def merge(self, other: "FeatureBank") -> "FeatureBank":
        """Both sets of images together, those of another worker for instance."""
        check_width(self.dim, other.dim)
        assert other.capacity == self.capacity, "all workers must have the capacity of the whole"
        moved = tuple(batch.to(self.device) for batch in other.batches)
        return self._with(other.num_seen, moved, other.places)

    def compute(self) -> Float32[Tensor, "n d"]:
        """The kept features in the order of their places."""
        if not self.batches:
            return torch.empty(0, self.dim, device=self.device)
        places = torch.cat(self.places)
        ordered, order = places.sort()
        assert ordered.diff().all(), "each image must have its own place in a bank"
        features = torch.cat(self.batches)
        in_order = torch.equal(order, torch.arange(len(order)))
        return features if in_order else features[order.to(self.device)]

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits."""
        return {
            "features": self.compute().cpu(),
            "places": torch.cat([torch.empty(0, dtype=torch.int64), *self.places]).sort().values,
            "capacity": torch.tensor(self.capacity, dtype=torch.int64),
            "num_seen": torch.tensor(self.num_seen, dtype=torch.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "FeatureBank":
        """Restore a bank from storage."""
        features = tensors["features"]
        bank = cls.empty(features.shape[1], int(tensors["capacity"]))
        return bank._with(int(tensors["num_seen"]), (features,), (tensors["places"],))

    def _with(
        self, num_seen: int, batches: tuple[Tensor, ...], places: tuple[Tensor, ...]
    ) -> "FeatureBank":
        return replace(
            self,
            num_seen=self.num_seen + num_seen,
            batches=self.batches + batches,
            places=self.places + places,
        )
