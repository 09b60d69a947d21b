"""The embedded data set: scikit-learn's 1797 handwritten digits, 8x8 grey levels 0..16.

The images are enlarged by bilinear interpolation in integer arithmetic, so that their bytes are
the same on every machine, and repeated over three channels. The split is fixed for good: 360
evaluation images in the class proportions of the whole, whatever a trial's seed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.data.dataset import WHOLE, ImageDataset, Split, check_indices
from harness.data.missing import MissingItem
from harness.data.pipelines import Pipeline

_SIDE = 8
_LEVELS = 16
_SPLIT_SEED = 2501_01423  # VA-VAE's arXiv number. The split must never change.


@final
@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """scikit-learn's handwritten digits, enlarged; they need neither network nor files."""

    kind: Literal["digits"] = "digits"
    resolution: int = 16
    """Side of the images in pixels, a multiple of 8."""
    max_shift: int = 1
    """Training images are moved by up to this many pixels each way, zeros moving in."""

    def __post_init__(self) -> None:
        if self.resolution <= 0 or self.resolution % _SIDE:
            raise ValueError(
                f"`resolution` of digits must be a positive multiple of {_SIDE}, but got "
                f"{self.resolution}; use 16 or 32"
            )
        if not 0 <= self.max_shift < self.resolution // 2:
            raise ValueError(
                f"`max_shift` must lie in 0..{self.resolution // 2 - 1} (below half of "
                f"`resolution`), but got {self.max_shift}; use {self.resolution // 16}"
            )

    # What other data sets declare is fixed here, and so is no field.
    @property
    def name(self) -> str:
        """Name of the data set."""
        return "digits"

    @property
    def num_classes(self) -> int:
        """Ten digits."""
        return 10

    @property
    def num_train_images(self) -> int:
        """All but the evaluation images."""
        return 1437

    @property
    def num_eval_images(self) -> int:
        """A fifth, in the class proportions of the whole."""
        return 360

    @property
    def eval_split(self) -> str:
        """What the evaluation images are."""
        return "test"

    def missing(self) -> list[MissingItem]:
        """Nothing: the images come with scikit-learn."""
        return []


@final
class DigitsDataset(ImageDataset):
    """Handwritten digits, whole in memory."""

    def __init__(self, config: DigitsConfig) -> None:
        # Here, because importing scikit-learn takes longer than planning a sweep.
        from sklearn.datasets import load_digits

        features, targets = (np.asarray(part) for part in load_digits(return_X_y=True))
        labels = targets.astype(np.int64)
        levels = features.astype(np.int64).reshape(-1, _SIDE, _SIDE)
        pixels = enlarge_grey_levels(levels, config.resolution)
        # Padded once: a shift is then a crop.
        around = (config.max_shift, config.max_shift)
        padded = np.pad(pixels, ((0, 0), around, around))
        self.resolution, self._max_shift = config.resolution, config.max_shift
        self.class_names = tuple(str(digit) for digit in range(config.num_classes))
        self._padded: dict[Split, UInt8[np.ndarray, "n p p"]] = {}
        self._labels: dict[Split, Int64[np.ndarray, " n"]] = {}
        for split, chosen in stratified_split(labels, config.num_eval_images).items():
            self._padded[split], self._labels[split] = padded[chosen], labels[chosen]
            self._labels[split].setflags(write=False)

    def num_images(self, split: Split) -> int:
        """Number of images in a split."""
        return len(self._labels[split])

    def labels(self, split: Split) -> Int64[np.ndarray, " n"]:
        """Class of every image of a split."""
        return self._labels[split]

    def images(
        self, split: Split, indices: Int64[np.ndarray, " b"], pipeline: Pipeline | None = None
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Read images in their original position; `pipeline` changes nothing, they are square."""
        center = np.full((len(indices), 2), self._max_shift, dtype=np.int64)
        return self._crop(split, indices, center)

    def augmented(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        generator: np.random.Generator,
        part: slice = WHOLE,
    ) -> UInt8[Tensor, "m 3 h w"]:
        """Read images, each moved by -`max_shift`..`max_shift` pixels down and right."""
        offsets = generator.integers(0, 2 * self._max_shift + 1, size=(len(indices), 2))
        return self._crop(split, indices[part], offsets[part])

    def fingerprint(self) -> str:
        """sha256 of pixels and labels of both splits."""
        digest = hashlib.sha256()
        inside = slice(self._max_shift, self._max_shift + self.resolution)
        for split, padded in self._padded.items():
            digest.update(padded[:, inside, inside].tobytes())
            digest.update(self._labels[split].astype("<i8").tobytes())
        return digest.hexdigest()

    def content_fingerprint(self) -> str:
        """The fingerprint, which is of the content already."""
        return self.fingerprint()

    def _crop(
        self, split: Split, indices: Int64[np.ndarray, " b"], offsets: Int64[np.ndarray, "b 2"]
    ) -> UInt8[Tensor, "b 3 h w"]:
        padded = self._padded[split]
        check_indices(indices, len(padded))
        rows, columns = (offsets[:, axis, None] + np.arange(self.resolution) for axis in (0, 1))
        grey = padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).contiguous()


def enlarge_grey_levels(
    levels: Int64[np.ndarray, "n 8 8"], resolution: int
) -> UInt8[np.ndarray, "n h w"]:
    """Enlarge grey levels 0..16 to pixels 0..255 by bilinear interpolation, pixel centres aligned.

    All arithmetic is in integers, halves are rounded upwards.

    Args:
        resolution: Side of the result in pixels, a multiple of 8.
    """
    # Floating-point sums may round differently from one machine to the next; integers cannot.
    weights = _bilinear_weights(resolution // _SIDE)
    total = 255 * np.einsum("ai,nij,bj->nab", weights, levels, weights)
    full = _LEVELS * int(weights[0].sum()) ** 2
    return ((2 * total + full) // (2 * full)).astype(np.uint8)


def _bilinear_weights(factor: int) -> Int64[np.ndarray, "m 8"]:
    """Interpolation weights times 2 `factor`; each row sums to 2 `factor`."""
    weights = np.zeros((_SIDE * factor, _SIDE), dtype=np.int64)
    for target in range(_SIDE * factor):
        # Position of the target's centre from the first source's centre, in units of 1/(2 factor).
        whole, part = divmod(2 * target + 1 - factor, 2 * factor)
        for source, weight in ((whole, 2 * factor - part), (whole + 1, part)):
            weights[target, min(max(source, 0), _SIDE - 1)] += weight
    return weights


def stratified_split(
    labels: Int64[np.ndarray, " n"], num_eval: int
) -> Mapping[Split, Int64[np.ndarray, " m"]]:
    """Divide positions into the two splits in the class proportions of the whole.

    Classes get the whole part of their share of `num_eval`, the rest goes to the largest
    remainders. Which images of a class are chosen comes from a fixed seed of NumPy's legacy
    generator, whose stream is frozen across versions.
    """
    # Largest remainders, so that the quotas add up to exactly `num_eval`.
    share = np.bincount(labels) * num_eval / len(labels)
    quota = np.floor(share).astype(np.int64)
    order = np.argsort(quota - share, kind="stable")
    quota[order[: num_eval - quota.sum()]] += 1
    random = np.random.RandomState(_SPLIT_SEED)
    chosen = np.concatenate(
        [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(quota)]
    )
    is_eval = np.isin(np.arange(len(labels)), chosen)
    return {"train": np.flatnonzero(~is_eval), "eval": np.flatnonzero(is_eval)}
