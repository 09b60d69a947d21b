"""Grids of samples and reconstructions as data URIs, within a limit on the page's size."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image, ImageChops

from analysis.table.protocols import name_some

MAX_SIDE = 640
"""Longer side of a grid in the page, pixels; larger ones are scaled down."""
LOSSLESS_BYTE = 120_000
"""Grids that take more than this as PNG are encoded as JPEG, bytes."""
JPEG_QUALITY = 88
BUDGET_BYTE = 2_600_000
"""All pictures of a page together, bytes before base64: the page then stays below 5 MB."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One grid."""

    trial_id: str
    kind: str
    """Its content: samples, reconstructions or the rest of its file's name."""
    row_id: str
    """Its row, where the trial's other rows have other pictures; else empty."""
    uri: str
    width: int
    height: int
    """Pixels, as the width."""


@dataclass(frozen=True, kw_only=True)
class Album:
    """The pictures of a page."""

    pictures: list[Picture]
    """Those within the limit, in the order of the trials asked for."""
    notes: list[str]
    """Remarks on pictures that were scaled, encoded anew, unreadable or left out."""


def collect_pictures(
    grids: pd.DataFrame, trials: Sequence[str], *, budget_byte: int = BUDGET_BYTE
) -> Album:
    """Reads the grids (of `index_grids`) of trials, all of a trial or none, in the order of the
    trials until the page is full: `budget_byte` before base64."""
    notes: list[str] = []
    by_trial = {str(name): rows for name, rows in grids.groupby("trial_id", sort=False)}
    wanted = [trial for trial in trials if trial in by_trial]
    pictures: list[Picture] = []
    changed: set[str] = set()
    unreadable: list[str] = []
    left = budget_byte
    for position, trial in enumerate(wanted):
        mine = []
        for row in by_trial[trial].sort_values("kind", ascending=False).itertuples():
            read = _read_picture(Path(str(row.file)), trial, str(row.kind), str(row.row_id))
            if read is None:
                unreadable.append(str(row.path))
            else:
                mine.append(read[0])
                changed |= read[1]
        left -= sum(len(picture.uri) * 3 // 4 for picture in mine)
        if left < 0:
            rest = len(wanted) - position
            notes.append(f"{rest} of {len(wanted)} trials have no pictures here: the page is full")
            break
        pictures += mine
    if changed:
        notes.append(f"large pictures are {' and '.join(sorted(changed))}; originals: grids/")
    if unreadable:
        notes.append(f"no readable PNG: {name_some(unreadable)}")
    return Album(pictures=pictures, notes=notes)


def _read_picture(
    file: Path, trial: str, kind: str, row_id: str
) -> tuple[Picture, set[str]] | None:
    """A grid as the page has it, and what was done to it; None where it is no image."""
    try:
        with Image.open(file, formats=["PNG"]) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    changed = set()
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        changed.add(f"scaled down to {MAX_SIDE} pixels")
    red, green, blue = image.split()
    if not ImageChops.difference(red, green).getbbox() and not (
        ImageChops.difference(red, blue).getbbox()
    ):
        image = red
    data, media = _encode(image, "PNG"), "png"
    if len(data) > LOSSLESS_BYTE:
        data, media = _encode(image, "JPEG", quality=JPEG_QUALITY), "jpeg"
        changed.add(f"encoded as JPEG of quality {JPEG_QUALITY}")
    picture = Picture(
        trial_id=trial,
        kind=kind,
        row_id=row_id,
        uri=f"data:image/{media};base64,{base64.b64encode(data).decode('ascii')}",
        width=image.width,
        height=image.height,
    )
    return picture, changed


def _encode(image: Image.Image, name: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()
