"""The data set of photographs in files of any kind."""

import hashlib
import os
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from harness.data.dataset import SPLITS, CroppedDataset, Split, check_indices
from harness.data.photographs.config import PhotographConfig
from harness.data.photographs.encoded import EncodedImage
from harness.data.photographs.inspection import BadImage, Inspection, check_limit, inspect
from harness.data.photographs.kept_pixels import KeptPixels, Pixels, keep_pixels
from harness.data.pipelines import Pipeline, in_threads, read_squares
from harness.storage.user_cache import describe_files


@final
class PhotographDataset(CroppedDataset):
    """Encoded images of two splits; those that are bad are left out where that is allowed.

    Positions are those of the good images, in the order of the files: which are bad is known before
    the first is read, so that no worker, rank or step sees another data set.

    Args:
        device: Where `keep: device` keeps pixels; absent: in this machine's memory.
    """

    def __init__(self, config: PhotographConfig, device: torch.device | None = None) -> None:
        if absent := config.absent():
            raise ValueError("; ".join(str(item) for item in absent))
        self.resolution, self.shuffle, self._config = config.resolution, config.shuffle, config
        self._device = device if config.keep == "device" else None
        # Both splits, although most stages read one: a wrong evaluation split is then found by the
        # first stage and not after the training.
        self._splits = config.open_splits()
        self.class_names = self._splits["train"].class_names
        self._bad: dict[Split, tuple[BadImage, ...]] = {
            split: self._find_bad(split, config) for split in SPLITS
        }
        # Bad ones are left out by position. Skipping them while reading would let the data set
        # depend on which worker met what first, and a neighbour in their place would count twice.
        self._good: dict[Split, Int64[np.ndarray, " n"]] = {}
        self._labels: dict[Split, Int64[np.ndarray, " n"]] = {}
        for split in SPLITS:
            places = np.arange(len(self._splits[split].labels), dtype=np.int64)
            self._good[split] = np.delete(places, [image.position for image in self._bad[split]])
            self._labels[split] = self._splits[split].labels[self._good[split]]
            self._labels[split].setflags(write=False)
        self._pixels: dict[Split, KeptPixels] = {}

    def names(self, split: Split) -> tuple[str, ...] | None:
        """Paths of a split's images, where its kind of files has one for each."""
        names = self._splits[split].names
        good = self._good[split]
        return None if names is None else tuple(names[int(place)] for place in good)

    def left_out(self, split: Split) -> tuple[str, ...]:
        """Bad images that are left out of a split, each with the reason."""
        return tuple(str(image) for image in self._bad[split])

    def fingerprint(self) -> str:
        """sha256 of what is known of the files without reading images: names, sizes, footers."""
        digest = hashlib.sha256()
        for split, part in self._splits.items():
            part.check_unchanged()
            for text in part.outline():
                digest.update(os.fsencode(f"{split}{text}\n"))
        return digest.hexdigest()

    def content_fingerprint(self) -> str:
        """sha256 of labels and bytes of all images, and of what is left out.

        It is the same whatever kind of file holds them. All files are read once; while none
        changes, the result is remembered.
        """
        digest = hashlib.sha256()
        for split in SPLITS:
            found, bad = self._inspect(split), self._bad[split]
            if found.bad != bad:
                now = "; ".join(map(str, found.bad)) or "none"
                raise ValueError(
                    f"the bad images of the {split} split must stay those that were left out at "
                    f"opening ({len(bad)}), but are now {now}; put the files back and run the "
                    "command again"
                )
            positions = [image.position for image in bad]
            digest.update(f"{split} {found.content} {positions}\n".encode())
        return digest.hexdigest()

    def _inspect(self, split: Split) -> Inspection:
        config = self._config
        return inspect(
            self._splits[split],
            decode=config.bad_images_limit > 0,
            least_side=config.least_side,
            workers=config.decode_workers,
        )

    def _find_bad(self, split: Split, config: PhotographConfig) -> tuple[BadImage, ...]:
        # Decoding every image once is worth it only where bad ones are expected.
        if config.bad_images_limit == 0:
            return ()
        bad = self._inspect(split).bad
        check_limit(bad, config.bad_images_limit, len(self._splits[split].labels), split)
        return bad

    def _encoded(self, split: Split, indices: Int64[np.ndarray, " b"]) -> list[EncodedImage]:
        return self._splits[split].read(self._good[split][indices])

    def _read(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        pipeline: Pipeline,
        positions: Sequence[tuple[float, float]] | None,
    ) -> UInt8[Tensor, "b 3 h w"]:
        check_indices(indices, self.num_images(split))
        side, workers = self.resolution, self._config.decode_workers
        if self._config.keep == "files":
            encoded = self._encoded(split, indices)
            return read_squares(encoded, self._decode, side, pipeline, positions, workers)
        if split not in self._pixels:
            self._pixels[split] = self._keep(split)
        kept = self._pixels[split]
        if self._device is None:
            return kept.squares(indices, side, pipeline, positions, workers)
        return kept.on(self._device, side)[torch.tensor(indices, device=self._device)]

    def _decode(self, image: EncodedImage) -> Image.Image:
        return self._config.decode(image)

    def _keep(self, split: Split) -> KeptPixels:
        config = self._config

        def decode(indices: Int64[np.ndarray, " b"]) -> list[Pixels]:
            encoded = self._encoded(split, indices)
            return in_threads(
                lambda image: np.array(self._decode(image)), encoded, config.decode_workers
            )

        self._splits[split].check_unchanged()
        bad = [image.position for image in self._bad[split]]
        # All that the pixels depend on, so that stages of one process can share them.
        name = f"{split} {describe_files(self._splits[split].files)} {bad} {config.least_side}"
        name += " upright" * config.exif_orientation
        return keep_pixels(name, self.num_images(split), decode, config.memory_limit_gib, split)
