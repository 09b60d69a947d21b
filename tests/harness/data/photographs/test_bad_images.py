"""Images that cannot be used: named, left out and counted up to a limit, or the end of a stage."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import DatasetConfig, open_dataset
from harness.data.dataset import describe_content, take
from harness.data.pipelines import UnreadableImage, read_rgb
from harness.data.stream import BatchStream

from .photograph_files import (
    KINDS,
    SPLITS,
    encoded,
    labels_of,
    photographs,
    png,
    replace_image,
    write_kind,
)

BROKEN = {
    "truncated": lambda: png(3)[:-200],
    "no image": lambda: b"these are no pixels",
    "empty": lambda: b"",
    "16 bits": lambda: encoded(Image.new("I;16", (30, 30), 40_000), "png"),
}
NAMED = {
    "parquet": r"row 3 of '.*train-00000-of-00002.parquet'",
    "image_folder": r"train/ant/000003\.png'",
    "webdataset": r"'000003\.png' of '.*train-0000\.tar'",
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def spoil(kind: str, tmp_path: Path) -> Callable[..., DatasetConfig]:
    """Writes the data set with some training images replaced."""

    def write(bad: dict[int, bytes], **options: object) -> DatasetConfig:
        images = {name: photographs(n, 100 * n) for name, n in SPLITS.items()}
        for position, data in bad.items():
            images["train"][position] = data
        return write_kind(kind, tmp_path / "data", images, **options)

    return write


@pytest.mark.parametrize("how", BROKEN)
def test_the_first_bad_image_stops_and_is_named(spoil, kind, how):
    dataset = open_dataset(spoil({3: BROKEN[how]()}))
    with pytest.raises(ValueError, match=NAMED[kind]):
        dataset.images("train", np.arange(12))


def test_up_to_the_limit_they_are_left_out_counted_and_named(spoil, kind):
    good = open_dataset(spoil({}))
    kept = np.delete(np.arange(12), [3, 7])
    expected = good.images("train", kept)
    bad = {3: BROKEN["truncated"](), 7: BROKEN["16 bits"]()}
    dataset = open_dataset(spoil(bad, bad_images_limit=2))
    assert dataset.num_images("train") == 10
    assert dataset.num_images("eval") == 6
    assert dataset.labels("train").tolist() == np.array(labels_of(12))[kept].tolist()
    assert torch.equal(dataset.images("train", np.arange(10)), expected)
    recorded = describe_content(dataset, "train")["bad_images"]
    assert len(recorded) == 2
    assert "truncated" in recorded[0]
    assert "8 bits a channel" in recorded[1]


@pytest.mark.parametrize("options", [{"keep": "memory"}, {"decode_workers": 1}])
def test_the_stream_without_them_does_not_depend_on_who_meets_them(spoil, options):
    config = spoil({0: b"", 7: b""}, bad_images_limit=3, flip=True)
    first, other = (
        BatchStream(dataset=open_dataset(c), split="train", batch_size=4, seed=0, augment=True)
        for c in (config, dataclasses.replace(config, **options))
    )
    # The second is asked in another order, as after resuming.
    batches = {step: other.batch(step) for step in (4, 0, 3, 1, 2)}
    for step in range(5):
        assert torch.equal(first.batch(step)[0], batches[step][0])
        assert torch.equal(first.batch(step)[1], batches[step][1])


def test_beyond_the_limit_all_are_named(spoil, kind):
    config = spoil(dict.fromkeys((1, 3, 5), b""), bad_images_limit=2)
    with pytest.raises(ValueError, match=r"at most 2 images .*but 3 of 12 are bad") as raised:
        open_dataset(config)
    assert str(raised.value).count("cannot identify image") == 3


def test_a_split_of_bad_images_only_is_refused(spoil):
    config = spoil(dict.fromkeys(range(12), b""), bad_images_limit=50)
    with pytest.raises(ValueError, match="one must be good, but 12 of 12"):
        open_dataset(config)


def test_small_images_are_enlarged_or_bad(spoil, kind):
    config = spoil({3: png(0, (15, 40))})
    assert open_dataset(config).images("train", np.arange(12)).shape == (12, 3, 16, 16)
    strict = dataclasses.replace(config, small_images="bad")
    with pytest.raises(ValueError, match=r"shortest side has 15 pixels, below `resolution` 16"):
        open_dataset(strict).images("train", np.arange(12))
    assert open_dataset(dataclasses.replace(strict, bad_images_limit=1)).num_images("train") == 11


def test_an_image_that_breaks_after_opening_stops_and_is_not_left_out(spoil, kind, tmp_path):
    # Nothing of a Parquet file stays in memory.
    options = {"row_cache_gib": 1e-9} if kind == "parquet" else {}
    config = spoil({}, bad_images_limit=5, **options)
    dataset = open_dataset(config)
    if kind == "image_folder":
        replace_image(kind, tmp_path / "data", "train", 3, b"")
    else:
        for path in config.files("train"):
            os.truncate(path, 600)
    with pytest.raises(ValueError, match=r"train"):
        dataset.images("train", np.arange(12))


def _cannot_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)


@pytest.mark.parametrize("kind", ["image_folder"])
def test_a_file_that_could_not_be_read_once_is_tried_again_at_the_next_opening(spoil, monkeypatch):
    config = spoil({}, bad_images_limit=1)
    with monkeypatch.context() as failing:
        _cannot_read(failing, "000003.png")
        dataset = open_dataset(config)
        (left,) = dataset.left_out("train")
        assert "000003.png" in left
        assert "Input/output error" in left
    with pytest.raises(ValueError, match=r"left out at opening \(1\), but are now none; put"):
        dataset.content_fingerprint()
    assert open_dataset(config).num_images("train") == 12


@pytest.mark.parametrize("kind", ["image_folder"])
def test_a_file_that_is_gone_is_left_out_or_named(spoil, tmp_path):
    config = spoil({}, bad_images_limit=1)
    path = tmp_path / "data" / "train" / "ant" / "000003.png"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    dataset = open_dataset(config)
    assert dataset.num_images("train") == 11
    assert len(dataset.content_fingerprint()) == 64
    strict = open_dataset(dataclasses.replace(config, bad_images_limit=0))
    with pytest.raises(ValueError, match=r"every image must be readable, but .*000003\.png"):
        strict.content_fingerprint()


def test_evaluation_takes_all_that_are_good_where_some_were_left_out(spoil):
    dataset = open_dataset(spoil({3: b""}, bad_images_limit=1))
    assert take(dataset, "train", 12).tolist() == list(range(11))
    assert len(take(dataset, "train", 5)) == 5
    with pytest.raises(ValueError, match="at most 6 images"):
        take(dataset, "eval", 7)


def _colours() -> dict[str, tuple[bytes, list[int]]]:
    """Files of every colour mode, and the RGB of their upper left pixel."""
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    rgba = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    cmyk = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    deep = np.full((20, 20), 1, np.uint8)
    return {
        "grey": (encoded(Image.new("L", (20, 20), 77), "png"), [77, 77, 77]),
        "one bit": (encoded(Image.new("1", (20, 20), 1), "png"), [255, 255, 255]),
        "grey with alpha": (encoded(Image.new("LA", (20, 20), (9, 0)), "png"), [9, 9, 9]),
        "transparent": (encoded(rgba, "png"), [10, 20, 30]),
        "palette": (encoded(palette, "png"), [200, 100, 50]),
        "palette with alpha": (
            encoded(palette, "png", transparency=bytes([255, 0])),
            [200, 100, 50],
        ),
        "cmyk": (encoded(cmyk, "tiff"), [255, 0, 0]),
        "webp": (encoded(Image.fromarray(deep), "webp", lossless=True), [1, 1, 1]),
    }


@pytest.mark.parametrize("name", _colours())
def test_every_colour_mode_becomes_rgb_as_pil_converts_it(spoil, name):
    data, expected = _colours()[name]
    image = open_dataset(spoil({3: data})).images("train", np.array([3]))[0]
    assert image[:, 0, 0].tolist() == expected


def test_turned_photographs_stay_as_they_are_stored(spoil):
    photograph = Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = (encoded(photograph, "png", **o) for o in ({}, {"exif": exif}))
    images = open_dataset(spoil({3: plain, 4: turned})).images("train", np.array([3, 4]))
    assert torch.equal(images[0], images[1])


def test_a_length_of_gigabytes_in_a_small_file_takes_no_memory(tmp_path, little_memory):
    path, image = tmp_path / "a.png", Image.new("RGB", (16, 16), "red")
    image.save(path)
    content = path.read_bytes()
    at = content.index(b"IDAT") - 4
    path.write_bytes(content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :])
    assert read_rgb(path).tobytes() == image.tobytes()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UnreadableImage, match=r"a\.png"):
        read_rgb(path)
