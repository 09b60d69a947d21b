"""Photographs in class folders, `<root>/<split>/<class>/<image>`, decoded when asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
from jaxtyping import Int64

from harness.data.dataset import Split, check_count
from harness.data.missing import MissingItem
from harness.data.photographs.config import PhotographConfig
from harness.data.photographs.encoded import EncodedImage, EncodedSplit
from harness.schema.keys import NO_KEY

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File names that count as images; case does not matter."""


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
        """List the files of a split.

        Raises:
            ValueError: There are not as many classes or images as declared.
        """
        folder = self.folder / self.name_of(split)
        return FolderSplit(folder, self.declared_images(split), self.num_classes)


@final
class FolderSplit(EncodedSplit):
    """Class folders on a file system; only the list of files is held in memory.

    Classes are the sorted folder names and images the sorted file names within, so that labels and
    order are those of the published ImageNet runs.
    """

    def __init__(self, folder: Path, num_images: int, num_classes: int) -> None:
        # Sorted names give the labels of the published ImageNet runs.
        names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        images = [sorted_images(folder / name) for name in names]
        place = repr(str(folder))
        check_count(place, "num_classes", "class folders", num_classes, len(names))
        total = sum(len(paths) for paths in images)
        check_count(place, "the declared number of images", "images", num_images, total)
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(paths) for paths in images])
        super().__init__(names, labels)
        self._folder = folder
        # Texts take a fraction of the memory of paths.
        self._names = [path.relative_to(folder).as_posix() for paths in images for path in paths]

    @property
    def files(self) -> Sequence[Path]:
        """Every image is a file."""
        return [self._folder / name for name in self._names]

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


def sorted_images(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
