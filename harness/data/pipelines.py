"""Decodes image files and crops them to squares, in each of the three published ways.

The crops are those of arXiv 2501.01423 and its code:

| pipeline        | used for            | shortest side to the resolution        | crop            |
|-----------------|---------------------|----------------------------------------|-----------------|
| `opencv_crop`   | tokenizer training  | bilinear without antialiasing (OpenCV) | random / centre |
| `adm_center`    | latents             | BOX halvings, then BICUBIC (PIL, ADM)  | centre          |
| `resize_center` | tokenizer metrics   | antialiased bilinear (torchvision)     | centre          |

`opencv_crop` follows OpenCV's geometry in float32; OpenCV itself uses 11-bit fixed-point weights
for 8-bit images and rounds down, so it differs by at most one level and is darker by an eighth of a
level on average. An image that has the resolution already comes out of each of them as it went in.
"""

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

T = TypeVar("T")
R = TypeVar("R")

Pipeline = Literal["opencv_crop", "adm_center", "resize_center"]
"""Name of a published crop and resize."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "AVIF")
"""Formats that are decoded, by PIL's names: others are not looked into, whatever a file is called.
PIL would start Ghostscript for an EPS."""
MOST_ASPECT = 100
"""Longer side over the shorter one above which an image is bad: it is resized before it is cropped,
and one of 1 x 30,000 pixels would take gigabytes."""
_ORIENTATION = 0x0112
"""EXIF's tag of the orientation; 1 is upright."""

Workers = int | Literal["auto"]
"""Threads that decode images; `auto`: one for each core, at most `MOST_WORKERS`."""
MOST_WORKERS = 16
"""Threads that one batch can make use of."""


class UnreadableImage(ValueError):
    """An image that cannot be turned into 8-bit RGB; the message names it."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"every image must be readable, but {name} is not ({reason}); {remedy}")
        self.name, self.reason = name, reason


def read_rgb(
    source: Path | bytes, name: str | None = None, *, upright: bool = False
) -> Image.Image:
    """Decode one image to RGB as the published loaders do, by PIL's `convert("RGB")`.

    Grey is repeated, palettes are looked up, CMYK is converted without a profile, and alpha is
    dropped (what lies below transparent pixels shows).

    Args:
        name: What errors call the image; absent: its path.
        upright: Turn the image as its EXIF asks. The published loaders do not; that an image asks
            for it is then said once.

    Raises:
        UnreadableImage: It is unreadable, truncated, of no format in `FORMATS`, far longer than
            wide, or grey with more than 8 bits, which PIL would clip to white (colour of 16 bits
            keeps its upper 8).
    """
    called = name or repr(str(source))
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=decodable()) as image:
            short, long = sorted(image.size)
            if long > MOST_ASPECT * short:
                raise ValueError(
                    f"its sides have {short:,} and {long:,} pixels, more than {MOST_ASPECT} to 1"
                )
            if image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION, 1) != 1:
                ImageOps.exif_transpose(image, in_place=True) if upright else _say_turned()
            # Alpha is dropped by intent; PIL warns of a palette's.
            image.info.pop("transparency", None)
            mode, converted = image.mode, image.convert("RGB")
    except MemoryError:
        # A damaged length may ask for gigabytes of a file; of bytes no more is taken than there is.
        if isinstance(source, Path) and source.stat().st_size < 2**26:
            return read_rgb(source.read_bytes(), called, upright=upright)
        raise
    # Decoders raise whatever their format's library does; each means that this image is bad.
    except Exception as error:
        remedy = "replace it, or remove it and lower the number of images where that is declared"
        raise UnreadableImage(called, str(error) or type(error).__name__, remedy) from error
    if mode.startswith(("I", "F")):
        reason = f"its mode is {mode!r}, more than 8 bits a channel"
        raise UnreadableImage(called, reason, "convert it to 8 bits")
    return converted


@lru_cache(maxsize=1)
def decodable() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of PIL can decode."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _say_turned() -> None:
    # Of one text Python shows one warning a process.
    warnings.warn(
        "images ask in their EXIF to be turned; they are used as stored, as published programs do "
        "(`exif_orientation: true` turns them)",
        stacklevel=2,
    )


def read_squares(
    items: Sequence[T],
    read: Callable[[T], Image.Image],
    resolution: int,
    pipeline: Pipeline,
    positions: Sequence[tuple[float, float]] | None = None,
    workers: Workers = "auto",
) -> UInt8[Tensor, "b 3 h w"]:
    """Read, resize and crop images in parallel threads.

    Args:
        read: Gives an RGB image; its errors pass through.
        positions: Crop positions as `square_pixels` takes them, one a image; absent: the centre.
        workers: Threads; the pixels do not depend on their number.
    """

    def square(placed: tuple[T, tuple[float, float] | None]) -> UInt8[np.ndarray, "h w 3"]:
        item, position = placed
        return square_pixels(read(item), resolution, pipeline, position)

    placed = list(zip(items, positions or [None] * len(items), strict=True))
    return stacked(in_threads(square, placed, workers), (resolution, resolution))


def in_threads(
    function: Callable[[T], R], items: Sequence[T], workers: Workers = "auto"
) -> list[R]:
    """`list(map(function, items))` by several threads; raises the error of the first bad item."""
    # Threads and not processes: decoding and resizing run outside of Python's lock, and processes
    # would copy every image and fork CUDA. In the measurement of 2026-11-25 (results/LOG.md)
    # processes were no faster.
    num_threads = _num_cores() if workers == "auto" else workers
    if num_threads == 1:
        return [function(item) for item in items]
    # Small images are decoded faster than a thread is woken.
    size = min(16, -(-len(items) // num_threads)) or 1
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        done = pool.map(lambda part: [function(item) for item in part], parts)
        return [result for part in done for result in part]


def _num_cores() -> int:
    """Cores that this process may use, at most as many as a batch can make use of."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, available or 1)


