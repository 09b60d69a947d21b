"""Sets of images to be scored, wherever they come from: folders, sample archives, data sets."""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import ClassVar, Literal, final

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from harness.data import DataConfig, open_dataset
from harness.data.dataset import Split, check_indices
from harness.data.missing import MissingItem
from harness.data.photographs.image_folder import IMAGE_SUFFIXES, image_files, named, natural
from harness.data.pipelines import (
    Pipeline,
    T,
    UnreadableImage,
    decodable,
    in_threads,
    read_rgb,
    read_squares,
    stacked,
)
from harness.data.sample_archive import SampleArchive
from harness.schema.keys import NO_KEY, content_hash
from harness.storage.durable import known_sha256


@dataclass(frozen=True, kw_only=True)
class _ImagesAt:
    """Images at a path, cropped and resized or left as they are."""

    what: ClassVar[str]
    """What lies at the path."""
    path: str = field(metadata=NO_KEY)
    """The folder or file; `~` is the home folder."""
    resolution: int | None = None
    """Side in pixels that `pipeline` brings the images to; absent: they stay as they are."""
    pipeline: Pipeline | None = None
    """Published crop and resize; absent: none, and all images must have one size."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("`path` must not be empty, but got ''; name the images")
        if (self.resolution is None) != (self.pipeline is None):
            raise ValueError(
                "`resolution` and `pipeline` must be given together, but got "
                f"{self.resolution} and {self.pipeline}; add the other or leave both out"
            )
        if self.resolution is not None and self.resolution <= 0:
            raise ValueError(f"`resolution` must be positive, but got {self.resolution}; raise it")

    @property
    def location(self) -> Path:
        """The folder or file, `~` expanded."""
        return Path(self.path).expanduser()

    def missing(self) -> list[MissingItem]:
        """The folder or file if it is absent; nothing is opened."""
        there, place = self.location, "evaluation.reference.images.path"
        item = MissingItem(what=self.what, location=str(there), remedy=f"set `{place}` to a copy")
        return [] if there.exists() else [item]

    def squares(
        self, items: Sequence[T], read: Callable[[T], Image.Image], size: tuple[int, int]
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Images as asked for, or as they are, all of one `size` (height, width) then; `read` gives
        the RGB image of an item."""
        if self.pipeline is not None and self.resolution is not None:
            return read_squares(items, read, self.resolution, self.pipeline)
        return stacked(in_threads(lambda item: np.asarray(read(item)), items), size)

    @property
    def conversion(self) -> str:
        """Crop and resize as a text for fingerprints."""
        return f"{self.pipeline} {self.resolution}\n"


@final
@dataclass(frozen=True, kw_only=True)
class FolderImages(_ImagesAt):
    """All image files below a folder, in the order of their paths, numbers in them as numbers.

    `img_2.png` comes before `img_10.png`, which is the order that they were written in.
    """

    kind: Literal["folder"] = "folder"
    what = "a folder of images"
    on_unreadable: Literal["stop", "skip"] = field(default="stop", metadata=NO_KEY)
    """Effect of an unreadable file. `skip` reads every file once at opening, counts and lists."""
    others: Literal["stop", "skip"] = field(default="stop", metadata=NO_KEY)
    """Effect of files that are neither images nor documents, which would not count."""
    max_unreadable: float = field(default=0.01, metadata=NO_KEY)
    """Share of the files, 0..1, that may be skipped; one file always may."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.max_unreadable <= 1.0:
            raise ValueError(
                f"`max_unreadable` must be a share in 0..1, but got {self.max_unreadable}; use 0.01"
            )


@final
@dataclass(frozen=True, kw_only=True)
class NpzImages(_ImagesAt):
    """The samples of an `.npz` in ADM's format: `arr_0` uint8 NHWC, labels in `arr_1` if any."""

    kind: Literal["npz"] = "npz"
    what = "an .npz of samples"


@final
@dataclass(frozen=True, kw_only=True)
class DatasetImages:
    """A split of a data set, without augmentation."""

    kind: Literal["dataset"] = "dataset"
    data: DataConfig
    split: Split
    pipeline: Pipeline | None = None
    """Published crop and resize; absent: the one that training uses, centred."""

    def missing(self) -> list[MissingItem]:
        """Files of the data set that are absent."""
        return self.data.missing()


