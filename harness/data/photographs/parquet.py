"""Photographs in Parquet files of the Hugging Face image layout.

A row holds an encoded image, `struct{bytes, path}` (or plain bytes), and a label, an integer or the
name of a class; the class names stand in the schema's metadata under `huggingface`. Rows keep the
order of the files.
"""

import hashlib
import io
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
from jaxtyping import Int64

from harness.data.dataset import Split, check_count, check_declaration
from harness.data.photographs.config import ShardedConfig
from harness.data.photographs.encoded import EncodedImage, EncodedSplit, check_labels, shorten
from harness.data.photographs.opened_files import OpenedFiles
from harness.schema.keys import NO_KEY

_GIB = 2**30
_IMAGE_COLUMNS = ("image", "img")


@final
@dataclass(frozen=True, kw_only=True)
class ParquetConfig(ShardedConfig):
    """Images in Parquet files."""

    suffix: ClassVar[str] = ".parquet"
    kind: Literal["parquet"] = "parquet"
    image_column: str | None = None
    """Column of the images; absent: `image` or `img`, whichever the files have."""
    label_column: str = "label"
    """Column of the labels, 0..`num_classes` - 1."""
    row_cache_gib: float = field(default=0.5, metadata=NO_KEY)
    """Most that row groups read last, still encoded, may take for one split, in GiB. Shuffled
    reading of more than that reads a whole row group for almost every image, unless `shuffle` goes
    by blocks of which this holds a window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_declaration(self, counts=("row_cache_gib",), names=("label_column",))

    def open_split(self, split: Split) -> "ParquetSplit":
        """Open the files of a split and read their labels."""
        return ParquetSplit(self, split)


@final
class ParquetSplit(EncodedSplit):
    """Rows of Parquet files; open handles, labels and the row groups read last are in memory."""

    def __init__(self, config: ParquetConfig, split: Split) -> None:
        # Before anything is read, so that a file that is written anew meanwhile is noticed.
        self._opened = OpenedFiles(config.files(split))
        self._handles = [_open_file(path) for path in self.files]
        files = list(zip(self._handles, self.files, strict=True))
        parts = [_labels(file, path, config) for file, path in files]
        self._columns = [_image_column(file, path, config) for file, path in files]
        names = {_class_names(file, path, config) for file, path in files}
        self._opened.check()
        if len(names) > 1:
            raise ValueError(
                f"all {split} files must name the same classes, but got "
                f"{' and '.join(shorten(each) for each in names)}; give files of one data set"
            )
        labels = np.concatenate(parts)
        config.check_images(split, len(labels))
        super().__init__(names.pop(), labels)
        self._rows_of_files = [len(part) for part in parts]
        self._file_starts = np.cumsum([0, *self._rows_of_files], dtype=np.int64)
        self._groups = [
            (n, g) for n, (file, _) in enumerate(files) for g in range(file.num_row_groups)
        ]
        self._sizes = [self._handles[n].metadata.row_group(g).num_rows for n, g in self._groups]
        grouped = Counter[int]()
        for (number, _), size in zip(self._groups, self._sizes, strict=True):
            grouped[number] += size
        for number, path in enumerate(self.files):
            _check_rows(path, grouped[number], self._rows_of_files[number], "column of labels")
        self._starts = np.cumsum([0, *self._sizes], dtype=np.int64)[:-1]
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._room, self._lock = int(config.row_cache_gib * _GIB), threading.Lock()

    @property
    def files(self) -> Sequence[Path]:
        """The Parquet files."""
        return self._opened.paths

    def check_unchanged(self) -> None:
        """Refuse files that changed since their labels were read."""
        self._opened.check()

    def read(self, positions: Int64[np.ndarray, " b"]) -> list[EncodedImage]:
        """Encoded images of some rows; every row group is touched once."""
        # pyarrow reads whole row groups, so rows are taken group by group.
        groups = np.searchsorted(self._starts, positions, side="right") - 1
        # What is in memory may be of a file that has changed since.
        self._opened.check(sorted({self._groups[group][0] for group in groups}))
        images: dict[int, EncodedImage] = {}
        for group in np.unique(groups).tolist():
            cells = self._cells(group)
            for position in positions[groups == group].tolist():
                images[position] = self._image(cells, group, position)
        return [images[position] for position in positions.tolist()]

    def outline(self) -> Iterator[str]:
        """Rows, size and a hash of the footer of every file."""
        # The footer holds the place and statistics of every column, so it stands for the content
        # without reading it.
        for path, rows in zip(self.files, self._rows_of_files, strict=True):
            size, footer = _footer(path)
            yield f" {rows} {size} {hashlib.sha256(footer).hexdigest()}"

    def _image(self, cells: Any, group: int, position: int) -> EncodedImage:
        file, _ = self._groups[group]
        row = position - int(self._file_starts[file])
        name = f"row {row} of {str(self.files[file])!r}"
        return EncodedImage(name=name, source=cells[position - int(self._starts[group])].as_py())

    def _cells(self, group: int) -> Any:
        # It guards the cache, and keeps two threads from reading the same group.
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
        import pyarrow as pa  # See `_open_file`.

        number, part = self._groups[group]
        columns = [self._columns[number]]
        try:
            table = self._handles[number].read_row_group(part, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{str(self.files[number])!r} must be readable, but its row group {part} is not "
                f"({error}); get the file again"
            ) from error
        self._opened.check([number])
        cells = table.flatten().column(0)
        _check_rows(self.files[number], self._sizes[group], len(cells), f"row group {part}")
        return cells


def _open_file(path: Path) -> Any:
    # Here and below: pyarrow takes 0.2 s to import, and plans of other data sets need none of it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False)
    # A damaged name of a column is no UTF-8.
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ValueError(
            f"{str(path)!r} must be a Parquet file, but cannot be read ({error}); get it again"
        ) from error


def _image_column(file: Any, path: Path, config: ParquetConfig) -> str:
    """The column to read: of the struct only its bytes."""
    import pyarrow as pa  # See `_open_file`.

    schema = file.schema_arrow
    asked = _IMAGE_COLUMNS if config.image_column is None else (config.image_column,)
    found = [name for name in asked if name in schema.names]
    if len(found) != 1:
        raise ValueError(
            f"{str(path)!r} must have one column of images, {' or '.join(map(repr, asked))}, but "
            f"its columns are {', '.join(schema.names)}; set `image_column`"
        )
    # Only the bytes are read: `path` of the struct names a file of whoever wrote the data set.
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
    if config.labels == "none":
        return config.class_names or ("all",)
    metadata = file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = tuple(features[config.label_column]["names"])
    # Files that the hub's library did not write have no such metadata.
    except (ValueError, KeyError, TypeError, RecursionError):
        names = config.class_names
    if not names:
        raise ValueError(
            f"{str(path)!r} must name the classes of {config.label_column!r} in its `huggingface` "
            "metadata, but does not; list them as `class_names`"
        )
    if config.class_names not in ((), names):
        raise ValueError(
            f"`class_names` must be those of {str(path)!r}, {shorten(names)}, but are "
            f"{shorten(config.class_names)}; leave them out"
        )
    check_count(repr(str(path)), "num_classes", "class names", config.num_classes, len(names))
    return names


def _check_rows(path: Path, said: int, found: int, part: str) -> None:
    if found != said:
        raise ValueError(
            f"the {part} of {str(path)!r} must have the {said:,} rows that the file's footer says, "
            f"but has {found:,}; get the file again"
        )


def _labels(file: Any, path: Path, config: ParquetConfig) -> Int64[np.ndarray, " n"]:
    if config.labels == "none":
        return np.zeros(file.metadata.num_rows, dtype=np.int64)
    return _read_labels(file, path, config)


def _read_labels(file: Any, path: Path, config: ParquetConfig) -> Int64[np.ndarray, " n"]:
    import pyarrow as pa  # See `_open_file`.
    import pyarrow.compute as pc

    name, schema = config.label_column, file.schema_arrow
    kind = schema.field(name).type if name in schema.names else pa.null()
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (pa.types.is_integer(kind) or (is_text and config.class_names)):
        held = kind if name in schema.names else "nothing of that name"
        raise ValueError(
            f"{str(path)!r} must have a column {name!r} of whole numbers, but holds {held} (its "
            f"columns: {', '.join(schema.names)}); set `label_column`, list the names of the "
            "classes as `class_names` where labels are text, or set `labels: none` for images "
            "without"
        )
    try:
        column = file.read(columns=[name], use_threads=False).column(0)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{str(path)!r} must be readable, but its column {name!r} is not ({error}); get the "
            "file again"
        ) from error
    if is_text:
        classes = {called: label for label, called in enumerate(config.class_names)}
        column = pa.array([classes.get(each) for each in column.to_pylist()], pa.int64())
    # An empty label becomes -1, which the check then refuses with its row.
    labels = pc.fill_null(column.cast(pa.int64(), safe=False), -1).to_numpy()
    check_labels(labels, config.num_classes, repr(str(path)))
    return labels


def _footer(path: Path) -> tuple[int, bytes]:
    """Size of a Parquet file, and its footer. The last 8 bytes are its length and `PAR1`."""
    with path.open("rb") as file:
        size = file.seek(-8, io.SEEK_END) + 8
        length = int.from_bytes(file.read(4), "little")
        file.seek(size - 8 - length)
        return size, file.read(length)
