"""Small data sets decoded once: their pixels as uint8 in memory, or on the device as well.

Stages that run one after the other in a process share them. The last `MOST_SPLITS` splits stay, so
that a process never holds more than one data set for long.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from harness.data.dataset import batches
from harness.data.pipelines import Pipeline, Workers, read_squares

GIB = 2**30
MOST_SPLITS = 2
"""Splits that stay in memory in one process."""

Pixels = UInt8[np.ndarray, "_h _w 3"]
_Decode = Callable[[Int64[np.ndarray, " b"]], list[Pixels]]


@final
class KeptPixels:
    """All images of a split: squares of one size in a tensor, or images of any sizes in a list."""

    def __init__(self, pixels: UInt8[Tensor, "n 3 s s"] | list[Pixels]) -> None:
        self._pixels = pixels
        self._on_device: UInt8[Tensor, "n 3 s s"] | None = None
        self._lock = threading.Lock()

    @property
    def side(self) -> int | None:
        """Side of the squares; None where sizes differ."""
        return self._pixels.shape[2] if isinstance(self._pixels, Tensor) else None

    def squares(
        self,
        indices: Int64[np.ndarray, " b"],
        resolution: int,
        pipeline: Pipeline,
        positions: Sequence[tuple[float, float]] | None,
        workers: Workers,
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Images by index, resized and cropped as `pipelines.read_squares` does."""
        if isinstance(self._pixels, Tensor):
            chosen = self._pixels[torch.tensor(indices)]
            if self.side == resolution:
                return chosen
            images = list(chosen.permute(0, 2, 3, 1).numpy())
        else:
            images = [self._pixels[index] for index in indices]
        return read_squares(images, Image.fromarray, resolution, pipeline, positions, workers)

    def on(self, device: torch.device, resolution: int) -> UInt8[Tensor, "n 3 s s"]:
        """All images in the memory of a device, moved there once."""
        if not isinstance(self._pixels, Tensor) or self.side != resolution:
            sizes = "images of several sizes" if self.side is None else f"squares of {self.side}"
            raise ValueError(
                f"`keep: device` needs images of {resolution}x{resolution} pixels (`resolution`), "
                f"but these are {sizes}; use `keep: memory`"
            )
        with self._lock:
            if self._on_device is None or self._on_device.device.type != device.type:
                self._on_device = self._pixels.to(device)
            return self._on_device


# Of the process and not of a data set: every stage opens its data set anew.
_kept: OrderedDict[str, KeptPixels] = OrderedDict()
_kept_lock = threading.Lock()


def keep_pixels(
    name: str, num_images: int, decode: _Decode, limit_gib: float, split: str
) -> KeptPixels:
    """The pixels of a split, decoded where this process does not hold them yet. `name` stands for
    the images: the same name, the same pixels."""
    with _kept_lock:
        if name in _kept:
            _kept.move_to_end(name)
            return _kept[name]
        # Room is made before decoding, or memory would hold one split more for a while.
        while len(_kept) >= MOST_SPLITS:
            _kept.popitem(last=False)
        kept = KeptPixels(_decode_all(num_images, decode, limit_gib, split))
        _kept[name] = kept
        return kept


def _decode_all(
    num_images: int, decode: _Decode, limit_gib: float, split: str
) -> UInt8[Tensor, "n 3 s s"] | list[Pixels]:
    several: list[Pixels] | None = None
    squares, size = torch.empty(0, dtype=torch.uint8), 0
    for indices in batches(num_images, 1024):
        decoded = decode(indices)
        size += sum(image.nbytes for image in decoded)
        # Refused as soon as the limit is passed; the message extrapolates to the whole split.
        if size > limit_gib * GIB:
            raise _too_large(size / (int(indices[-1]) + 1) * num_images, limit_gib, split)
        if several is None:
            height, width, _ = decoded[0].shape
            if not len(squares) and height == width:
                squares = torch.empty((num_images, 3, height, width), dtype=torch.uint8)
            if len(squares) and all(i.shape[:2] == squares.shape[2:] for i in decoded):
                stacked = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
                squares[int(indices[0]) : int(indices[-1]) + 1] = stacked
                continue
            # The first image of another size: from here on the images lie in a list.
            earlier = squares[: int(indices[0])].permute(0, 2, 3, 1) if len(squares) else ()
            several = [image.numpy().copy() for image in earlier]
            squares = torch.empty(0, dtype=torch.uint8)
        several.extend(decoded)
    return squares if several is None else several


def _too_large(num_bytes: float, limit_gib: float, split: str) -> ValueError:
    return ValueError(
        f"the pixels of the {split} split must fit into `memory_limit_gib`, {limit_gib:g} GiB, "
        f"under `keep: memory` or `device`, but take about {num_bytes / GIB:.3g} GiB; raise it or "
        "use `keep: files`"
    )