ImageSetConfig = FolderImages | NpzImages | DatasetImages


class ImageSet(ABC):
    """Images of one size, addressed by index."""

    name: str
    """Name for tables: of the folder, the file, or the data set and its split."""
    num_images: int
    """Number of images, those that are skipped left out."""
    names: tuple[str, ...] | None = None
    """Names of the images in their order; None where only positions tell them apart."""
    is_split: bool = False
    """Whether it is a split of a data set, whose names others may have replaced by numbers."""
    skipped: tuple[str, ...] = ()
    """Files that were left out, with the reasons."""

    @abstractmethod
    def images(self, indices: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Read images."""

    @abstractmethod
    def labels(self) -> Int64[np.ndarray, " n"] | None:
        """Classes of the images, where the source names them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 that changes when the images change, 64 hexadecimal digits.

        Folders are read byte by byte, once a process for each file that stays as it is; archives
        have checksums. Data sets are identified as their own `fingerprint` says.
        """


def open_image_set(config: ImageSetConfig) -> ImageSet:
    """Open a set of images."""
    if absent := config.missing():
        raise ValueError("; ".join(str(item) for item in absent))
    if isinstance(config, FolderImages):
        return _FolderSet(config)
    return _NpzSet(config) if isinstance(config, NpzImages) else _DatasetSet(config)


@final
class _FolderSet(ImageSet):
    def __init__(self, config: FolderImages) -> None:
        self._config, self.name = config, config.location.resolve().name
        paths, others = image_files(config.location)
        paths = sorted(paths, key=_with_numbers)
        if others and config.others == "stop":
            raise ValueError(
                f"all files below {str(config.location)!r} must be images ("
                f"{', '.join(sorted(IMAGE_SUFFIXES))}) or documents, but {len(others):,} are not "
                f"and would not count: {named(others)}; convert or remove them, or leave them out "
                "by --on-unreadable skip"
            )
        if not paths:
            raise ValueError(
                f"{str(config.location)!r} must hold images, but no file below it ends in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}; give another folder"
            )
        if config.on_unreadable == "skip":
            paths, self.skipped = _leave_out_unreadable(paths, config.max_unreadable)
        self.skipped += tuple(f"{str(path)!r} is no image by its name" for path in others)
        self._paths, self.num_images = paths, len(paths)
        self._size = _one_size(paths) if config.pipeline is None else (0, 0)
        folder = config.location
        # Paths below the folder, without suffix.
        self.names = tuple(p.relative_to(folder).with_suffix("").as_posix() for p in paths)

    def images(self, indices: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        check_indices(indices, self.num_images)
        paths = [self._paths[index] for index in indices]
        return self._config.squares(paths, read_rgb, self._size)

    def labels(self) -> None:
        return None

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._config.conversion.encode())
        contents = in_threads(known_sha256, self._paths)
        for path, content in zip(self._paths, contents, strict=True):
            name = path.relative_to(self._config.location).as_posix()
            digest.update(os.fsencode(f"{name}\0{content}\n"))
        return digest.hexdigest()


def _with_numbers(path: Path) -> list[tuple[list[str | int], str]]:
    """A path's parts, to sort by; in the order of texts pairs of images would be mismatched."""
    return [(natural(part), part) for part in path.parts]


def _leave_out_unreadable(
    paths: Sequence[Path], max_share: float
) -> tuple[list[Path], tuple[str, ...]]:
    reasons = in_threads(_reason_not_to_read, paths)
    # Read before the first is used, so that every position means the same image in every run.
    skipped = tuple(reason for reason in reasons if reason is not None)
    allowed = max(1, math.floor(max_share * len(paths)))
    if len(skipped) > allowed or len(skipped) == len(paths):
        raise ValueError(
            f"at most {allowed} of {len(paths):,} files may be unreadable (`max_unreadable` "
            f"{max_share:g}), but {len(skipped):,} are: {'; '.join(skipped[:3])}; replace them, or "
            "raise the limit"
        )
    return [p for p, r in zip(paths, reasons, strict=True) if r is None], skipped


def _reason_not_to_read(path: Path) -> str | None:
    try:
        read_rgb(path)
    except UnreadableImage as error:
        return str(error)
    return None


def needs_crop(config: FolderImages, resolution: int) -> bool:
    """Whether an image of a folder has another size than squares of `resolution`."""
    paths, _ = image_files(config.location)
    return any(size != (resolution, resolution) for size in in_threads(_stored_size, paths))


def _stored_size(path: Path) -> tuple[int, int]:
    """Width and height as the header says; ValueError for a file of several images, of which only
    the first would count."""
    try:
        with Image.open(path, formats=decodable()) as image:
            # A second image of an MPO is a preview of the first.
            size, count = image.size, image.format != "MPO" and getattr(image, "n_frames", 1)
    except MemoryError:
        raise
    # Each format's library raises errors of its own; decoding then words what is wrong.
    except Exception:
        return read_rgb(path).size
    if count > 1:
        raise ValueError(
            f"a file must hold one image, but {str(path)!r} holds {count}; write each to a file of "
            "its own"
        )
    return size


def _one_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Height and width of all images."""
    sizes = in_threads(_stored_size, paths)
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"all images must have one size, but {str(paths[0])!r} has "
                f"{sizes[0][0]}x{sizes[0][1]} pixels and {str(path)!r} has {size[0]}x{size[1]}; "
                "crop and resize them: --crop of evaluate, or `pipeline` and `resolution` beside "
                "`path` in a sweep file"
            )
    return sizes[0][1], sizes[0][0]


@final
class _NpzSet(ImageSet):
    def __init__(self, config: NpzImages) -> None:
        path = config.location
        self._config, self.name = config, path.stem
        archive = SampleArchive(path)
        self._pixels, self._crc = archive.array("arr_0"), archive.checksum("arr_0")
        self._labels = archive.array("arr_1") if "arr_1" in archive.names else None
        shape, dtype = self._pixels.shape, self._pixels.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape):
            raise ValueError(
                f"`arr_0` of {str(path)!r} must be uint8 images of shape (number, height, width, "
                f"3), but is {dtype} of shape {shape}; round to 0..255 and put channels last"
            )
        self.num_images = shape[0]
        labels = self._labels
        if labels is not None and (labels.shape != shape[:1] or labels.dtype.kind not in "iu"):
            raise ValueError(
                f"`arr_1` of {str(path)!r} must be one whole number an image ({shape[0]:,}), but "
                f"is {labels.dtype} of shape {labels.shape}; write the labels again or leave them "
                "out"
            )

    def images(self, indices: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        check_indices(indices, self.num_images)
        pixels = list(self._pixels[indices])
        return self._config.squares(pixels, Image.fromarray, self._pixels.shape[1:3])

    def labels(self) -> Int64[np.ndarray, " n"] | None:
        return None if self._labels is None else np.array(self._labels, dtype=np.int64)

    def fingerprint(self) -> str:
        # The archive's own checksum stands for its content; the pixels need not be read.
        text = f"{self._pixels.shape} {self._crc} {self._config.conversion}"
        return hashlib.sha256(text.encode()).hexdigest()


@final
class _DatasetSet(ImageSet):
    is_split = True

    def __init__(self, config: DatasetImages) -> None:
        self._config = config
        # On the host: images are scored once, so keeping them on the device gains nothing.
        data, self._dataset = config.data, open_dataset(config.data)
        self.name = f"{data.name} {data.eval_split if config.split == 'eval' else 'train'}"
        self.num_images = self._dataset.num_images(config.split)
        names = self._dataset.names(config.split)
        self.names = names and tuple(str(PurePath(name).with_suffix("")) for name in names)

    def images(self, indices: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        return self._dataset.images(self._config.split, indices, self._config.pipeline)

    def labels(self) -> Int64[np.ndarray, " n"]:
        return self._dataset.labels(self._config.split)

    def fingerprint(self) -> str:
        text = f"{self._dataset.fingerprint()} {content_hash(self._config)}"
        return hashlib.sha256(text.encode()).hexdigest()
