"""Samples on their way into an archive, so that an interrupted stage keeps those that it has.

Pixels are appended to a file that ends with every checkpoint, which covers the files before it by
their hashes. The archive is written from them at the end: until the stage is published, the disk
holds the samples twice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.data.sample_archive import write_samples
from harness.storage.artifacts import Work
from harness.storage.checkpoints import BESIDE
from harness.storage.durable import storage_errors

_BLOCK = 256
"""Images that are copied at a time."""


@final
class KeptSamples:
    """Samples in the order in which they come; what was kept after the first `done` is dropped."""

    def __init__(self, work: Work, resolution: int, done: int = 0) -> None:
        self._folder = work.checkpoints / BESIDE
        self._shape = (resolution, resolution, 3)
        self._count = self._first = done
        with storage_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            for path in self._files():
                if int(path.stem) >= done:
                    path.unlink()

    def add(self, images: UInt8[Tensor, "b 3 h w"]) -> None:
        """Append a batch, from any device."""
        path = self._folder / f"{self._first:09d}.rgb"
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        with storage_errors(path), path.open("ab") as file:
            file.write(pixels.data)
        self._count += len(images)

    def end_file(self) -> None:
        """Begin another file with the next batch, so that a checkpoint can rely on those before."""
        self._first = self._count

    def write_archive(self, path: Path, labels: Int64[Tensor, " n"]) -> None:
        """Write the archive of all samples."""
        write_samples(path, self._blocks(), labels.numpy(force=True), self._shape[0])

    def _blocks(self) -> Iterator[UInt8[np.ndarray, "_b h w 3"]]:
        size = int(np.prod(self._shape))
        for source in self._files():
            with source.open("rb") as file:
                while len(pixels := np.fromfile(file, np.uint8, _BLOCK * size)):
                    yield pixels.reshape(-1, *self._shape)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.rgb"))
