"""The interface of every image data set, and checks that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.data.missing import MissingItem
from harness.data.pipelines import Pipeline, draw_augmentation, mirror
from harness.data.shuffle import FULL, Shuffle

Split = Literal["train", "eval"]
"""`train` is for fitting and generation references, `eval` for reconstruction metrics."""
SPLITS: tuple[Split, Split] = ("train", "eval")


CONTENT = ("data_fingerprint", "data_content")
"""Fields of a stage's result that tell data sets apart: by names and sizes, and by every byte."""
WHOLE = slice(None)
"""All images of a batch."""


@runtime_checkable
class DatasetConfig(Protocol):
    """What every kind of data set declares of itself, before anything is opened."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def kind(self) -> str:
        """Name of the kind."""
        ...

    @property
    def name(self) -> str:
        """Name of the data set, as tables show it."""
        ...

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def num_train_images(self) -> int:
        """Images that are trained on."""
        ...

    @property
    def num_eval_images(self) -> int:
        """Images that reconstructions are measured on."""
        ...

    @property
    def eval_split(self) -> str:
        """What the evaluation images are, in words."""
        ...

    def missing(self) -> list[MissingItem]:
        """What it reads and this machine lacks."""
        ...


class ImageDataset(ABC):
    """Labelled square images, addressed by split and index; the order within a split is fixed."""

    resolution: int
    """Side of every image in pixels."""
    class_names: tuple[str, ...]
    """Names of the classes; a label is a position in this tuple."""
    shuffle: Shuffle = FULL
    """How an epoch's order is drawn."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @abstractmethod
    def num_images(self, split: Split) -> int:
        """Number of images in a split."""

    @abstractmethod
    def labels(self, split: Split) -> Int64[np.ndarray, " n"]:
        """Class of every image of a split, 0..`num_classes` - 1, not writable."""

    @abstractmethod
    def images(
        self, split: Split, indices: Int64[np.ndarray, " b"], pipeline: Pipeline | None = None
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Read images without any randomness.

        Args:
            indices: Positions in the split, 0..`num_images(split)` - 1, in any order.
            pipeline: Published crop and resize; absent: the one that training uses, its random
                crops replaced by centre crops. Without effect on data that is square already.
        """

    @abstractmethod
    def augmented(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        generator: np.random.Generator,
        part: slice = WHOLE,
    ) -> UInt8[Tensor, "m 3 h w"]:
        """Read images as training sees them, all randomness drawn from `generator`.

        Args:
            indices: Positions in the split of a whole batch; what is drawn is drawn for all.
            part: Which of them are read; each comes out as in the whole batch.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 that tells this data set from others without reading images, 64 digits."""

    @abstractmethod
    def content_fingerprint(self) -> str:
        """sha256 over every image and label, 64 hexadecimal digits; it may read all files once."""

    def names(self, split: Split) -> tuple[str, ...] | None:
        """Names of a split's images in their order; None where only positions tell them apart."""
        return None

    def left_out(self, split: Split) -> tuple[str, ...]:
        """Bad images that are left out of a split, each with the reason."""
        return ()


class CroppedDataset(ImageDataset):
    """Images of any size, each read anew, cropped to squares and mirrored; a kind gives `_labels`,
    `_config` (with `crop` and `flip`) and `_read`."""

    _labels: dict[Split, Int64[np.ndarray, " n"]]
    _config: Any

    def num_images(self, split: Split) -> int:
        """Number of images in a split, those that are left out not counted."""
        return len(self._labels[split])

    def labels(self, split: Split) -> Int64[np.ndarray, " n"]:
        """Class of every image of a split."""
        return self._labels[split]

    def images(
        self, split: Split, indices: Int64[np.ndarray, " b"], pipeline: Pipeline | None = None
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Read images, cropped at the centre; `pipeline` defaults to the configured crop."""
        return self._read(split, indices, pipeline or self._config.crop, None)

    def augmented(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        generator: np.random.Generator,
        part: slice = WHOLE,
    ) -> UInt8[Tensor, "m 3 h w"]:
        """Read images at random crop positions, mirrored at random if so configured."""
        positions, mirrored = draw_augmentation(len(indices), generator, flip=self._config.flip)
        images = self._read(split, indices[part], self._config.crop, positions[part])
        return mirror(images, mirrored[part])

    @abstractmethod
    def _read(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        pipeline: Pipeline,
        positions: Sequence[tuple[float, float]] | None,
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Read images and crop them at `positions`, or at the centre."""


def check_declaration(config: object, counts: Sequence[str], names: Sequence[str]) -> None:
    """Refuse declared counts that are not positive and names that are empty."""
    for name in counts:
        if getattr(config, name) <= 0:
            raise ValueError(
                f"`{name}` must be positive, but got {getattr(config, name)}; raise it"
            )
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"`{name}` must not be empty, but got ''; name it")


def check_count(place: str, declared: str, noun: str, expected: int, found: int) -> None:
    """Refuse data whose number is not the declared one."""
    if found != expected:
        # The remedy for too few is never to declare fewer: shards may just be missing.
        remedy = f"remove what does not belong there, or declare {found}"
        if found < expected:
            remedy = "put back what is missing; only where nothing is, correct what is declared"
        if not found:
            remedy = "fill it, or name another place"
        raise ValueError(
            f"{place} must hold {expected:,} {noun} ({declared}), but {found:,} were found; "
            f"{remedy}"
        )


def check_indices(indices: Int64[np.ndarray, " b"], num_images: int) -> None:
    """Refuse positions outside a split; negative ones would silently wrap around."""
    if indices.size and (indices.min() < 0 or indices.max() >= num_images):
        raise ValueError(
            f"indices must lie in 0..{num_images - 1}, but got {indices.min()}..{indices.max()}; "
            "use positions within the split"
        )


def spread(count: int, num_images: int) -> Int64[np.ndarray, " m"]:
    """`count` positions spread evenly over 0..`num_images` - 1, so over the classes of a folder."""
    if count > num_images:
        raise ValueError(
            f"at most {num_images:,} images can be taken of the split, but {count:,} are asked "
            "for; lower num_reconstructions or num_reference, or leave it out"
        )
    # Evenly and not the first ones: files of folders are sorted by class.
    return np.arange(count, dtype=np.int64) * num_images // count


def take(dataset: ImageDataset, split: Split, count: int) -> Int64[np.ndarray, " m"]:
    """`count` positions of a split, spread evenly; all of them where fewer remain because bad
    images were left out."""
    available = dataset.num_images(split)
    return spread(min(count, available) if dataset.left_out(split) else count, available)


def left_out(dataset: ImageDataset, *splits: Split) -> dict[str, list[str]]:
    """The part of a stage's result that names bad images; empty where there are none."""
    bad = [image for split in splits for image in dataset.left_out(split)]
    return {"bad_images": bad} if bad else {}


def describe_content(dataset: ImageDataset, *splits: Split) -> dict[str, Any]:
    """The part of a stage's result that describes its images: fingerprints and bad images."""
    fingerprints = dataset.fingerprint(), dataset.content_fingerprint()
    return {**dict(zip(CONTENT, fingerprints, strict=True)), **left_out(dataset, *splits)}


def batches(num_images: int, batch_size: int) -> Iterator[Int64[np.ndarray, " b"]]:
    """Positions 0..`num_images` - 1 in order, `batch_size` at a time; the last may be shorter."""
    for start in range(0, num_images, batch_size):
        yield np.arange(start, min(start + batch_size, num_images), dtype=np.int64)
