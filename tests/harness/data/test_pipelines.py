"""The published crops against PIL, torchvision and plain bilinear interpolation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as vision

from harness.data.pipelines import UnreadableImage, read_rgb, square_pixels

SIZES = [(64, 48), (37, 53), (16, 16), (10, 12), (161, 70)]


def _photograph(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
def test_resize_center_is_torchvisions_resize_and_center_crop(size):
    image = _photograph(*size)
    resized = vision.resize(vision.to_tensor(image), [16], antialias=True)
    reference = vision.center_crop(resized, [16, 16]).permute(1, 2, 0).numpy() * 255
    ours = square_pixels(image, 16, "resize_center")
    assert np.abs(ours - reference).max() <= 0.5 + 1e-3


def test_adm_center_is_box_halvings_then_bicubic_then_the_middle():
    image = _photograph(100, 70)
    halved = image.resize((50, 35), Image.Resampling.BOX).resize((25, 17), Image.Resampling.BOX)
    resized = np.asarray(halved.resize((13, 9), Image.Resampling.BICUBIC))
    assert np.array_equal(square_pixels(image, 9, "adm_center"), resized[:, 2:11])


def test_adm_center_leaves_an_image_of_the_right_size_alone():
    image = _photograph(16, 16)
    assert np.array_equal(square_pixels(image, 16, "adm_center"), np.asarray(image))


def _bilinear_without_antialiasing(line: np.ndarray, length: int) -> np.ndarray:
    centers = (np.arange(length) + 0.5) * len(line) / length - 0.5
    return np.stack(
        [np.interp(centers, np.arange(len(line)), line[..., c]) for c in range(3)], axis=-1
    )


def test_opencv_crop_interpolates_between_the_two_nearest_pixels():
    image = _photograph(40, 48)
    pixels = np.asarray(image).astype(float)
    columns = np.stack([_bilinear_without_antialiasing(row, 16) for row in pixels])
    rows = np.stack([_bilinear_without_antialiasing(columns[:, x], 19) for x in range(16)], axis=1)
    ours = square_pixels(image, 16, "opencv_crop")
    assert np.abs(ours - rows[1:17]).max() <= 0.5 + 1e-3


def test_opencv_crop_reaches_both_ends_and_defaults_to_the_middle():
    image = _photograph(16, 20)
    pixels = np.asarray(image)
    ends = {0.0: 0, 0.999: 4}
    for part, top in ends.items():
        cropped = square_pixels(image, 16, "opencv_crop", (part, part))
        assert np.array_equal(cropped, pixels[top : top + 16])
    assert np.array_equal(square_pixels(image, 16, "opencv_crop"), pixels[2:18])


@pytest.mark.parametrize("pipeline", ["opencv_crop", "adm_center", "resize_center"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_becomes_a_square(pipeline, size):
    pixels = square_pixels(_photograph(*size), 16, pipeline)
    assert pixels.shape == (16, 16, 3)
    assert torch.from_numpy(pixels.copy()).dtype == torch.uint8


def _bytes(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_only_the_formats_of_the_list_are_looked_into(monkeypatch):
    def started(*_arguments, **_options):
        raise AssertionError("Ghostscript was started")

    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    picture = Image.new("RGB", (8, 8))
    for kind in ("EPS", "DDS", "SPIDER", "TGA", "ICO"):
        image = picture.convert("F") if kind == "SPIDER" else picture
        with pytest.raises(UnreadableImage, match="cannot identify image file"):
            read_rgb(_bytes(image, kind))
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"):
        assert read_rgb(_bytes(picture, kind)).size == (8, 8)


def test_whatever_a_decoder_raises_makes_a_bad_image(monkeypatch):
    class Strange(Exception):
        pass

    def broken(*_arguments, **_options):
        raise Strange

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(UnreadableImage, match="Strange"):
        read_rgb(_bytes(Image.new("RGB", (8, 8)), "PNG"))


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (8, 801)])
def test_an_image_that_is_far_longer_than_wide_is_bad(size):
    with pytest.raises(UnreadableImage, match="more than 100 to 1"):
        read_rgb(_bytes(Image.new("RGB", size), "PNG"))


def test_the_orientation_is_kept_unless_asked_for():
    image = Image.new("RGB", (8, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = _bytes(image, "JPEG", exif=exif, quality=100)
    with pytest.warns(UserWarning, match="`exif_orientation: true` turns them"):
        assert read_rgb(content).size == (8, 4)
    assert read_rgb(content, upright=True).size == (4, 8)
