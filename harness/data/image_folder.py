"""Photographs in class folders, `<root>/<split>/<class>/<image>`, decoded when asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.data.dataset import (
    WHOLE,
    ImageDataset,
    Split,
    check_count,
    check_declaration,
    check_indices,
)
from harness.data.missing import MissingItem
from harness.data.pipelines import Pipeline, draw_augmentation, mirror, read_rgb, read_squares

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File names that count as images; case does not matter."""


@final
@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig:
    """Images in class folders. Counts are declared, so that a plan needs no data at hand."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["image_folder"] = "image_folder"
    name: str
    """Name of the data set in tables and, in place of `root`, in keys: one content, one name."""
    root: str = field(metadata={"key": False})
    """Folder that holds the split folders; `~` is the home folder."""
    train_split: str = "train"
    """Folder of the training split, below `root`."""
    eval_split: str = field(default="val", metadata={"key": False})
    """Folder of the evaluation split, below `root`; what reads it has it in its key."""
    resolution: int = 256
    """Side of the images in pixels after resize and crop."""
    crop: Pipeline = "opencv_crop"
    """Resize and crop in training; `opencv_crop` is the published tokenizer's, at random places."""
    flip: bool = False
    """Half of the training images are mirrored left to right; the published tokenizer: none."""
    num_classes: int
    """Number of class folders in each split."""
    num_train_images: int
    """Images of the training split."""
    num_eval_images: int = field(metadata={"key": False})
    """Images of the evaluation split; what reads them has their number in its key."""

    def __post_init__(self) -> None:
        check_declaration(
            self,
            counts=("resolution", "num_classes", "num_train_images", "num_eval_images"),
            names=("name", "root", "train_split", "eval_split"),
        )
        if self.train_split == self.eval_split:
            raise ValueError(
                f"`eval_split` must differ from `train_split`, but both are {self.eval_split!r}; "
                "name two folders"
            )

    def missing(self) -> list[MissingItem]:
        """Split folders that are absent; nothing is opened."""
        return [
            MissingItem(
                what=f"the {split} images of {self.name!r} ({count:,} in {self.num_classes} "
                "class folders)",
                location=str(self.split_folder(split)),
                remedy="put or link the class folders there, or set `data.root` to the folder "
                f"that holds {self.train_split!r} and {self.eval_split!r}",
            )
            for split, count in _declared_counts(self)
            if not self.split_folder(split).is_dir()
        ]

    def split_folder(self, split: Split) -> Path:
        """Folder of a split's class folders."""
        folder = self.train_split if split == "train" else self.eval_split
        return Path(self.root).expanduser() / folder


@final
class ImageFolderDataset(ImageDataset):
    """Class folders on a file system; only the list of files is held in memory.

    Classes are the sorted folder names and images the sorted file names within, so that labels and
    order are those of the published ImageNet runs.
    """

    def __init__(self, config: ImageFolderConfig) -> None:
        if absent := config.missing():
            raise ValueError("; ".join(str(item) for item in absent))
        self._config = config
        self._splits = {
            split: _FolderSplit.scan(config.split_folder(split), count, config.num_classes)
            for split, count in _declared_counts(config)
        }
        train, evaluation = self._splits["train"], self._splits["eval"]
        if train.class_names != evaluation.class_names:
            differing = sorted(set(train.class_names) ^ set(evaluation.class_names))
            raise ValueError(
                "both splits must have the same class folders, but only one has "
                f"{', '.join(differing[:5])}; add or remove them"
            )

    @property
    def resolution(self) -> int:
        """Side of every image in pixels."""
        return self._config.resolution

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted names of the class folders."""
        return self._splits["train"].class_names

    def num_images(self, split: Split) -> int:
        """Number of images in a split."""
        return len(self._splits[split].paths)

    def labels(self, split: Split) -> Int64[np.ndarray, " n"]:
        """Class of every image of a split."""
        return self._splits[split].labels

    def images(
        self, split: Split, indices: Int64[np.ndarray, " b"], pipeline: Pipeline | None = None
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Decode images, cropped at the centre; `pipeline` defaults to the configured crop."""
        return self._decode(split, indices, pipeline or self._config.crop, None)

    def augmented(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        generator: np.random.Generator,
        part: slice = WHOLE,
    ) -> UInt8[Tensor, "m 3 h w"]:
        """Decode images at random crop positions, mirrored at random if so configured."""
        positions, mirrored = draw_augmentation(len(indices), generator, flip=self._config.flip)
        images = self._decode(split, indices[part], self._config.crop, positions[part])
        return mirror(images, mirrored[part])

    def fingerprint(self) -> str:
        """sha256 of names and sizes of all files; contents are not read.

        Millions of photographs are told apart by `name`: one that is overwritten with another of
        the same size goes unnoticed, and needs another `name`.
        """
        digest = hashlib.sha256()
        for split, files in self._splits.items():
            for path in files.paths:
                name = path.relative_to(files.folder).as_posix()
                digest.update(f"{split}/{name}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def _decode(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        pipeline: Pipeline,
        positions: Sequence[tuple[float, float]] | None,
    ) -> UInt8[Tensor, "b 3 h w"]:
        check_indices(indices, self.num_images(split))
        paths = [self._splits[split].paths[index] for index in indices]
        return read_squares(paths, read_rgb, self.resolution, pipeline, positions)


@dataclass(frozen=True, kw_only=True)
class _FolderSplit:
    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Int64[np.ndarray, " n"]

    @classmethod
    def scan(cls, folder: Path, num_images: int, num_classes: int) -> "_FolderSplit":
        class_names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        files = [
            (path, label)
            for label, name in enumerate(class_names)
            for path in sorted_images(folder / name)
        ]
        place = repr(str(folder))
        check_count(place, "num_classes", "class folders", num_classes, len(class_names))
        check_count(place, "the declared number of images", "images", num_images, len(files))
        labels = np.array([label for _, label in files], dtype=np.int64)
        labels.setflags(write=False)
        paths = tuple(path for path, _ in files)
        return cls(folder=folder, class_names=class_names, paths=paths, labels=labels)


def sorted_images(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _declared_counts(config: ImageFolderConfig) -> tuple[tuple[Split, int], tuple[Split, int]]:
    return ("train", config.num_train_images), ("eval", config.num_eval_images)
