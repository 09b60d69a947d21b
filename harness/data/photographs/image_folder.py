"""Photographs in class folders, `<root>/<split>/<class>/<image>`, decoded when asked for.

Without labels the images lie anywhere below `<root>/<split>`.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
from jaxtyping import Int64

from harness.data.dataset import Split, check_count
from harness.data.missing import MissingItem
from harness.data.photographs.config import PhotographConfig
from harness.data.photographs.encoded import EncodedImage, EncodedSplit, shorten
from harness.schema.keys import NO_KEY

IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""File names that count as images; case does not matter."""
DOCUMENTS = frozenset({
    ".csv", ".db", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".npy", ".npz",
    ".parquet", ".pt", ".py", ".safetensors", ".sh", ".txt", ".xml", ".yaml", ".yml",
})  # fmt: skip
"""File names that are no images to anybody and may lie beside them; without an end, those that are
written in capitals (README, LICENSE)."""


@final
@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(PhotographConfig):
    """Images in class folders below a folder a split."""

    kind: Literal["image_folder"] = "image_folder"
    eval_split: str = field(default="val", metadata=NO_KEY)
    """Folder of the evaluation split, below `root`; what reads it has it in its key."""

    def missing_of(self, split: Split) -> list[MissingItem]:
        """The split's folder, where it is absent."""
        name = self.name_of(split)
        folder = self.folder / name
        if folder.is_dir():
            return []
        what = f"the {split} images of {self.name!r} ({self.declared_images(split):,} in "
        what += f"{self.num_classes} class folders)"
        remedy = "put or link the class folders there, or set `data.root` to the folder that "
        remedy += f"holds {self.train_split!r} and {self.eval_split!r}"
        return [self.missing_item(what, folder, remedy, [f"{name}/*"])]

    def open_split(self, split: Split) -> "FolderSplit":
        """List the files of a split."""
        folder = self.folder / self.name_of(split)
        return FolderSplit(folder, self.declared_images(split), self.num_classes, self.labels)


@final
class FolderSplit(EncodedSplit):
    """Class folders on a file system; only the list of files is held in memory.

    Classes are the sorted folder names and images the sorted file names within, so that labels and
    order are those of the published ImageNet runs.
    """

    def __init__(
        self, folder: Path, num_images: int, num_classes: int, labels_are: Literal["given", "none"]
    ) -> None:
        place, names = repr(str(folder)), (".",)
        if labels_are == "given":
            names = _class_folders(folder)
            if not names and num_images:
                place += " (which holds no folders; images without labels need `labels: none`)"
        found = [image_files(folder / name) for name in names]
        images = [paths for paths, _ in found]
        if labels_are == "given":
            bare = [name for name, paths in zip(names, images, strict=True) if not paths]
            without = f"; without images: {shorten(bare)}" if bare else ""
            listed = f" ({shorten(names)}{without})" if names else ""
            check_count(place + listed, "num_classes", "class folders", num_classes, len(names))
        total = sum(len(paths) for paths in images)
        if others := [path for _, paths in found for path in paths]:
            place += f" (where {named(others)} do not count, since their names end otherwise)"
        check_count(place, "the declared number of images", "images", num_images, total)
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(paths) for paths in images])
        super().__init__(names if labels_are == "given" else ("all",), labels)
        self._folder = folder
        # Texts take a fraction of the memory of paths.
        self._names = [path.relative_to(folder).as_posix() for paths in images for path in paths]

    @property
    def names(self) -> Sequence[str]:
        """Path of every image below the folder."""
        return self._names

    @property
    def files(self) -> Sequence[Path]:
        """Every image is a file."""
        return [self._folder / name for name in self._names]

    def empty_images(self) -> list[str]:
        """Files without bytes."""
        # Paths take three times as long, and a data set may have millions of files.
        sizes = (os.stat(f"{self._folder}/{name}").st_size for name in self._names)  # noqa: PTH116
        return [name for name, size in zip(self._names, sizes, strict=True) if not size]

    def check_unchanged(self) -> None:
        """Does nothing: only names are known of the files, and each is opened when it is read."""

    def read(self, positions: Int64[np.ndarray, " b"]) -> list[EncodedImage]:
        """The files of some images, still closed; whoever decodes them opens them."""
        paths = [self._folder / self._names[position] for position in positions]
        return [EncodedImage(name=repr(str(path)), source=path) for path in paths]

    def outline(self) -> Iterator[str]:
        """Name and size of every file."""
        for name in self._names:
            yield f"/{name}\0{(self._folder / name).stat().st_size}"


def _class_folders(folder: Path) -> tuple[str, ...]:
    # Sorted names give the labels of the published ImageNet runs.
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_shown(path.name))
    if names != sorted(names, key=natural):
        warnings.warn(
            f"the classes of {str(folder)!r} are numbered in the order of their names as text "
            f"({', '.join(names[:4])}, ...); a generator from elsewhere may count 0, 1, 2, ...: "
            "give the folders names of equal length, such as 000, 001, ...",
            stacklevel=2,
        )
    return tuple(names)


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder in the order of their paths; links are followed.

    Hidden files and folders (`.name`, and what notebooks and AppleDouble leave) are left out.

    Returns:
        The images, by the ends of their names, and what is neither an image nor a document.
    """
    images, others, visited = [], [], set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        status = place.stat()
        # A link to a folder above would lead round for ever.
        if (here := (status.st_dev, status.st_ino)) in visited:
            continue
        visited.add(here)
        with os.scandir(place) as entries:
            for entry in entries:
                suffix = Path(entry.name).suffix.lower()
                if not _is_shown(entry.name):
                    continue
                if entry.is_dir():
                    waiting.append(Path(entry.path))
                # A link that leads nowhere is an image that is gone; what exists and is no file (a
                # FIFO) would block whoever opens it.
                elif suffix in IMAGE_SUFFIXES and (
                    entry.is_file() or not Path(entry.path).exists()
                ):
                    images.append(Path(entry.path))
                elif suffix not in DOCUMENTS and (suffix or not entry.name.isupper()):
                    others.append(Path(entry.path))
    return sorted(images), sorted(others)


def named(paths: Sequence[Path]) -> str:
    """The first of some files, and how many there are."""
    shown = ", ".join(repr(str(path)) for path in paths[:3])
    return f"{shown} and {len(paths) - 3:,} further files" if len(paths) > 3 else shown


def natural(text: str) -> list[str | int]:
    """A text cut into texts and numbers in turn, to sort by: as texts, "10" comes before "2"."""
    return [int(t) if n % 2 else t for n, t in enumerate(re.split(r"([0-9]+)", text))]


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
