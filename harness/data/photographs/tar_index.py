"""Finds where the samples of a tar shard lie, so that each can be read by itself.

The webdataset library streams instead: its order comes from a buffer, and resuming needs the
reader's state. With an index a batch stays a function of (seed, step).

A sample is all members whose names agree up to the first dot after the last slash
(`train/0001.jpg`, `train/0001.cls`). Headers are read once and the index is remembered in the
user's cache folder; the shard's own folder is not written to.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from jaxtyping import Int64

from harness.storage.user_cache import describe_files, remembered

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
"""Extensions of members that are images; case does not matter."""
_VERSION = 3
"""Raised when an index that is remembered would be another, or none."""
_END = bytes(2 * tarfile.BLOCKSIZE)
"""The two blocks of zeros that close a tar; more zeros may follow."""


@final
@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The images of one shard in the order of their members."""

    offsets: Int64[np.ndarray, " n"]
    """First byte of every image in the shard."""
    sizes: Int64[np.ndarray, " n"]
    """Bytes of every image."""
    labels: Int64[np.ndarray, " n"]
    """Label of every image, as its sample says."""


def index_shard(path: Path, label_extension: str, label_key: str) -> TarIndex:
    """Find the images of a shard and their labels, or recall them while the file has not changed.

    Args:
        path: An uncompressed tar file.
        label_extension: Members that hold the label: `cls` (a whole number as text) or `json`.
        label_key: Where the label stands in a `json`.

    Raises:
        ValueError: The shard is no whole tar, or a sample has not one image and one label.
    """
    described = describe_files([path])
    asked = f"{described} {_VERSION} {label_extension} {label_key}"
    found = remembered(
        "tar",
        hashlib.sha256(asked.encode()).hexdigest(),
        # All headers of a shard are read for it, which takes long on a slow disk.
        lambda: _read_index(path, label_extension, label_key),
        # Written anew while it was read: the entry's name would stand for another content.
        lasts=lambda _: describe_files([path]) == described,
    )
    return TarIndex(**{name: np.array(found[name], dtype=np.int64) for name in found})


def member_name(header: bytes) -> str:
    """Name in the header of a member, for people: of long ones the end is missing."""
    return header[:100].partition(b"\0")[0].decode("utf-8", "replace")


def _read_index(path: Path, label_extension: str, label_key: str) -> dict[str, list[int]]:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    for member, text in _members(path, label_extension):
        key, extension = _split_name(member.name)
        if extension.lower() in IMAGE_EXTENSIONS:
            _refuse_second(key in images, "image", key, path)
            images[key] = (member.offset_data, member.size)
        elif extension == label_extension:
            _refuse_second(key in labels, "label", key, path)
            labels[key] = _label(text, member.name, label_key, path)
    _check_complete(images, labels, label_extension, path)
    return {
        "offsets": [offset for offset, _ in images.values()],
        "sizes": [size for _, size in images.values()],
        "labels": [labels[key] for key in images],
    }


def _members(path: Path, label_extension: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Every member that is a file, with its content where it holds a label, else nothing."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as shard:
            while (member := shard.next()) is not None:
                if member.isfile():
                    is_label = _split_name(member.name)[1] == label_extension
                    label = shard.extractfile(member) if is_label else None
                    yield member, label.read() if label else b""
            # `tarfile` takes a cut between two members, or a damaged header, for the end.
            _check_end(file, shard.offset)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} must be a whole, uncompressed tar file, but cannot be read ({error}); "
            "get it again, or unpack its compression"
        ) from error


def _check_end(file: BinaryIO, offset: int) -> None:
    """Refuse a tar that stops without its closing blocks.

    Raises:
        tarfile.ReadError: It is cut between two members, or a header is damaged.
    """
    file.seek(offset)
    rest = file.read(len(_END))
    whole = rest == _END
    while whole and (rest := file.read(2**20)):
        whole = not any(rest)
    if not whole:
        raise tarfile.ReadError(
            f"it is cut or damaged: from byte {offset:,} on it has neither a member nor the zeros "
            "that close a tar"
        )


def _split_name(name: str) -> tuple[str, str]:
    # Up to the first dot, as the webdataset library splits names.
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _label(text: bytes, name: str, label_key: str, path: Path) -> int:
    try:
        found = json.loads(text)[label_key] if name.endswith(".json") else int(text)
        if isinstance(found, bool) or not isinstance(found, int):
            raise TypeError(f"it is {found!r}")
        return int(np.int64(found))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{name!r} of {str(path)!r} must hold a label, a whole number, but does not "
            f"({error}); correct it, or set `label_extension` and `label_key`"
        ) from error


def _refuse_second(is_second: bool, what: str, key: str, path: Path) -> None:
    if is_second:
        raise ValueError(
            f"every sample must have one {what}, but {key!r} of {str(path)!r} has two; give each "
            "sample a name of its own"
        )


def _check_complete(
    images: dict[str, Any], labels: dict[str, int], extension: str, path: Path
) -> None:
    odd = sorted(images.keys() ^ labels.keys())
    if odd:
        has = "no label" if odd[0] in images else "no image"
        raise ValueError(
            f"every sample must have an image ({', '.join(sorted(IMAGE_EXTENSIONS))}) and a label "
            f"({extension}), but {len(odd):,} of {str(path)!r} do not, the first {odd[0]!r}, which "
            f"has {has}; complete them, or set `label_extension`"
        )
