"""One pass over the images of a split: a hash of their content, and which of them are bad.

Its result is remembered in the user's cache folder until a file changes, unless a file could not be
read: that may pass without a trace in the file. Memory is bounded by `BATCH_IMAGES` encoded images
and one decoded image a worker.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from harness.data.dataset import batches
from harness.data.photographs.encoded import EncodedImage, EncodedSplit
from harness.data.pipelines import UnreadableImage, Workers, in_threads
from harness.storage.user_cache import describe_files, remembered

BATCH_IMAGES = 32
"""Images read at a time: few, since encoded photographs of a batch are all in memory."""
_VERSION = 1
"""Raised when results that are remembered would be others."""


@final
@dataclass(frozen=True, kw_only=True)
class BadImage:
    """An image that is left out."""

    position: int
    """Its place in the split as the files hold it."""
    name: str
    """File, and place there."""
    reason: str
    """Why it is bad."""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@final
@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Result of one pass over a split."""

    content: str
    """sha256 over label and sha256 of every image in order, whatever kind of file holds them."""
    bad: tuple[BadImage, ...]
    """In the order of positions; empty where images were not decoded."""


def inspect(
    split: EncodedSplit, *, decode: bool, least_side: int = 0, workers: Workers = "auto"
) -> Inspection:
    """Look at every image of a split, or recall what was seen while no file has changed since.

    Args:
        decode: Decode each, to find those that are bad.
        least_side: Images with a shorter side, in pixels, are bad.
    """
    split.check_unchanged()
    # The description of the files stands in the entry's name, so a changed file is looked at anew.
    files = describe_files(split.files)
    asked = f"{_VERSION} {files} {decode} {least_side}"
    name = hashlib.sha256(asked.encode()).hexdigest()
    found = remembered(
        "images",
        name,
        lambda: _look(split, decode, least_side, workers),
        lasts=lambda found: found["num_unread"] == 0 and describe_files(split.files) == files,
    )
    return Inspection(
        content=found["content"], bad=tuple(BadImage(**image) for image in found["bad"])
    )


def check_limit(bad: Sequence[BadImage], limit: int, num_images: int, split: str) -> None:
    """Refuse more bad images than may be left out, naming all of them."""
    if len(bad) <= limit and len(bad) < num_images:
        return
    named = "; ".join(str(image) for image in bad)
    raise ValueError(
        f"at most {limit} images of the {split} split may be bad (`bad_images_limit`) and one must "
        f"be good, but {len(bad):,} of {num_images:,} are bad: {named}; replace them or raise the "
        "limit"
    )


def _look(
    split: EncodedSplit, decode: bool, least_side: int, workers: Workers
) -> dict[str, object]:
    digest, labels = hashlib.sha256(), split.labels
    bad: list[dict[str, object]] = []
    num_unread = 0
    for positions in batches(len(labels), BATCH_IMAGES):
        seen = in_threads(
            lambda image: _look_at(image, decode, least_side), split.read(positions), workers
        )
        for position, (content, problem) in zip(positions, seen, strict=True):
            # Neither names nor kinds of files go in: the same images give the same hash in folders,
            # Parquet files and tars.
            digest.update(np.int64(labels[position]).astype("<i8").tobytes())
            digest.update(hashlib.sha256(content or b"").digest())
            num_unread += content is None
            if problem is not None:
                where = {"position": int(position), "name": problem.name}
                bad.append({**where, "reason": problem.reason})
    return {"content": digest.hexdigest(), "bad": bad, "num_unread": num_unread}


def _look_at(
    image: EncodedImage, decode: bool, least_side: int
) -> tuple[bytes | None, UnreadableImage | None]:
    """Bytes of an image, None where its file cannot be read; and the problem, if it is bad."""
    try:
        content = image.content()
    except OSError as error:
        remedy = "put its file back, or make it readable"
        problem = UnreadableImage(image.name, str(error), remedy)
        # Without decoding nothing is left out, so the first problem ends the pass.
        if not decode:
            raise problem from error
        return None, problem
    if not decode:
        return content, None
    try:
        image.decode(least_side)
    except UnreadableImage as problem:
        return content, problem
    return content, None
