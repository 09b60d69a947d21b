"""Samples as the `.npz` that ADM's evaluator reads: `arr_0` uint8 NHWC, `arr_1` int64 labels.

The archive is what `np.savez` would write of the whole array, but it is written batch by batch. It
is not compressed, so that it can be mapped into memory instead of read.
"""

import contextlib
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from jaxtyping import Int64, UInt8

from harness.storage.durable import replacing

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip can hold."""


def write_samples(
    path: Path,
    batches: Iterable[UInt8[np.ndarray, "_b h w 3"]],
    labels: Int64[np.ndarray, " n"],
    resolution: int,
) -> None:
    """Write images batch by batch; the file takes its name when it is whole.

    Args:
        path: File to write, ending in `.npz`; one that is there already is replaced.
        batches: Squares of pixels, as many in all as there are labels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shape, count = (len(labels), resolution, resolution, 3), 0
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with _open_member(archive, "arr_0", "|u1", shape) as member:
            for pixels in batches:
                assert pixels.shape[1:] == shape[1:], "images must have the announced size"
                member.write(np.ascontiguousarray(pixels).data)
                count += len(pixels)
        assert count == len(labels), f"{len(labels)} images must come, but {count} came"
        with _open_member(archive, "arr_1", "<i8", labels.shape) as member:
            member.write(labels.astype("<i8").tobytes())


@contextlib.contextmanager
def _open_member(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array of the archive, its header written."""
    # A fixed date gives the same bytes for the same images. Large sizes are allowed from the
    # start, because 50,000 samples of 256 pixels are 9.8 GB and the header comes first.
    info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
    with archive.open(info, "w", force_zip64=True) as member:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


@final
class SampleArchive:
    """Arrays inside an `.npz`, of samples or of anything else that is no object; ValueError where
    the file is no archive, or is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as archive:
            self._members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the order of the file."""
        return tuple(self._members)

    def checksum(self, name: str) -> int:
        """CRC-32 of an array with its header, as the archive records it; nothing is read."""
        return self._member(name).CRC

    def array(self, name: str) -> np.ndarray:
        """One array: mapped where it is stored plain, read with a warning where it is not."""
        member = self._member(name)
        # Samples of ImageNet size would not fit into memory; the system maps what is read of them.
        if member.compress_type == zipfile.ZIP_STORED:
            return self._map(name, member)
        warnings.warn(
            f"`{name}` of {str(self._path)!r} is compressed, so {member.file_size / 2**30:.2f} GiB "
            "are read into memory; save it with np.savez to have it mapped",
            stacklevel=2,
        )
        with self._opened(name) as archive, archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _map(self, name: str, member: zipfile.ZipInfo) -> np.ndarray:
        with self._opened(name) as archive, archive.open(member) as file:
            shape, is_fortran, dtype = _read_header(file)
            # Objects would be unpickled, and a pickle from elsewhere runs code.
            if dtype.hasobject:
                raise ValueError("it holds objects")
            if not math.prod(shape):
                return np.empty(shape, dtype)
            return np.memmap(
                self._path,
                dtype=dtype,
                mode="r",
                offset=_data_offset(self._path, member) + file.tell(),
                shape=shape,
                order="F" if is_fortran else "C",
            )

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise ValueError(
                f"{str(self._path)!r} must hold the images as `{name}`, but holds "
                f"{', '.join(self._members) or 'nothing'}; save them with np.savez(path, images)"
            )
        return self._members[name]

    @contextlib.contextmanager
    def _opened(self, name: str | None = None) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
        ) as error:
            part = f"`{name}` of {str(self._path)!r}" if name else repr(str(self._path))
            raise ValueError(
                f"{part} must be {'an array of numbers' if name else 'an .npz archive'}, but "
                f"cannot be read ({error}); save it again with np.savez"
            ) from error


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, whose lengths are its own."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + name_length + extra_length
