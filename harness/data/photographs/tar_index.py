"""Finds where the samples of a tar shard lie, so that each can be read by itself.

The webdataset library streams instead: its order comes from a buffer, and resuming needs the
reader's state. With an index a batch stays a function of (seed, step).

A sample is all members whose names agree up to the first dot after the last slash
(`train/0001.jpg`, `train/0001.cls`), as the webdataset library has it; where that finds no image,
up to the last dot (`train/img.0001.jpg`). Headers are read once and the index is remembered in the
user's cache folder; the shard's own folder is not written to.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from jaxtyping import Int64

from harness.data.photographs.image_folder import IMAGE_SUFFIXES
from harness.storage.user_cache import describe_files, remembered

IMAGE_EXTENSIONS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
"""Extensions of members that are images; case does not matter."""
_VERSION = 4
"""Raised when an index that is remembered would be another, or none."""
MOST_LABEL_BYTES = 2**20
"""Size above which a member is no label."""
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


@final
@dataclass(frozen=True, kw_only=True)
class SampleNames:
    """How the members of a sample are told apart; case does not matter."""

    label_extension: str | None
    """Members that hold the label: `cls` (text) or `json`; None: none does, and every image is of
    class 0."""
    class_names: tuple[str, ...] = ()
    """What a label that is no whole number may be: the name of a class."""
    label_key: str
    """Where the label stands in a `json`."""
    image_extension: str | None
    """Members that are the image; None: every one that ends as in `IMAGE_EXTENSIONS`."""


def index_shard(path: Path, names: SampleNames) -> TarIndex:
    """Find the images of a shard and their labels, or recall them while no file has changed."""
    described = describe_files([path])
    asked = f"{described} {_VERSION} {names}"
    found = remembered(
        "tar",
        hashlib.sha256(asked.encode()).hexdigest(),
        # All headers of a shard are read for it, which takes long on a slow disk.
        lambda: _read_index(path, names),
        # Written anew while it was read: the entry's name would stand for another content.
        lasts=lambda _: describe_files([path]) == described,
    )
    return TarIndex(**{name: np.array(found[name], dtype=np.int64) for name in found})


def member_name(header: bytes) -> str:
    """Name in the header of a member, for people: of long ones the end is missing."""
    return header[:100].partition(b"\0")[0].decode("utf-8", "replace")


def _read_index(path: Path, names: SampleNames) -> dict[str, list[int]]:
    members = list(_members(path, names.label_extension))
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    classes = {called: label for label, called in enumerate(names.class_names)}
    # Keys with dots look like long extensions, and only a shard without other images tells.
    splits = (_at_first_dot, _at_last_dot) if names.image_extension is None else (_at_last_dot,)
    for split in splits:
        labels.clear()
        for member, text in members:
            name = member.name
            if (key := _key_of_image(name, names.image_extension, split)) is not None:
                _refuse_second(key in images, "image", key, path)
                images[key] = (member.offset_data, member.size)
            elif text is not None:
                key = name[: -len(f".{names.label_extension}")]
                _refuse_second(key in labels, "label", key, path)
                labels[key] = _label(text, name, names.label_key, classes, path)
        if images:
            break
    if names.label_extension is None:
        labels = dict.fromkeys(images, 0)
    _check_complete(images, labels, names, path)
    return {
        "offsets": [offset for offset, _ in images.values()],
        "sizes": [size for _, size in images.values()],
        "labels": [labels[key] for key in images],
    }


def _members(
    path: Path, label_extension: str | None
) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Every member that is a file, with its content where it holds a label."""
    end = None if label_extension is None else f".{label_extension}"
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as shard:
            while (member := shard.next()) is not None:
                # What a Mac leaves beside every file is none of the data set's.
                if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                    is_label = end is not None and member.name.lower().endswith(end)
                    yield member, _label_bytes(shard, member) if is_label else None
            # `tarfile` takes a cut between two members, or a damaged header, for the end.
            _check_end(file, shard.offset)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} must be a whole, uncompressed tar file, but cannot be read ({error}); "
            "get it again, or unpack its compression"
        ) from error


def _label_bytes(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MOST_LABEL_BYTES:
        raise tarfile.ReadError(
            f"the label {member.name!r} has {member.size:,} bytes, more than {MOST_LABEL_BYTES:,}"
        )
    file = shard.extractfile(member)
    return b"" if file is None else file.read()


def _check_end(file: BinaryIO, offset: int) -> None:
    """Refuse a tar that stops without its closing blocks."""
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


def _key_of_image(
    name: str, end: str | None, split: Callable[[str], tuple[str, str]]
) -> str | None:
    """The sample that a member is the image of; None where it is no image."""
    if end is not None:
        return name[: -len(end) - 1] if name.lower().endswith(f".{end.lower()}") else None
    key, extension = split(name)
    return key if extension.lower() in IMAGE_EXTENSIONS else None


def _at_first_dot(name: str) -> tuple[str, str]:
    # As the webdataset library splits names.
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _at_last_dot(name: str) -> tuple[str, str]:
    key, _, extension = name.rpartition(".")
    return key, extension


def _label(text: bytes, name: str, key: str, classes: dict[str, int], path: Path) -> int:
    try:
        is_json = name.lower().endswith(".json")
        found = json.loads(text)[key] if is_json else text.decode().strip()
        if isinstance(found, str):
            found = classes[found] if found in classes and not found.isdecimal() else int(found)
        if isinstance(found, bool) or not isinstance(found, int):
            raise TypeError(f"it is {found!r}")
        return int(np.int64(found))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{name!r} of {str(path)!r} must hold a label, a whole number or one of `class_names`, "
            f"but does not ({error}); correct it, list `class_names`, set `label_extension` and "
            "`label_key`, or `labels: none`"
        ) from error


def _refuse_second(is_second: bool, what: str, key: str, path: Path) -> None:
    if is_second:
        raise ValueError(
            f"every sample must have one {what}, but {key!r} of {str(path)!r} has two; give each "
            "sample a name of its own"
        )


def _check_complete(
    images: dict[str, Any], labels: dict[str, int], names: SampleNames, path: Path
) -> None:
    odd = sorted(images.keys() ^ labels.keys())
    if odd:
        has = "no label" if odd[0] in images else "no image"
        ends = names.image_extension or ", ".join(sorted(IMAGE_EXTENSIONS))
        raise ValueError(
            f"every sample must have an image ({ends}) and a label ({names.label_extension}), but "
            f"{len(odd):,} of {str(path)!r} do not, the first {odd[0]!r}, which has {has}; "
            "complete them, set `image_extension` or `label_extension`, or `labels: none` where "
            "there are no labels"
        )
