"""From image files to squares of pixels: decoding, and the three published crops.

The crops are those of arXiv 2501.01423 and its code:

| pipeline        | used for            | shortest side to the resolution        | crop            |
|-----------------|---------------------|----------------------------------------|-----------------|
| `opencv_crop`   | tokenizer training  | bilinear without antialiasing (OpenCV) | random / centre |
| `adm_center`    | latents             | BOX halvings, then BICUBIC (PIL, ADM)  | centre          |
| `resize_center` | tokenizer metrics   | antialiased bilinear (torchvision)     | centre          |

`opencv_crop` follows OpenCV's geometry in float32; OpenCV itself uses 11-bit fixed-point weights
for 8-bit images and so differs by at most one pixel step. An image that has the resolution already
comes out of each of them as it went in.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

T = TypeVar("T")
R = TypeVar("R")

Pipeline = Literal["opencv_crop", "adm_center", "resize_center"]
"""Name of a published crop and resize."""

# What PIL's decoders raise on broken files, found by feeding them such.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImage(ValueError):
    """An image that cannot be turned into 8-bit RGB; the message names it."""


def read_rgb(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Decode one image to RGB; grey, palette, CMYK and alpha are converted.

    Args:
        source: An image file or its bytes.
        name: What errors call the image; absent: its path.

    Raises:
        UnreadableImage: It is unreadable, truncated, no image, or grey with more than 8 bits, which
            PIL would clip (colour of 16 bits keeps its upper 8).
    """
    called = name or repr(str(source))
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            mode, converted = image.mode, image.convert("RGB")
    except _DECODING_ERRORS as error:
        raise UnreadableImage(
            f"every image must be readable, but {called} is not ({error}); replace it, or remove "
            "it and lower the number of images where that is declared"
        ) from error
    if mode.startswith(("I", "F")):
        raise UnreadableImage(
            f"every image must have 8 bits a channel, but {called} has mode {mode!r}; convert it"
        )
    return converted


def read_squares(
    items: Sequence[T],
    read: Callable[[T], Image.Image],
    resolution: int,
    pipeline: Pipeline,
    positions: Sequence[tuple[float, float]] | None = None,
) -> UInt8[Tensor, "b 3 h w"]:
    """Read, resize and crop images in parallel threads.

    Args:
        items: What `read` takes, one a image.
        read: Gives an RGB image; its errors pass through.
        resolution: Side of the result in pixels.
        pipeline: Published crop and resize.
        positions: Crop positions as `square_pixels` takes them, one a image; absent: the centre.
    """

    def square(placed: tuple[T, tuple[float, float] | None]) -> UInt8[np.ndarray, "h w 3"]:
        item, position = placed
        return square_pixels(read(item), resolution, pipeline, position)

    placed = list(zip(items, positions or [None] * len(items), strict=True))
    return stack_squares(in_threads(square, placed), resolution)


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`list(map(function, items))` by as many threads as there are cores, at most 16."""
    num_threads = min(16, os.cpu_count() or 1)
    # Small images are decoded faster than a thread is woken.
    size = min(16, -(-len(items) // num_threads)) or 1
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        done = pool.map(lambda part: [function(item) for item in part], parts)
        return [result for part in done for result in part]


def stack_squares(
    pixels: Sequence[UInt8[np.ndarray, "h w 3"]], resolution: int
) -> UInt8[Tensor, "b 3 h w"]:
    """One batch of images that are `resolution` pixels wide and high."""
    shape = (0, resolution, resolution, 3)
    stacked = np.stack(pixels) if pixels else np.zeros(shape, dtype=np.uint8)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def draw_augmentation(
    num_images: int, generator: np.random.Generator, *, flip: bool
) -> tuple[list[tuple[float, float]], Bool[np.ndarray, " b"]]:
    """Draw crop positions and which images to mirror (half of them where `flip`, else none).

    The positions don't depend on `flip`.
    """
    draws = generator.random((num_images, 3))
    positions = [(float(down), float(right)) for down, right in draws[:, :2]]
    return positions, (draws[:, 2] < 0.5) & flip


def mirror(
    images: UInt8[Tensor, "b 3 h w"], mirrored: Bool[np.ndarray, " b"]
) -> UInt8[Tensor, "b 3 h w"]:
    """Swap left and right of the images that are marked."""
    if not mirrored.any():
        return images
    return torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(3), images)


def square_pixels(
    image: Image.Image,
    resolution: int,
    pipeline: Pipeline,
    position: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize and crop one RGB image to `resolution` x `resolution`.

    Args:
        image: RGB image of any size; smaller ones are enlarged.
        resolution: Side of the result in pixels.
        pipeline: Published crop and resize.
        position: Crop position (down, right) as fractions in [0, 1) of the room to move; absent:
            the centre. Only `opencv_crop` has a position to choose.
    """
    if image.size == (resolution, resolution):
        return np.asarray(image)
    if pipeline == "adm_center":
        return _adm_center(image, resolution)
    if pipeline == "resize_center":
        return _resize_center(image, resolution)
    return _opencv_crop(image, resolution, position)


def _adm_center(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "h w 3"]:
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    return pixels[top : top + resolution, left : left + resolution]


def _resize_center(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "h w 3"]:
    shortest = min(image.size)
    height, width = (int(resolution * side / shortest) for side in (image.height, image.width))
    pixels = _bilinear(image, height, width, antialias=True)
    top, left = round((height - resolution) / 2), round((width - resolution) / 2)
    return pixels[top : top + resolution, left : left + resolution]


def _opencv_crop(
    image: Image.Image, resolution: int, position: tuple[float, float] | None
) -> UInt8[np.ndarray, "h w 3"]:
    scale = resolution / min(image.size)
    height, width = round(image.height * scale), round(image.width * scale)
    pixels = _bilinear(image, height, width, antialias=False)
    room = (height - resolution, width - resolution)
    if position is None:
        top, left = room[0] // 2, room[1] // 2
    else:
        top, left = (int(part * (slack + 1)) for part, slack in zip(position, room, strict=True))
    return pixels[top : top + resolution, left : left + resolution]


def _bilinear(
    image: Image.Image, height: int, width: int, *, antialias: bool
) -> UInt8[np.ndarray, "h w 3"]:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(torch.float32)
    resized = functional.interpolate(
        pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=antialias
    )
    rounded = (resized + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return rounded[0].permute(1, 2, 0).numpy()
