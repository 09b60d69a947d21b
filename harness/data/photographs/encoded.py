"""A split of encoded images in a fixed order: the interface of every kind of files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64
from PIL import Image

from harness.data.pipelines import UnreadableImage, read_rgb


@final
@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """One image as its file holds it."""

    name: str
    """Name of the image in errors and reports: its file, and its place there."""
    source: bytes | Path | None
    """Its bytes, or the file that is only them; None where they are missing."""

    def content(self) -> bytes:
        """Its bytes; empty where they are missing."""
        return self.source.read_bytes() if isinstance(self.source, Path) else self.source or b""

    def decode(self, least_side: int = 0, *, upright: bool = False) -> Image.Image:
        """Its pixels as RGB.

        Args:
            least_side: Images with a shorter side, in pixels, are refused.
            upright: Turn it as its EXIF asks.
        """
        if self.source is None:
            raise UnreadableImage(
                self.name, "it has none", "write the images into the file, not their paths"
            )
        image = read_rgb(self.source, self.name, upright=upright)
        if min(image.size) < least_side:
            raise UnreadableImage(
                self.name,
                f"its shortest side has {min(image.size)} pixels, below `resolution` {least_side}",
                "remove it, or set `small_images: enlarge`",
            )
        return image


class EncodedSplit(ABC):
    """Encoded images of one split with their labels; reading is safe from several threads.

    Args:
        class_names: Names of the classes; a label is a position in this tuple.
        labels: Class of every image, 0..number of classes - 1; no longer writable.
    """

    def __init__(self, class_names: tuple[str, ...], labels: Int64[np.ndarray, " n"]) -> None:
        labels.setflags(write=False)
        self.class_names, self.labels = class_names, labels

    @property
    def names(self) -> Sequence[str] | None:
        """Paths of the images below the split's folder, where each has one."""
        return None

    def empty_images(self) -> list[str]:
        """Images without bytes, where that is known before they are read."""
        return []

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files that hold the images: while none changes, neither do the images."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Refuse files that are no longer those of which places and labels are known."""

    @abstractmethod
    def read(self, positions: Int64[np.ndarray, " b"]) -> list[EncodedImage]:
        """Images at positions 0..n - 1, in the order asked for."""

    @abstractmethod
    def outline(self) -> Iterator[str]:
        """One text for each file, which together tell this split from another; reads no images."""


def check_labels(
    labels: Int64[np.ndarray, " n"], num_classes: int, place: str, noun: str = "row"
) -> None:
    """Refuse labels that name no class."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, but {wrong.size:,} of {place} do not, the "
            f"first in {noun} {wrong[0]} ({labels[wrong[0]]}); correct them, declare "
            "`num_classes`, or name the split that has labels"
        )


def shorten(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are."""
    listed = ", ".join(names[:5])
    return f"[{listed}, ... ({len(names)})]" if len(names) > 5 else f"[{listed}]"


def check_classes(train: Sequence[str], evaluation: Sequence[str]) -> None:
    """Refuse splits whose classes differ, or stand in another order."""
    # A label is a position in this list: another order would silently swap classes.
    if train != evaluation:
        differing = sorted(set(train) ^ set(evaluation))
        found = f"only one has {', '.join(differing[:5])}" if differing else ""
        raise ValueError(
            "both splits must have the same classes in the same order, but "
            f"{found or f'got {shorten(train)} and {shorten(evaluation)}'}; give files of one data "
            "set"
        )
