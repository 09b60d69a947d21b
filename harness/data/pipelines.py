"""The three published ways from a photograph to a square of pixels (arXiv 2501.01423 and its code).

| pipeline        | used for            | shortest side to the resolution        | crop            |
|-----------------|---------------------|----------------------------------------|-----------------|
| `opencv_crop`   | tokenizer training  | bilinear without antialiasing (OpenCV) | random / centre |
| `adm_center`    | latents             | BOX halvings, then BICUBIC (PIL, ADM)  | centre          |
| `resize_center` | tokenizer metrics   | antialiased bilinear (torchvision)     | centre          |

`opencv_crop` follows OpenCV's geometry in float32; OpenCV itself uses 11-bit fixed-point weights
for 8-bit images and so differs by at most one pixel step.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.nn import functional

Pipeline = Literal["opencv_crop", "adm_center", "resize_center"]
"""Name of a published crop and resize."""


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
