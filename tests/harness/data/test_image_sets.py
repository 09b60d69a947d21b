"""Sets of images to be scored: folders, archives, splits; what is refused and what is skipped."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import DigitsConfig, open_dataset
from harness.data.image_sets import (
    DatasetImages,
    FolderImages,
    ImageSet,
    ImageSetConfig,
    NpzImages,
    open_image_set,
)
from harness.data.pipelines import square_pixels
from harness.schema.reading import validate

PIXELS = np.random.default_rng(0).integers(0, 256, size=(5, 8, 10, 3), dtype=np.uint8)


def _folder(root: Path) -> FolderImages:
    for number, pixels in enumerate(PIXELS):
        place = root / "images" / ("b" if number > 2 else "a")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (root / "images" / "notes.txt").write_text("no image")
    return FolderImages(path=str(root / "images"))


def _npz(root: Path) -> NpzImages:
    np.savez(root / "samples.npz", PIXELS, np.array([1, 0, 2, 2, 0]))
    return NpzImages(path=str(root / "samples.npz"))


def _split(_: Path) -> DatasetImages:
    return DatasetImages(data=DigitsConfig(), split="eval")


KINDS = {"folder": _folder, "npz": _npz, "dataset": _split}


@pytest.fixture(params=list(KINDS))
def make(request: pytest.FixtureRequest) -> Callable[[Path], ImageSetConfig]:
    return KINDS[request.param]


@pytest.fixture
def images(make: Callable[[Path], ImageSetConfig], tmp_path: Path) -> ImageSet:
    return open_image_set(make(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> FolderImages:
    return _folder(tmp_path)


@pytest.fixture
def npz(tmp_path: Path) -> NpzImages:
    return _npz(tmp_path)


def test_every_kind_gives_uint8_batches_in_the_order_asked_for(images):
    batch = images.images(np.array([3, 0, 3]))
    assert batch.dtype == torch.uint8
    assert batch.shape[:2] == (3, 3)
    assert batch.is_contiguous()
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(batch[1:2], images.images(np.array([0])))
    assert images.images(np.arange(0)).shape == (0, *batch.shape[1:])


@pytest.mark.parametrize("indices", [[-1], [10**6]])
def test_an_index_outside_any_kind_of_set_is_refused(images, indices):
    with pytest.raises(ValueError, match="use positions within the split"):
        images.images(np.array(indices))


def test_labels_of_every_kind_are_one_an_image_or_none_at_all(images):
    labels = images.labels()
    assert labels is None or (labels.shape == (images.num_images,) and labels.dtype == np.int64)


def test_the_fingerprint_of_every_kind_repeats(make, images, tmp_path):
    assert images.fingerprint() == open_image_set(make(tmp_path)).fingerprint()
    assert len(images.fingerprint()) == 64


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_files_give_their_pixels_as_they_are(kind, tmp_path):
    read = open_image_set(KINDS[kind](tmp_path))
    assert read.num_images == len(PIXELS)
    assert np.array_equal(read.images(np.arange(5)).permute(0, 2, 3, 1).numpy(), PIXELS)
    assert read.name == {"folder": "images", "npz": "samples"}[kind]
    assert read.skipped == ()


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_pipeline_brings_files_to_the_resolution_asked_for(kind, tmp_path):
    config = KINDS[kind](tmp_path)
    read = open_image_set(dataclasses.replace(config, pipeline="adm_center", resolution=4))
    expected = square_pixels(Image.fromarray(PIXELS[2]), 4, "adm_center")
    assert np.array_equal(read.images(np.array([2]))[0].permute(1, 2, 0).numpy(), expected)
    assert read.fingerprint() != open_image_set(config).fingerprint()


def test_a_split_is_that_of_the_data_set():
    config = DatasetImages(data=DigitsConfig(), split="train")
    read, dataset = open_image_set(config), open_dataset(DigitsConfig())
    assert torch.equal(read.images(np.arange(3)), dataset.images("train", np.arange(3)))
    assert read.name == "digits train"
    other = open_image_set(dataclasses.replace(config, split="eval"))
    assert other.name == "digits test"
    assert other.fingerprint() != read.fingerprint()


def test_absent_images_are_refused(tmp_path):
    for config in (FolderImages(path=str(tmp_path / "no")), NpzImages(path=str(tmp_path / "no"))):
        with pytest.raises(ValueError, match="no', but nothing is there; set `eval"):
            open_image_set(config)


def test_configurations_are_told_apart_by_kind(tmp_path):
    tree: dict[str, Any] = {"kind": "npz", "path": "samples.npz"}
    assert validate(ImageSetConfig, tree) == NpzImages(path="samples.npz")
    tree = {"kind": "dataset", "data": {"kind": "digits"}, "split": "eval"}
    assert validate(ImageSetConfig, tree) == _split(tmp_path)


def test_mixed_sizes_are_refused_with_two_files_and_their_sizes(folder, tmp_path):
    Image.new("RGB", (12, 9)).save(tmp_path / "images/b/9.png")
    with pytest.raises(ValueError, match=r"0\.png' has 10x8 pixels and '.*9\.png' has 12x9"):
        open_image_set(folder)
    resized = dataclasses.replace(folder, pipeline="resize_center", resolution=8)
    assert open_image_set(resized).images(np.arange(6)).shape == (6, 3, 8, 8)


def _break(tmp_path: Path, count: int) -> None:
    for number in range(count):
        whole = (tmp_path / "images/a/0.png").read_bytes()
        (tmp_path / f"images/b/broken{number}.png").write_bytes(whole[:-40])


def test_an_unreadable_file_stops_and_is_named(folder, tmp_path):
    _break(tmp_path, 1)
    with pytest.raises(ValueError, match=r"broken0\.png"):
        open_image_set(folder).images(np.arange(6))
    (tmp_path / "images/b/broken0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken0\.png"):
        open_image_set(folder)


def test_an_unreadable_file_is_skipped_and_listed_where_asked(folder, tmp_path):
    whole = open_image_set(folder)
    _break(tmp_path, 1)
    read = open_image_set(dataclasses.replace(folder, on_unreadable="skip"))
    assert read.num_images == 5
    assert len(read.skipped) == 1
    assert "broken0.png" in read.skipped[0]
    assert torch.equal(read.images(np.arange(5)), whole.images(np.arange(5)))


def test_more_unreadable_files_than_the_limit_stop(folder, tmp_path):
    _break(tmp_path, 2)
    skipping = dataclasses.replace(folder, on_unreadable="skip")
    with pytest.raises(ValueError, match=r"at most 1 of 7 files .* but 2 are: .*broken0"):
        open_image_set(skipping)
    lenient = dataclasses.replace(skipping, max_unreadable=0.3)
    assert len(open_image_set(lenient).skipped) == 2


def test_sixteen_bit_files_count_as_unreadable(folder, tmp_path):
    Image.new("I;16", (10, 8), 40_000).save(tmp_path / "images/b/9.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        open_image_set(folder).images(np.arange(6))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold images"):
        open_image_set(FolderImages(path=str(tmp_path / "empty")))


def test_the_fingerprint_of_files_sees_their_change(folder, npz, tmp_path):
    before = open_image_set(folder).fingerprint(), open_image_set(npz).fingerprint()
    (tmp_path / "images/a/0.png").rename(tmp_path / "images/a/00.png")
    np.savez(tmp_path / "samples.npz", PIXELS[::-1])
    assert open_image_set(folder).fingerprint() != before[0]
    assert open_image_set(npz).fingerprint() != before[1]


def test_the_fingerprint_of_a_folder_sees_a_file_of_the_same_size(folder, tmp_path):
    before, path = open_image_set(folder).fingerprint(), tmp_path / "images/a/0.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert open_image_set(folder).fingerprint() != before


def test_images_of_folders_are_named_by_their_paths_and_others_not_at_all(folder, npz, tmp_path):
    assert open_image_set(folder).names == ("a/0", "a/1", "a/2", "b/3", "b/4")
    assert open_image_set(npz).names is open_image_set(_split(tmp_path)).names is None


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("0", "1", "2", "10", "11"), "0 1 2 10 11"),
        (("008", "009", "010", "999", "1000"), "008 009 010 999 1000"),
        (("0", "1", "2", "10", "x"), "0 1 2 10 x"),
        (("img_0", "img_2", "img_10", "img_9b", "imh"), "img_0 img_2 img_9b img_10 imh"),
        (("a1", "a01", "a1_2", "a1_10", "b"), "a01 a1 a1_2 a1_10 b"),
    ],
)
def test_numbers_in_names_are_sorted_as_numbers(tmp_path, names, order):
    for name, pixels in zip(names, PIXELS, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    read = open_image_set(FolderImages(path=str(tmp_path)))
    assert read.names == tuple(order.split())
    second = PIXELS[names.index(order.split()[2])]
    assert np.array_equal(read.images(np.array([2]))[0].permute(1, 2, 0), second)


def test_a_compressed_archive_is_read_with_a_message(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", PIXELS)
    with pytest.warns(UserWarning, match=r"compressed, so 0\.00 GiB are read into memory"):
        read = open_image_set(NpzImages(path=str(tmp_path / "small.npz")))
    assert np.array_equal(read.images(np.arange(5)).permute(0, 2, 3, 1).numpy(), PIXELS)


def test_an_array_in_column_order_gives_the_same_images(tmp_path):
    np.savez(tmp_path / "columns.npz", np.asfortranarray(PIXELS))
    read = open_image_set(NpzImages(path=str(tmp_path / "columns.npz")))
    assert np.array_equal(read.images(np.arange(5)).permute(0, 2, 3, 1).numpy(), PIXELS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"samples": PIXELS}, r"as `arr_0`, but holds samples"),
        ({"arr_0": PIXELS.astype(np.float32)}, r"must be uint8 images.*float32"),
        ({"arr_0": PIXELS.transpose(0, 3, 1, 2)}, r"\(5, 3, 8, 10\); round"),
        ({"arr_0": PIXELS[:0]}, r"of shape \(0, 8, 10, 3\)"),
        ({"arr_0": np.array([None])}, "it holds objects"),
        ({"arr_0": PIXELS, "arr_1": np.zeros(3)}, r"one whole number an image \(5\)"),
    ],
)
def test_archives_that_hold_other_things_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_image_set(NpzImages(path=str(tmp_path / "other.npz")))


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_archive_is_named(npz, tmp_path, content):
    path = Path(npz.path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(ValueError, match=r"samples\.npz' must be an \.npz archive"):
        open_image_set(npz)


@pytest.mark.parametrize(
    "bad", [{"path": ""}, {"resolution": 8}, {"pipeline": "adm_center"}, {"max_unreadable": 2.0}]
)
def test_a_configuration_that_cannot_be_right_is_refused(folder, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataclasses.replace(folder, **bad)


def test_every_image_of_a_folder_counts_and_nothing_else(folder):
    root = Path(folder.path)
    known = open_image_set(folder).num_images
    for name in (".ipynb_checkpoints/0.png", "__MACOSX/0.png", "a/._0.png", ".hidden.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert open_image_set(folder).num_images == known
    for name, kind in (("x.jfif", "JPEG"), ("x.gif", "GIF"), ("x.pgm", "PPM")):
        Image.fromarray(PIXELS[0]).convert("L").save(root / name, kind)
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(PIXELS[1]).save(elsewhere / "y.png")
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(root)
    assert open_image_set(folder).num_images == known + 4
    (root / "z.heic").write_bytes(b"another format")
    os.mkfifo(root / "pipe.png")
    (root / "to_pipe.png").symlink_to(root / "pipe.png")
    with pytest.raises(ValueError, match=r"3 are not and would not count: .*pipe\.png.*z\.heic"):
        open_image_set(folder)
    skipping = dataclasses.replace(folder, others="skip")
    assert open_image_set(skipping).num_images == known + 4


def test_files_that_hold_other_than_one_image_by_their_names_are_refused(tmp_path):
    config = _folder(tmp_path)
    config.location.joinpath("LICENSE").write_text("free")
    assert open_image_set(config).num_images == len(PIXELS)
    # An image without an end of its name, and a file of several images.
    bare = config.location / "sample_7"
    Image.fromarray(PIXELS[0]).save(bare, format="PNG")
    with pytest.raises(ValueError, match=r"would not count: .*sample_7'"):
        open_image_set(config)
    bare.unlink()
    frames = [Image.fromarray(each) for each in PIXELS[:3]]
    frames[0].save(config.location / "all.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"all\.tif' holds 3; write each to a file of its own"):
        open_image_set(config)
