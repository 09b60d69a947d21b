"""Class folders: what is declared, what is missing, what cannot be read."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import ImageFolderConfig, open_dataset
from harness.schema.keys import content_hash


@pytest.fixture
def config(tmp_path: Path) -> ImageFolderConfig:
    for place in ("train/b", "train/a", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (9, 8), color=(len(place), 0, 255)).save(tmp_path / place / "x.png")
    return ImageFolderConfig(
        name="two",
        root=str(tmp_path),
        resolution=8,
        num_classes=2,
        num_train_images=2,
        num_eval_images=2,
    )


def test_classes_are_sorted_folder_names(config):
    dataset = open_dataset(config)
    assert dataset.class_names == ("a", "b")
    assert dataset.labels("train").tolist() == [0, 1]


def test_absent_folders_are_named_before_anything_is_opened(config, tmp_path):
    elsewhere = dataclasses.replace(config, root=str(tmp_path / "nowhere"))
    train, evaluation = elsewhere.missing()
    assert train.location == str(tmp_path / "nowhere" / "train")
    assert evaluation.location == str(tmp_path / "nowhere" / "val")
    assert "set `data.root`" in train.remedy
    with pytest.raises(ValueError, match=r"nowhere.*set `data.root`"):
        open_dataset(elsewhere)
    assert config.missing() == []


def test_the_place_of_the_data_does_not_enter_the_key(config):
    moved = dataclasses.replace(config, root="elsewhere")
    renamed = dataclasses.replace(config, name="other")
    assert content_hash(moved) == content_hash(config) != content_hash(renamed)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(config, tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    (tmp_path / "train/a/x.png").unlink()
    Image.new(mode, (9, 8)).save(tmp_path / "train" / "a" / f"x.{suffix}")
    images = open_dataset(config).images("train", np.array([0]))
    assert images.shape == (1, 3, 8, 8)


def test_sixteen_bit_pixels_are_refused_since_pil_would_clip_them(config, tmp_path):
    Image.new("I;16", (9, 8), 40_000).save(tmp_path / "val/b/x.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        open_dataset(config).images("eval", np.arange(2))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_named(config, tmp_path, content):
    path = tmp_path / "val/b/x.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ValueError, match=r"val.b.x\.png"):
        open_dataset(config).images("eval", np.arange(2))


def test_a_changed_number_of_images_is_refused(config, tmp_path):
    (tmp_path / "val/b/x.png").unlink()
    with pytest.raises(ValueError, match=r"must hold 2 images .* 1 were found"):
        open_dataset(config)


def test_class_folders_that_differ_between_splits_are_refused(config, tmp_path):
    (tmp_path / "val/b").rename(tmp_path / "val/c")
    with pytest.raises(ValueError, match="only one has b, c"):
        open_dataset(config)


def test_the_fingerprint_sees_names_and_sizes(config, tmp_path):
    before = open_dataset(config).fingerprint()
    (tmp_path / "val/b/x.png").rename(tmp_path / "val/b/y.png")
    renamed = open_dataset(config).fingerprint()
    Image.new("RGB", (50, 8)).save(tmp_path / "val/b/y.png")
    assert len({before, renamed, open_dataset(config).fingerprint()}) == 3


def test_flipping_mirrors_some_images_and_leaves_the_others(config, tmp_path):
    ramp = np.tile(np.arange(8, dtype=np.uint8)[None, :, None], (8, 1, 3))
    Image.fromarray(ramp).save(tmp_path / "train/a/x.png")
    dataset = open_dataset(dataclasses.replace(config, flip=True))
    indices = np.zeros(32, dtype=np.int64)
    original = dataset.images("train", indices[:1])[0]
    moved = dataset.augmented("train", indices, np.random.default_rng(0))
    mirrored = [torch.equal(image, original.flip(2)) for image in moved]
    kept = [torch.equal(image, original) for image in moved]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 4 < sum(mirrored) < 28


@pytest.mark.parametrize(
    "bad", [{"num_classes": 0}, {"root": ""}, {"eval_split": "train"}, {"resolution": -8}]
)
def test_a_configuration_that_cannot_be_right_is_refused(config, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataclasses.replace(config, **bad)


def test_a_rank_opens_the_images_of_its_part_alone(config, tmp_path):
    (tmp_path / "train/b/x.png").write_bytes(b"not for this rank")
    dataset = open_dataset(config)
    random = np.random.default_rng(0)
    assert dataset.augmented("train", np.array([0, 1]), random, slice(0, 1)).shape == (1, 3, 8, 8)


def test_a_class_folder_too_many_is_named_and_whether_it_is_empty(config, tmp_path):
    (tmp_path / "train/@eaDir").mkdir()
    (item,) = config.missing()
    assert "([@eaDir, a, b]; without images: [@eaDir])" in str(item)
    assert "3 were found" in str(item)


def test_files_without_bytes_are_told_before_anything_starts(config, tmp_path):
    (tmp_path / "val/b/x.png").write_bytes(b"")
    (item,) = config.missing()
    assert "1 of eval have none: [b/x.png]" in str(item)
    assert dataclasses.replace(config, bad_images_limit=1).missing() == []


@pytest.mark.parametrize(("names", "warned"), [(("c2", "c10"), True), (("c02", "c10"), False)])
def test_numbers_in_class_names_that_are_out_of_order_are_said(tmp_path, names, warned):
    for place in (f"{split}/{name}" for split in ("train", "val") for name in names):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (9, 8)).save(tmp_path / place / "x.png")
    config = ImageFolderConfig(
        name="n",
        root=str(tmp_path),
        resolution=8,
        num_classes=2,
        num_train_images=2,
        num_eval_images=2,
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert config.missing() == []
    assert any("in the order of their names as text (c10, c2" in str(w.message) for w in told) == (
        warned
    )