def stacked(
    pixels: Sequence[UInt8[np.ndarray, "h w 3"]], size: tuple[int, int]
) -> UInt8[Tensor, "b 3 h w"]:
    """One batch of images of one height and width."""
    batch = np.stack(pixels) if pixels else np.zeros((0, *size, 3), dtype=np.uint8)
    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def draw_augmentation(
    num_images: int, generator: np.random.Generator, *, flip: bool
) -> tuple[list[tuple[float, float]], Bool[np.ndarray, " b"]]:
    """Draw crop positions and which images to mirror (half of them where `flip`, else none)."""
    # All three numbers are drawn whether `flip` or not, so that the crops stay the same.
    draws = generator.random((num_images, 3))
    positions = [(float(down), float(right)) for down, right in draws[:, :2]]
    return positions, (draws[:, 2] < 0.5) & flip


def mirror(
    images: UInt8[Tensor, "b 3 h w"], mirrored: Bool[np.ndarray, " b"]
) -> UInt8[Tensor, "b 3 h w"]:
    """Swap left and right of the images that are marked."""
    if not mirrored.any():
        return images
    marked = torch.from_numpy(mirrored).to(images.device, non_blocking=True)
    return torch.where(marked[:, None, None, None], images.flip(3), images)


def square_pixels(
    image: Image.Image,
    resolution: int,
    pipeline: Pipeline,
    position: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize and crop one RGB image to `resolution` x `resolution`.

    Args:
        image: RGB image of any size; smaller ones are enlarged.
        position: Crop position (down, right) as fractions in [0, 1) of the room to move; absent:
            the centre. Only `opencv_crop` has a position to choose.
    """
    # Each pipeline would give the same pixels here, and data sets of small images are of this size.
    if image.size == (resolution, resolution):
        return np.asarray(image)
    if pipeline == "adm_center":
        return _adm_center(image, resolution)
    if pipeline == "resize_center":
        return _resize_center(image, resolution)
    return _opencv_crop(image, resolution, position)


def _adm_center(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "h w 3"]:
    # ADM halves with a box filter first: one bicubic step over a large factor would alias.
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
    # Without antialiasing, as OpenCV's INTER_LINEAR, which the published training used.
    pixels = _bilinear(image, height, width, antialias=False)
    room = (height - resolution, width - resolution)
    if position is None:
        top, left = room[0] // 2, room[1] // 2
    else:
        # Every whole place from 0 to `slack` is equally likely.
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
