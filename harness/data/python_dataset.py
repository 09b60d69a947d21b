"""A data set of the user's own: map-style objects of pairs (image, label)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from harness.data.dataset import (
    SPLITS,
    CroppedDataset,
    Split,
    check_count,
    check_declaration,
    check_indices,
)
from harness.data.missing import MissingItem
from harness.data.pipelines import Pipeline, read_squares
from harness.schema.imported import Target, code_of
from harness.schema.reading import ConfigError

LABELS = ("labels", "targets")
"""Attributes that hold all labels, where a data set has one: no image is read for them then."""


@final
@dataclass(frozen=True, kw_only=True)
class PythonDatasetConfig(Target):
    """Map-style data sets that `target(split="train" | "eval", **args)` returns.

    Each has `len` and gives pairs (image, label) for 0, 1, ...: a PIL image, an 8-bit array
    [h, w] or [h, w, 3], or a tensor [3, h, w] or [1, h, w] of 8 bits or of floats in [0, 1]; and an
    integer. An attribute `labels` or `targets` with all labels saves reading every image for them.
    Both splits are opened when a sweep is planned.
    """

    kind: Literal["python"] = "python"
    name: str
    """Name of the data set, as tables show it."""
    resolution: int
    """Side of the images in pixels; others are resized and cropped to it."""
    num_classes: int
    """Number of classes; labels are 0..num_classes - 1."""
    num_train_images: int
    """Images that are trained on."""
    num_eval_images: int
    """Images that reconstructions are measured on."""
    eval_split: str = "eval"
    """What the evaluation images are, in words."""
    crop: Pipeline = "opencv_crop"
    """How images are resized and cropped."""
    flip: bool = True
    """Whether training mirrors images at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("resolution", "num_classes", "num_train_images", "num_eval_images")
        check_declaration(self, counts=counts, names=("name", "eval_split"))

    def missing(self) -> list[MissingItem]:
        """The file of weights, if one is named and absent; the code's own files it must tell."""
        if self.weights is None or Path(self.weights).expanduser().is_file():
            return []
        what, remedy = f"the file of data set {self.name}", "correct data.weights"
        return [MissingItem(what=what, location=self.weights, remedy=remedy)]

    def open_split(self, split: Split) -> Any:
        """Build the data set of a split."""
        found = self.build(split=split)
        for method in ("__len__", "__getitem__"):
            if not hasattr(found, method):
                raise ConfigError(
                    f"{self.target} must return a data set with `len` and `[index]`, but "
                    f"{type(found).__name__} has no {method}; add it",
                    path="target",
                )
        num, declared = (
            (self.num_train_images, "num_train_images")
            if split == "train"
            else (self.num_eval_images, "num_eval_images")
        )
        check_count(f"{self.target} of split {split}", declared, "images", num, len(found))
        return found


@final
class PythonDataset(CroppedDataset):
    """Both splits of a data set of the user's own."""

    def __init__(self, config: PythonDatasetConfig) -> None:
        self.resolution, self._config = config.resolution, config
        self._splits = {split: config.open_split(split) for split in SPLITS}
        names = getattr(self._splits["train"], "classes", None)
        self.class_names = (
            tuple(map(str, names))
            if isinstance(names, list | tuple) and len(names) == config.num_classes
            else tuple(str(number) for number in range(config.num_classes))
        )
        self._labels = {split: self._read_labels(split) for split in SPLITS}

    def fingerprint(self) -> str:
        """sha256 of code, arguments and labels."""
        digest = hashlib.sha256(f"{code_of(self._config)} {self._config.args}".encode())
        for split in SPLITS:
            digest.update(self._labels[split].tobytes())
        return digest.hexdigest()

    def content_fingerprint(self) -> str:
        """sha256 of all pixels and labels; every image is read once in a process."""
        return self._content

    @cached_property
    def _content(self) -> str:
        digest = hashlib.sha256()
        for split in SPLITS:
            for index, label in enumerate(self._labels[split].tolist()):
                image = self._image(split, index)
                digest.update(f"{split} {label} {image.size}".encode() + image.tobytes())
        return digest.hexdigest()

    def _read(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        pipeline: Pipeline,
        positions: Sequence[tuple[float, float]] | None,
    ) -> UInt8[Tensor, "b 3 h w"]:
        check_indices(indices, self.num_images(split))
        # One thread: nothing is known of whether the object may be called by several.
        return read_squares(
            indices.tolist(),
            lambda index: self._image(split, index),
            self.resolution,
            pipeline,
            positions,
            workers=1,
        )

    def _image(self, split: Split, index: int) -> Image.Image:
        return as_rgb(self._item(split, index)[0], f"image {index} of {self._config.target}")

    def _item(self, split: Split, index: int) -> tuple[Any, Any]:
        try:
            image, label = self._splits[split][index]
        except Exception as error:
            # Whatever it is: the code is the user's, and so is the error.
            raise ValueError(
                f"{self._config.target} must give a pair (image, label) for {index} of split "
                f"{split}, but failed: {type(error).__name__}: {error}; correct the data set"
            ) from error
        return image, label

    def _read_labels(self, split: Split) -> Int64[np.ndarray, " n"]:
        source, num_classes = self._splits[split], self._config.num_classes
        listed = next((getattr(source, name) for name in LABELS if hasattr(source, name)), None)
        if listed is None:
            listed = [self._item(split, index)[1] for index in range(len(source))]
        labels = np.asarray(listed)
        fits = labels.shape == (len(source),) and np.issubdtype(labels.dtype, np.integer)
        if not fits or labels.min() < 0 or labels.max() >= num_classes:
            found = f"{labels.dtype} of shape {list(labels.shape)}"
            if fits:
                found = f"{labels.min()}..{labels.max()}"
            raise ValueError(
                f"labels of {self._config.target} (split {split}) must be one integer an image in "
                f"0..{num_classes - 1}, but are {found}; correct data.num_classes or the data set"
            )
        labels = labels.astype(np.int64)
        labels.setflags(write=False)
        return labels


def as_rgb(image: Any, name: str) -> Image.Image:
    """Turn what a data set gives into an 8-bit RGB image."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = image
    if isinstance(image, Tensor):
        if image.ndim == 3 and image.shape[0] in (1, 3):
            image = image.permute(1, 2, 0)
        if image.is_floating_point():
            if not 0.0 <= float(image.min()) <= float(image.max()) <= 1.0:
                raise ValueError(
                    f"{name} must hold floats in [0, 1], but has values in "
                    f"[{float(image.min()):g}, {float(image.max()):g}]; rescale it"
                )
            image = (image * 255.0).round().byte()
        pixels = image.numpy()
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        came = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(
            f"{name} must be a PIL image, an 8-bit array or a tensor, but is {came}; convert it"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(
            f"{name} must have the shape [h, w] or [h, w, 3] (tensors [3, h, w]), but has "
            f"{list(pixels.shape)}; turn its axes"
        )
    return Image.fromarray(pixels).convert("RGB")
