"""Photographs in Parquet files of the Hugging Face image layout.

A row holds an encoded image, `struct{bytes, path}` (or plain bytes), and an integer label; the
class names stand in the schema's metadata under `huggingface`. Rows keep the order of the files.
"""

import hashlib
import io
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from harness.data.dataset import (
    WHOLE,
    ImageDataset,
    Split,
    batches,
    check_count,
    check_declaration,
    check_indices,
)
from harness.data.missing import MissingItem
from harness.data.pipelines import (
    Pipeline,
    draw_augmentation,
    in_threads,
    mirror,
    read_rgb,
    read_squares,
    stack_squares,
)

_GIB = 2**30
_IMAGE_COLUMNS = ("image", "img")


@final
@dataclass(frozen=True, kw_only=True)
class ParquetConfig:
    """Images in Parquet files. Counts are declared, so that a plan needs no data at hand."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["parquet"] = "parquet"
    name: str
    """Name of the data set in tables and, in place of `root`, in keys: one content, one name."""
    root: str = field(metadata={"key": False})
    """Folder that holds the files; `~` is the home folder."""
    train_split: str = "train"
    """Name of the training split."""
    eval_split: str = field(default="test", metadata={"key": False})
    """Name of the evaluation split; what reads it has it in its key."""
    train_files: tuple[str, ...] = field(default=(), metadata={"key": False})
    """Files of the training split below `root`, or patterns such as `data/train-*.parquet`, in
    order; empty: `<train_split>-*.parquet`."""
    eval_files: tuple[str, ...] = field(default=(), metadata={"key": False})
    """Files of the evaluation split, likewise."""
    image_column: str | None = None
    """Column of the images; absent: `image` or `img`, whichever the files have."""
    label_column: str = "label"
    """Column of the labels, 0..`num_classes` - 1."""
    class_names: tuple[str, ...] = field(default=(), metadata={"key": False})
    """Names of the classes for files that name none; empty: the files name them."""
    resolution: int = 256
    """Side of the images in pixels after resize and crop."""
    crop: Pipeline = "opencv_crop"
    """Resize and crop in training; `opencv_crop` is the published tokenizer's, at random places."""
    flip: bool = False
    """Half of the training images are mirrored left to right; the published tokenizer: none."""
    num_classes: int
    """Number of classes."""
    num_train_images: int
    """Images of the training split."""
    num_eval_images: int = field(metadata={"key": False})
    """Images of the evaluation split; what reads them has their number in its key."""
    keep: Literal["files", "memory"] = field(default="files", metadata={"key": False})
    """`files`: images are decoded when asked for; `memory`: a split is decoded when first read,
    and its pixels stay in memory."""
    memory_limit_gib: float = field(default=4.0, metadata={"key": False})
    """Most that the pixels of one split may take under `keep: memory`, in GiB."""
    row_cache_gib: float = field(default=0.5, metadata={"key": False})
    """Most that row groups read last, still encoded, may take for one split, in GiB. Shuffled
    reading of more than that reads a whole row group for almost every image."""

    def __post_init__(self) -> None:
        sizes = ("resolution", "num_classes", "num_train_images", "num_eval_images")
        limits = ("memory_limit_gib", "row_cache_gib")
        names = ("name", "root", "train_split", "eval_split", "label_column")
        check_declaration(self, counts=(*sizes, *limits), names=names)
        both = set(self.patterns("train")) & set(self.patterns("eval"))
        if self.train_split == self.eval_split or both:
            raise ValueError(
                "`eval_split` and its files must differ from those of `train_split`, but got "
                f"{self.eval_split!r} with {list(self.patterns('eval'))} and {self.train_split!r} "
                f"with {list(self.patterns('train'))}; name two splits"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"`class_names` must name all {self.num_classes} classes, but has "
                f"{len(self.class_names)}; complete it, or leave it out where the files name them"
            )

    def patterns(self, split: Split) -> tuple[str, ...]:
        """Files or patterns of a split, below `root`."""
        if split == "train":
            return self.train_files or (f"{self.train_split}-*.parquet",)
        return self.eval_files or (f"{self.eval_split}-*.parquet",)

    def files(self, split: Split) -> list[Path]:
        """Files of a split that are there, those of one pattern sorted by name."""
        root = Path(self.root).expanduser()
        matches = [sorted(root.glob(pattern)) for pattern in self.patterns(split)]
        return list(dict.fromkeys(itertools.chain.from_iterable(matches)))

    def missing(self) -> list[MissingItem]:
        """Files and patterns that nothing is there for; nothing is opened."""
        root = Path(self.root).expanduser()
        return [
            MissingItem(
                what=f"the {split} images of {self.name!r} (a Parquet file or several)",
                location=str(root / pattern),
                remedy=f"put or link the files there, or set `data.root` or `data.{split}_files` "
                "to where they are",
            )
            for split in ("train", "eval")
            for pattern in self.patterns(split)
            if not any(root.glob(pattern))
        ]


