"""Reads rows of the image column of Parquet files, in any order."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from harness.data.photographs.encoded import EncodedImage
from harness.data.photographs.opened_files import OpenedFiles


@final
class ImageRows:
    """The image column of some files, read by row group; the groups read last stay in memory.

    Args:
        opened: The files as they were before they were opened.
        files: Each of them as pyarrow opened it.
        columns: The column of images of each.
        cache_bytes: Most that row groups in memory may take.
    """

    def __init__(
        self, opened: OpenedFiles, files: Sequence[Any], columns: Sequence[str], cache_bytes: int
    ) -> None:
        self._opened = opened
        self.rows_of_files = [file.metadata.num_rows for file in files]
        self._files, self._columns = tuple(files), tuple(columns)
        self._groups = [(n, g) for n, file in enumerate(files) for g in range(file.num_row_groups)]
        sizes = [files[n].metadata.row_group(g).num_rows for n, g in self._groups]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
        self._file_starts = np.cumsum([0, *self.rows_of_files], dtype=np.int64)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._room, self._lock = cache_bytes, threading.Lock()

    def read(self, indices: Int64[np.ndarray, " b"]) -> list[EncodedImage]:
        """Encoded images in the order asked for; every row group is touched once.

        Raises:
            ValueError: A file is gone, changed or damaged.
        """
        # pyarrow reads whole row groups, so rows are taken group by group.
        groups = np.searchsorted(self._starts, indices, side="right") - 1
        # What is in memory may be of a file that has changed since.
        self._opened.check(sorted({self._groups[group][0] for group in groups}))
        images: dict[int, EncodedImage] = {}
        for group in np.unique(groups):
            cells = self._cells(int(group))
            for index in indices[groups == group]:
                images[int(index)] = self._image(cells, int(group), int(index))
        return [images[int(index)] for index in indices]

    def _image(self, cells: Any, group: int, index: int) -> EncodedImage:
        file, _ = self._groups[group]
        row = index - int(self._file_starts[file])
        name = f"row {row} of {str(self._opened.paths[file])!r}"
        return EncodedImage(name=name, source=cells[index - int(self._starts[group])].as_py())

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
        import pyarrow as pa  # It takes 0.2 s, and plans of other data sets need none of it.

        number, part = self._groups[group]
        column = self._columns[number]
        try:
            table = self._files[number].read_row_group(part, columns=[column], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{str(self._opened.paths[number])!r} must be readable, but its row group {part} "
                f"is not ({error}); get the file again"
            ) from error
        self._opened.check([number])
        return table.flatten().column(0)
