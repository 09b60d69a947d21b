"""Grids of small images as PNG, enlarged so that a person can look at them."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

_SMALLEST_SIDE = 48
_GAP = 2


def save_grid(path: Path, images: UInt8[Tensor, "n 3 h w"], columns: int) -> None:
    """Write images row by row."""
    scale = max(1, -(-_SMALLEST_SIDE // images.shape[-1]))
    enlarged = images.cpu().repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    padded = functional.pad(enlarged, (_GAP, _GAP, _GAP, _GAP), value=255)
    missing = -len(padded) % columns
    blank = torch.full((missing, *padded.shape[1:]), 255, dtype=torch.uint8)
    rows = torch.cat([padded, blank]).unflatten(0, (-1, columns))
    canvas = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray(canvas.numpy(), "RGB").save(path)


def save_pairs(
    path: Path,
    originals: UInt8[Tensor, "n 3 h w"],
    reconstructions: UInt8[Tensor, "n 3 h w"],
    columns: int = 10,
    rows: int = 4,
) -> None:
    """Write rows of originals, each above the row of their reconstructions."""
    count = min(len(originals), columns * rows) // columns * columns or len(originals)
    strips = [
        strip
        for start in range(0, count, columns)
        for strip in (originals[start : start + columns], reconstructions[start : start + columns])
    ]
    save_grid(path, torch.cat(strips), min(columns, count))