@final
class ParquetDataset(ImageDataset):
    """Rows of Parquet files; open handles, labels and the declared caches are held in memory."""

    def __init__(self, config: ParquetConfig) -> None:
        if absent := config.missing():
            raise ValueError("; ".join(str(item) for item in absent))
        self._config = config
        self._splits = {split: _ParquetSplit.open(config, split) for split in ("train", "eval")}
        self._pixels: dict[Split, list[UInt8[np.ndarray, "_h _w 3"]]] = {}
        self._lock = threading.Lock()
        train, evaluation = self._splits["train"], self._splits["eval"]
        if train.class_names != evaluation.class_names:
            raise ValueError(
                "both splits must have the same classes in the same order, but got "
                f"{_shorten(train.class_names)} and {_shorten(evaluation.class_names)}; give files "
                "of one data set"
            )

    @property
    def resolution(self) -> int:
        """Side of every image in pixels."""
        return self._config.resolution

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that the files give to the classes, or else the configuration."""
        return self._splits["train"].class_names

    def num_images(self, split: Split) -> int:
        """Number of images in a split."""
        return len(self._splits[split].labels)

    def labels(self, split: Split) -> Int64[np.ndarray, " n"]:
        """Class of every image of a split."""
        return self._splits[split].labels

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

    def fingerprint(self) -> str:
        """sha256 of rows, size and footer of every file; images are not read."""
        digest = hashlib.sha256()
        for split, part in self._splits.items():
            for path, rows in zip(part.rows.paths, part.rows.rows_of_files, strict=True):
                size, footer = _footer(path)
                digest.update(
                    f"{split} {rows} {size} {hashlib.sha256(footer).hexdigest()}\n".encode()
                )
        return digest.hexdigest()

    def _read(
        self,
        split: Split,
        indices: Int64[np.ndarray, " b"],
        pipeline: Pipeline,
        positions: Sequence[tuple[float, float]] | None,
    ) -> UInt8[Tensor, "b 3 h w"]:
        check_indices(indices, self.num_images(split))
        side = self.resolution
        if self._config.keep == "files":
            encoded = self._splits[split].rows.read(indices)
            return read_squares(encoded, _decode, side, pipeline, positions)
        kept = self._kept(split)
        pixels = [kept[index] for index in indices]
        if all(image.shape[:2] == (side, side) for image in pixels):
            return stack_squares(pixels, side)
        return read_squares(pixels, Image.fromarray, side, pipeline, positions)

    def _kept(self, split: Split) -> list[UInt8[np.ndarray, "_h _w 3"]]:
        with self._lock:
            if split not in self._pixels:
                self._pixels[split] = self._decode_split(split)
        return self._pixels[split]

    def _decode_split(self, split: Split) -> list[UInt8[np.ndarray, "_h _w 3"]]:
        pixels: list[UInt8[np.ndarray, "_h _w 3"]] = []
        size = 0
        for indices in batches(self.num_images(split), 1024):
            decoded = in_threads(_decode_pixels, self._splits[split].rows.read(indices))
            pixels.extend(decoded)
            size += sum(image.nbytes for image in decoded)
            if size > self._config.memory_limit_gib * _GIB:
                whole = size / len(pixels) * self.num_images(split) / _GIB
                raise ValueError(
                    f"the pixels of the {split} split must fit into `memory_limit_gib`, "
                    f"{self._config.memory_limit_gib:g} GiB, under `keep: memory`, but take about "
                    f"{whole:.3g} GiB; raise it or use `keep: files`"
                )
        return pixels


class _EncodedImage(NamedTuple):
    name: str
    """Row and file, for errors."""
    data: bytes


def _decode(encoded: _EncodedImage) -> Image.Image:
    return read_rgb(encoded.data, encoded.name)


def _decode_pixels(encoded: _EncodedImage) -> UInt8[np.ndarray, "h w 3"]:
    return np.array(_decode(encoded))


@final
class _ImageRows:
    """The image column of some files, read by row group; the groups read last stay in memory."""

    def __init__(
        self, paths: Sequence[Path], files: Sequence[Any], columns: Sequence[str], cache_bytes: int
    ) -> None:
        self.paths = tuple(paths)
        self.rows_of_files = [file.metadata.num_rows for file in files]
        self._files, self._columns = tuple(files), tuple(columns)
        self._groups = [(n, g) for n, file in enumerate(files) for g in range(file.num_row_groups)]
        sizes = [files[n].metadata.row_group(g).num_rows for n, g in self._groups]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
        self._file_starts = np.cumsum([0, *self.rows_of_files], dtype=np.int64)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._room, self._lock = cache_bytes, threading.Lock()

    def read(self, indices: Int64[np.ndarray, " b"]) -> list[_EncodedImage]:
        """Encoded images in the order asked for; every row group is touched once."""
        groups = np.searchsorted(self._starts, indices, side="right") - 1
        images: dict[int, _EncodedImage] = {}
        for group in np.unique(groups):
            cells = self._cells(int(group))
            for index in indices[groups == group]:
                images[int(index)] = self._image(cells, int(group), int(index))
        return [images[int(index)] for index in indices]

    def _image(self, cells: Any, group: int, index: int) -> _EncodedImage:
        file, _ = self._groups[group]
        row = index - int(self._file_starts[file])
        name = f"row {row} of {str(self.paths[file])!r}"
        data = cells[index - int(self._starts[group])].as_py()
        if data is None:
            raise ValueError(
                f"every row must hold the bytes of an image, but {name} has none; write the images "
                "into the file, not their paths"
            )
        return _EncodedImage(name, data)

    def _cells(self, group: int) -> Any:
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            cells = self._read_group(group)
            self._room -= cells.nbytes
            # The newest group may alone be larger than the cache.
            while self._cache and self._room < 0:
                self._room += self._cache.popitem(last=False)[1].nbytes
            self._cache[group] = cells
        return cells

    def _read_group(self, group: int) -> Any:
        number, part = self._groups[group]
        column = self._columns[number]
        try:
            table = self._files[number].read_row_group(part, columns=[column], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{str(self.paths[number])!r} must be readable, but its row group {part} is not "
                f"({error}); get the file again"
            ) from error
        return table.flatten().column(0)


@dataclass(frozen=True, kw_only=True)
class _ParquetSplit:
    rows: _ImageRows
    labels: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]

    @classmethod
    def open(cls, config: ParquetConfig, split: Split) -> "_ParquetSplit":
        paths = config.files(split)
        files = [_open_file(path) for path in paths]
        parts = [_read_labels(f, p, config) for f, p in zip(files, paths, strict=True)]
        columns = [_image_column(f, p, config) for f, p in zip(files, paths, strict=True)]
        names = {_class_names(f, p, config) for f, p in zip(files, paths, strict=True)}
        if len(names) > 1:
            raise ValueError(
                f"all {split} files must name the same classes, but got "
                f"{' and '.join(_shorten(each) for each in names)}; give files of one data set"
            )
        labels = np.concatenate(parts)
        labels.setflags(write=False)
        declared = config.num_train_images if split == "train" else config.num_eval_images
        place = f"the {split} split ({', '.join(str(path) for path in paths[:3])}"
        place += f" and {len(paths) - 3} further files)" if len(paths) > 3 else ")"
        check_count(place, f"num_{split}_images", "images", declared, len(labels))
        rows = _ImageRows(paths, files, columns, int(config.row_cache_gib * _GIB))
        return cls(rows=rows, labels=labels, class_names=names.pop())


def _open_file(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{str(path)!r} must be a Parquet file, but cannot be read ({error}); get it again"
        ) from error


def _image_column(file: Any, path: Path, config: ParquetConfig) -> str:
    """The column to read: of the struct only its bytes."""
    schema = file.schema_arrow
    asked = _IMAGE_COLUMNS if config.image_column is None else (config.image_column,)
    found = [name for name in asked if name in schema.names]
    if len(found) != 1:
        raise ValueError(
            f"{str(path)!r} must have one column of images, {' or '.join(map(repr, asked))}, but "
            f"its columns are {', '.join(schema.names)}; set `image_column`"
        )
    kind = schema.field(found[0]).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{found[0]}.bytes"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return found[0]
    raise ValueError(
        f"the column {found[0]!r} of {str(path)!r} must hold encoded images, as bytes or as a "
        f"struct with `bytes`, but holds {kind}; set `image_column`"
    )


def _class_names(file: Any, path: Path, config: ParquetConfig) -> tuple[str, ...]:
    metadata = file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = tuple(features[config.label_column]["names"])
    except (ValueError, KeyError, TypeError):
        names = config.class_names
    if not names:
        raise ValueError(
            f"{str(path)!r} must name the classes of {config.label_column!r} in its `huggingface` "
            "metadata, but does not; list them as `class_names`"
        )
    if config.class_names not in ((), names):
        raise ValueError(
            f"`class_names` must be those of {str(path)!r}, {_shorten(names)}, but are "
            f"{_shorten(config.class_names)}; leave them out"
        )
    check_count(repr(str(path)), "num_classes", "class names", config.num_classes, len(names))
    return names


def _read_labels(file: Any, path: Path, config: ParquetConfig) -> Int64[np.ndarray, " n"]:
    name, schema = config.label_column, file.schema_arrow
    if name not in schema.names or not pa.types.is_integer(schema.field(name).type):
        held = schema.field(name).type if name in schema.names else "nothing of that name"
        raise ValueError(
            f"{str(path)!r} must have a column {name!r} of whole numbers, but holds {held} (its "
            f"columns: {', '.join(schema.names)}); set `label_column`"
        )
    column = file.read(columns=[name], use_threads=False).column(0)
    labels = pc.fill_null(column.cast(pa.int64(), safe=False), -1).to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= config.num_classes))
    if wrong.size:
        raise ValueError(
            f"labels must lie in 0..{config.num_classes - 1}, but {wrong.size:,} of "
            f"{str(path)!r} do not, the first in row {wrong[0]} ({column[int(wrong[0])].as_py()}); "
            "correct them, declare `num_classes`, or name the split that has labels"
        )
    return labels


def _footer(path: Path) -> tuple[int, bytes]:
    """Size of a file, and its footer: schema, and place, size and statistics of every column."""
    with path.open("rb") as file:
        size = file.seek(-8, io.SEEK_END) + 8
        length = int.from_bytes(file.read(4), "little")
        file.seek(size - 8 - length)
        return size, file.read(length)


def _shorten(names: Sequence[str]) -> str:
    listed = ", ".join(names[:5])
    return f"[{listed}, ... ({len(names)})]" if len(names) > 5 else f"[{listed}]"
