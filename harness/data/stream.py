"""Training batches as a pure function of seed and step."""

from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.data.dataset import WHOLE, ImageDataset, Split
from harness.data.shuffle import FULL, Shuffle, epoch_order, random_numbers

_AUGMENTATION, _SHIFT = 1, 2  # Purpose numbers of `random_numbers`: streams of their own.


@final
@dataclass(frozen=True, kw_only=True)
class BatchStream:
    """Endless shuffled batches; the same seed and step always give the same batch.

    Every epoch is a permutation drawn from (seed, epoch) as the data set's `shuffle` says, and the
    epochs follow each other without a gap: a batch may span two of them and no image is dropped.
    Augmentation is drawn from (seed, step) for the whole batch, so that every rank reads its part
    of one and the same. So a resumed run needs no reader state, only its step.
    """

    dataset: ImageDataset
    split: Split
    batch_size: int
    """Images a batch, all devices together; it may exceed the split."""
    seed: int
    """Seed of order and augmentation, not negative."""
    augment: bool
    part: slice = field(default_factory=lambda: WHOLE)
    """Positions in the batch that are read, one rank's share; all ranks' together are the batch."""
    max_shift: int = 0
    """Images are moved by up to so many pixels along either axis too, their edges mirrored."""

    def indices(self, step: int) -> Int64[np.ndarray, " b"]:
        """Positions in the split of all images of batch 0, 1, 2, ..., whatever `part`."""
        num_images = self.dataset.num_images(self.split)
        return batch_indices(self.seed, step, self.batch_size, num_images, self.dataset.shuffle)

    def batch(self, step: int) -> tuple[UInt8[Tensor, "b 3 h w"], Int64[Tensor, " b"]]:
        """Images and labels of the `part` of batch 0, 1, 2, ..."""
        indices = self.indices(step)
        chosen = indices[self.part]
        labels = torch.from_numpy(self.dataset.labels(self.split)[chosen])
        if self.augment:
            # Drawn for the whole batch whatever `part`, so that one worker or eight see the same.
            generator = random_numbers(self.seed, _AUGMENTATION, step)
            images = self.dataset.augmented(self.split, indices, generator, self.part)
            return self._moved(images, step), labels
        return self.dataset.images(self.split, chosen), labels

    def _moved(self, images: UInt8[Tensor, "b 3 h w"], step: int) -> UInt8[Tensor, "b 3 h w"]:
        if not self.max_shift:
            return images
        generator = random_numbers(self.seed, _SHIFT, step)
        # For the whole batch too, and from a stream of its own: crops stay those of no shift.
        shifts = generator.integers(-self.max_shift, self.max_shift + 1, (self.batch_size, 2))
        return shifted(images, torch.from_numpy(shifts[self.part]))


def shifted(
    images: UInt8[Tensor, "b 3 h w"], shifts: Int64[Tensor, "b 2"]
) -> UInt8[Tensor, "b 3 h w"]:
    """Images moved down and right by whole pixels; what comes in mirrors what is there."""
    height, width = images.shape[2:]
    # Mirrored edges: zeros moving in would be black bars on photographs.
    rows = _mirrored(torch.arange(height) - shifts[:, :1], height)
    columns = _mirrored(torch.arange(width) - shifts[:, 1:], width)
    batch = torch.arange(len(images))[:, None, None]
    moved = images[batch, :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _mirrored(places: Int64[Tensor, "b n"], size: int) -> Int64[Tensor, "b n"]:
    """Places beyond either edge, reflected at the outermost pixel."""
    places = places.abs()
    return torch.where(places < size, places, 2 * (size - 1) - places)


def batch_indices(
    seed: int, step: int, batch_size: int, num_images: int, shuffle: Shuffle = FULL
) -> Int64[np.ndarray, " b"]:
    """Positions of batch 0, 1, 2, ... in a set that is shuffled anew every epoch."""
    # Computed from the step alone: a resumed run has no reader to put back in place.
    first = step * batch_size
    last = first + batch_size - 1
    epochs = range(first // num_images, last // num_images + 1)
    orders = np.concatenate([epoch_order(seed, epoch, num_images, shuffle) for epoch in epochs])
    start = first - epochs.start * num_images
    return orders[start : start + batch_size]
