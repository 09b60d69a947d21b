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
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.storage.durable import replacing

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip can hold."""


@final
class SampleWriter:
    """Writes images batch by batch; used in a `with` block, at whose end the file is there, whole.

    The file takes its name when all images have come. Where the block raises, it is removed.

    Args:
        path: File to write, ending in `.npz`; one that is there already is replaced.
        num_images: Images that will come.
        resolution: Side of the images in pixels.

    Raises:
        ValueError: The path does not end in `.npz`, or a size is not positive.
    """

    def __init__(self, path: Path, *, num_images: int, resolution: int) -> None:
        if path.suffix != ".npz":
            raise ValueError(f"a sample archive must end in .npz, but got {str(path)!r}; rename it")
        if num_images <= 0 or resolution <= 0:
            raise ValueError(
                f"`num_images` and `resolution` must be positive, but got {num_images} and "
                f"{resolution}; raise them"
            )
        self._path = path
        self._shape = (num_images, resolution, resolution, 3)
        self._num_written = 0
        self._labels: list[Int64[np.ndarray, " b"]] = []

    def __enter__(self) -> "SampleWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            # Left in reverse order: the file takes its name after all else, so it is whole.
            temporary = opened.enter_context(replacing(self._path))
            self._archive = opened.enter_context(zipfile.ZipFile(temporary, "w"))
            opened.push(self._finish)
            self._member = opened.enter_context(self._open_member("arr_0"))
            _write_header(self._member, "|u1", self._shape)
            self._opened = opened.pop_all()
        return self

    def add(
        self, images: UInt8[Tensor, "b 3 h w"], labels: Int64[Tensor, " b"] | None = None
    ) -> None:
        """Append a batch.

        Args:
            images: Pixels on any device.
            labels: Their classes; given for all batches or for none.

        Raises:
            ValueError: The images are more than announced or of another size, or labels came for
                some batches only.
        """
        num_images, *size = self._shape
        if self._num_written + len(images) > num_images:
            raise ValueError(
                f"an archive of {num_images:,} images must get no more, but got "
                f"{self._num_written + len(images):,}; announce them as `num_images`"
            )
        if list(images.shape[2:]) != size[:2]:
            raise ValueError(
                f"images must be {size[0]}x{size[1]} pixels, but got {images.shape[2]}x"
                f"{images.shape[3]}; write one archive a size"
            )
        has_labels = labels is not None
        if self._num_written and bool(self._labels) != has_labels:
            raise ValueError(
                "labels must come with every batch or with none, but came with some; give them all"
            )
        if has_labels and len(labels) != len(images):
            raise ValueError(
                f"labels must be one an image, {len(images)}, but got {len(labels)}; give one each"
            )
        self._member.write(images.permute(0, 2, 3, 1).contiguous().cpu().numpy().data)
        # Labels are small and wait until the end: a zip is written one member after the other.
        if has_labels:
            self._labels.append(labels.cpu().numpy())
        self._num_written += len(images)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.__exit__(kind, error, traceback)

    def _finish(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            return
        if self._num_written != self._shape[0]:
            raise ValueError(
                f"an archive of {self._shape[0]:,} images must get them all, but got "
                f"{self._num_written:,}; announce as many as come"
            )
        if self._labels:
            labels = np.concatenate(self._labels)
            with self._open_member("arr_1") as member:
                _write_header(member, "<i8", labels.shape)
                member.write(labels.astype("<i8").tobytes())

    def _open_member(self, name: str) -> Any:
        # A fixed date gives the same bytes for the same images. Large sizes are allowed from the
        # start, because 50,000 samples of 256 pixels are 9.8 GB and the header comes first.
        info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
        return self._archive.open(info, "w", force_zip64=True)


def _write_header(member: Any, dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


@final
class SampleArchive:
    """Arrays inside an `.npz`, of samples or of anything else that is no object.

    Raises:
        ValueError: The file is no archive, or is cut off.
    """

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
        """One array: mapped where it is stored plain, with a warning read where it is compressed.

        Raises:
            ValueError: The archive has no such array, or it is damaged or holds objects.
        """
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
