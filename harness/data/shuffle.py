"""The order of images in an epoch, drawn from (seed, epoch)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, final

import numpy as np
from jaxtyping import Int64

_ORDER = 0  # Purpose number of `random_numbers`; `stream` has the others.


@final
@dataclass(frozen=True, kw_only=True)
class FullShuffle:
    """Every order of the images is equally likely; a batch is read from all over the files."""

    kind: Literal["full"] = "full"


@final
@dataclass(frozen=True, kw_only=True)
class BlockShuffle:
    """Blocks of neighbouring images in random order, and random order within a window of blocks.

    Large files on slow disks are then read in long runs: a window's images lie in
    `window_images / block_images` places. Classes that lie together in the files stay closer
    together than under `full`, so it is meant for files whose rows are mixed already.
    """

    kind: Literal["blocks"] = "blocks"
    block_images: int = 1000
    """Neighbouring images that are read together; best a multiple of a row group's."""
    window_images: int = 20_000
    """Images that are mixed with each other; a cache of encoded images should hold as many."""

    def __post_init__(self) -> None:
        if not 1 <= self.block_images <= self.window_images:
            raise ValueError(
                "`block_images` must be at least 1 and at most `window_images`, but got "
                f"{self.block_images} and {self.window_images}; use 1000 and 20000"
            )


Shuffle = FullShuffle | BlockShuffle
"""Every kind of order."""
FULL = FullShuffle()
"""The order unless asked otherwise."""


# Every batch asks for the order of one epoch or two; ImageNet's is 10 MB and takes some 0.2 s.
@lru_cache(maxsize=4)
def epoch_order(
    seed: int, epoch: int, num_images: int, shuffle: Shuffle = FULL
) -> Int64[np.ndarray, " n"]:
    """The permutation of 0..`num_images` - 1 that one epoch follows, not writable."""
    random = random_numbers(seed, _ORDER, epoch)
    if isinstance(shuffle, BlockShuffle):
        order = _block_order(random, num_images, shuffle)
    else:
        order = random.permutation(num_images).astype(np.int64)
    order.setflags(write=False)
    return order


def _block_order(
    random: np.random.Generator, num_images: int, shuffle: BlockShuffle
) -> Int64[np.ndarray, " n"]:
    starts = np.arange(0, num_images, shuffle.block_images)
    blocks = [
        np.arange(start, min(start + shuffle.block_images, num_images), dtype=np.int64)
        for start in random.permutation(starts)
    ]
    order = np.concatenate(blocks)
    for start in range(0, num_images, shuffle.window_images):
        random.shuffle(order[start : start + shuffle.window_images])
    return order


def random_numbers(seed: int, purpose: int, counter: int) -> np.random.Generator:
    """A generator for one purpose and one epoch or step."""
    # A spawn key gives streams that are independent; seeds that are added up may coincide.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, counter)))
