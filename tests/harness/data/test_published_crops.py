"""The published crops against the operations of PIL, torchvision and OpenCV that they name.

On real photographs (scikit-learn's two) and on noise, where an error of half a pixel shows most.
"""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import transforms

from harness.data.pipelines import mirror, square_pixels

PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def _images() -> dict[str, Image.Image]:
    random = np.random.default_rng(0)
    found = {name: Image.fromarray(load_sample_image(name)) for name in PHOTOGRAPHS}
    found["upright"] = found["china.jpg"].transpose(Image.Transpose.ROTATE_90)
    for width, height in ((61, 200), (130, 97), (40, 40), (33, 34)):
        pixels = random.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        found[f"noise {width}x{height}"] = Image.fromarray(pixels)
    return found


IMAGES = _images()
SIDES = (32, 64, 256)


def _adm_center_crop(image: Image.Image, side: int) -> np.ndarray:
    """As arXiv 2105.05233's loader does it: halve by boxes while twice too large, then bicubic."""
    while min(image.size) >= 2 * side:
        half = (image.size[0] // 2, image.size[1] // 2)
        image = image.resize(half, resample=Image.Resampling.BOX)
    factor = side / min(image.size)
    size = (round(image.size[0] * factor), round(image.size[1] * factor))
    pixels = np.array(image.resize(size, resample=Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", IMAGES)
def test_adm_center_is_pils_boxes_and_bicubic_to_the_bit(name, side):
    image = IMAGES[name]
    assert np.array_equal(square_pixels(image, side, "adm_center"), _adm_center_crop(image, side))


def test_pils_box_halves_by_means_of_two_along_each_axis_halves_rounded_upwards():
    pixels = np.asarray(IMAGES["noise 130x97"])[:96]
    wide = pixels.astype(int)
    columns = (wide[:, ::2] + wide[:, 1::2] + 1) // 2
    rows = (columns[::2] + columns[1::2] + 1) // 2
    halved = Image.fromarray(pixels).resize((65, 48), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(halved), rows)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", IMAGES)
def test_resize_center_is_torchvisions_resize_and_crop_of_a_pil_image(name, side):
    image = IMAGES[name]
    reference = np.asarray(transforms.CenterCrop(side)(transforms.Resize(side)(image))).astype(int)
    ours = square_pixels(image, side, "resize_center").astype(int)
    # PIL rounds after each of two passes, in fixed-point arithmetic.
    assert np.abs(ours - reference).max() <= 1
    assert np.abs(ours - reference).mean() < 0.26


def _opencv(image: Image.Image, side: int, dtype: type) -> np.ndarray:
    """Shortest side to `side` by OpenCV's bilinear resize."""
    factor = side / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    pixels = np.asarray(image).astype(dtype)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR).astype(float)


@pytest.mark.parametrize("position", [None, (0.0, 0.999), (0.3, 0.7)])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", IMAGES)
def test_opencv_crop_is_opencvs_resize_and_a_crop(name, side, position):
    image = IMAGES[name]
    ours = square_pixels(image, side, "opencv_crop", position).astype(float)
    in_bytes, in_floats = (
        _crop(_opencv(image, side, dtype), side, position) for dtype in (np.uint8, np.float32)
    )
    assert np.abs(ours - in_floats).max() <= 0.51
    # For bytes OpenCV has weights of 11 bits and rounds down: an eighth of a level darker.
    assert np.abs(ours - in_bytes).max() <= 1
    assert 0 <= (ours - in_bytes).mean() < 0.15


def _crop(whole: np.ndarray, side: int, position: tuple[float, float] | None) -> np.ndarray:
    room = whole.shape[0] - side, whole.shape[1] - side
    if position is None:
        top, left = room[0] // 2, room[1] // 2
    else:
        top, left = (int(part * (r + 1)) for part, r in zip(position, room, strict=True))
    return whole[top : top + side, left : left + side]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_mirroring_is_opencvs_horizontal_flip(name):
    pixels = square_pixels(IMAGES[name], 64, "opencv_crop")
    images = torch.from_numpy(np.stack([pixels, pixels])).permute(0, 3, 1, 2)
    flipped = mirror(images, np.array([True, False]))
    assert np.array_equal(flipped[0].permute(1, 2, 0).numpy(), cv2.flip(pixels, 1))
    assert torch.equal(flipped[1], images[1])
