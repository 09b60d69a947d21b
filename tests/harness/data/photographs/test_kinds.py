"""Photographs in every kind of file: equal content, equal bits, and what moves no key."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config.data import DataConfig
from harness.data import DatasetConfig, open_dataset
from harness.data.dataset import describe_content
from harness.data.photographs.kept_pixels import MOST_SPLITS, _kept
from harness.data.shuffle import BlockShuffle
from harness.data.stream import BatchStream
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError, validate

from .photograph_files import KINDS, SPLITS, photographs, png, replace_image, write_kind


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def config(kind: str, tmp_path: Path) -> DatasetConfig:
    return write_kind(kind, tmp_path / "data", flip=True)


def _epoch(config: DatasetConfig) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = open_dataset(config)
    stream = BatchStream(dataset=dataset, split="train", batch_size=7, seed=5, augment=True)
    images, labels = zip(*(stream.batch(step) for step in range(4)), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_every_kind_gives_the_same_content_and_the_same_stream(tmp_path):
    configs = [write_kind(kind, tmp_path / kind, flip=True) for kind in KINDS]
    contents = {open_dataset(config).content_fingerprint() for config in configs}
    assert len(contents) == 1
    first, *others = map(_epoch, configs)
    for other in others:
        assert torch.equal(other[0], first[0])
        assert torch.equal(other[1], first[1])


@pytest.mark.parametrize(
    "options", [{"decode_workers": 1}, {"decode_workers": 5}, {"keep": "memory"}]
)
def test_neither_workers_nor_memory_move_a_bit_or_a_key(config, options):
    other = dataclasses.replace(config, **options)
    assert content_hash(other) == content_hash(config)
    assert torch.equal(_epoch(other)[0], _epoch(config)[0])


@pytest.mark.parametrize("keep", ["memory", "device"])
def test_squares_kept_on_a_device_are_those_of_the_files(kind, tmp_path, keep):
    images = {"train": [png(n, (16, 16)) for n in range(12)]}
    images["val"] = [png(n, (16, 16)) for n in range(50, 56)]
    config = write_kind(kind, tmp_path / "data", images, flip=True)
    kept = open_dataset(dataclasses.replace(config, keep=keep), torch.device("cpu"))
    files, indices = open_dataset(config), np.array([3, 0, 3, 11])
    assert torch.equal(kept.images("train", indices), files.images("train", indices))
    for seed in range(4):
        drawn = [d.augmented("train", indices, np.random.default_rng(seed)) for d in (kept, files)]
        assert torch.equal(*drawn)


def test_images_that_need_a_crop_are_not_kept_on_a_device(config):
    dataset = open_dataset(dataclasses.replace(config, keep="device"), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"needs images of 16x16 .* several sizes; use `keep: mem"):
        dataset.images("train", np.arange(2))


def test_a_square_then_others_are_all_kept(tmp_path, kind):
    images = {"train": [png(0, (16, 16)), *photographs(11, 1)], "val": photographs(6, 30)}
    config = write_kind(kind, tmp_path / "data", images)
    files, kept = (
        open_dataset(dataclasses.replace(config, keep=keep)).images("train", np.arange(12))
        for keep in ("files", "memory")
    )
    assert torch.equal(files, kept)


def test_stages_of_one_process_share_what_is_kept_until_a_file_changes(kind, config, tmp_path):
    config = dataclasses.replace(config, keep="memory")
    for _ in range(3):
        open_dataset(config).images("train", np.arange(2))
    names = list(_kept)
    assert len(names) <= MOST_SPLITS
    before = open_dataset(config).images("train", np.arange(12))
    replace_image(kind, tmp_path / "data", "train", 4, png(777))
    after = open_dataset(config).images("train", np.arange(12))
    assert [int(n) for n in (before != after).any(dim=(1, 2, 3)).nonzero()] == [4]


def test_pixels_beyond_the_limit_are_refused_with_their_size(config):
    small = dataclasses.replace(config, keep="memory", memory_limit_gib=1e-6)
    with pytest.raises(ValueError, match=r"memory_limit_gib.*take about .* GiB; raise it"):
        open_dataset(small).images("train", np.arange(2))


def test_the_content_fingerprint_sees_one_changed_pixel_in_files_of_equal_size(
    kind, config, tmp_path
):
    before = open_dataset(config)
    told = before.fingerprint(), before.content_fingerprint()
    assert open_dataset(config).content_fingerprint() == told[1]
    # A stored, not deflated, image keeps its size.
    replace_image(kind, tmp_path / "data", "val", 2, png(603))
    after = open_dataset(config)
    assert after.content_fingerprint() != told[1]
    assert after.images("eval", np.arange(6)).shape == (6, 3, 16, 16)


def test_contents_are_read_once_while_no_file_changes(config, monkeypatch):
    first = open_dataset(config).content_fingerprint()

    def read(*_: object) -> None:
        raise AssertionError("an image was read again")

    again = open_dataset(config)
    for split in ("train", "eval"):
        monkeypatch.setattr(type(again._splits[split]), "read", read)  # type: ignore[attr-defined]
    assert again.content_fingerprint() == first


def test_contents_are_read_again_where_the_cache_cannot_be_written(config, monkeypatch, tmp_path):
    first = open_dataset(config).content_fingerprint()
    (tmp_path / "file").touch()
    monkeypatch.setenv("FRONTIER_CACHE", str(tmp_path / "file" / "cache"))
    assert open_dataset(config).content_fingerprint() == first


def test_stages_record_both_fingerprints_and_no_bad_images(config):
    dataset = open_dataset(config)
    assert describe_content(dataset, "train") == {
        "data_fingerprint": dataset.fingerprint(),
        "data_content": dataset.content_fingerprint(),
    }


def test_options_that_came_later_move_no_key_at_their_default(config):
    blocks = dataclasses.replace(config, shuffle=BlockShuffle())
    strict = dataclasses.replace(config, small_images="bad")
    keys = {content_hash(each) for each in (config, blocks, strict)}
    assert len(keys) == 3
    assert content_hash(dataclasses.replace(config, bad_images_limit=9)) == content_hash(config)


def test_a_sweep_file_names_every_kind(kind):
    tree = {
        "kind": kind,
        "name": "animals",
        "root": "somewhere",
        "num_classes": 3,
        "num_train_images": 12,
        "num_eval_images": 6,
        "shuffle": {"kind": "blocks", "block_images": 10, "window_images": 100},
        "bad_images_limit": 5,
        "keep": "device",
        "decode_workers": 4,
    }
    read = validate(DataConfig, tree)
    assert read.kind == kind
    assert read.shuffle == BlockShuffle(block_images=10, window_images=100)
    with pytest.raises(ConfigError, match="bad_images"):
        validate(DataConfig, {**tree, "bad_images": 5})


@pytest.mark.parametrize(
    "bad", [{"bad_images_limit": -1}, {"decode_workers": 0}, {"memory_limit_gib": 0.0}]
)
def test_a_setting_that_cannot_be_is_refused(config, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataclasses.replace(config, **bad)


def test_images_without_labels_are_of_one_class(tmp_path, kind):
    labelled = write_kind(kind, tmp_path / "labelled")
    changes = {"labels": "none", "num_classes": 1, "class_names": ()}
    if kind == "image_folder":
        del changes["class_names"]
        images = {name: photographs(n, 100 * n) for name, n in SPLITS.items()}
        for split, data in images.items():
            (tmp_path / "flat" / split).mkdir(parents=True)
            for number, content in enumerate(data):
                (tmp_path / "flat" / split / f"{number:04d}.png").write_bytes(content)
        changes["root"] = str(tmp_path / "flat")
        with pytest.raises(ValueError, match=r"which holds no folders; .*`labels: none`"):
            open_dataset(dataclasses.replace(labelled, root=changes["root"]))
    config = dataclasses.replace(labelled, **changes)
    dataset, theirs = open_dataset(config), open_dataset(labelled)
    assert dataset.labels("train").tolist() == [0] * 12
    assert len(dataset.class_names) == 1
    order = np.arange(12)
    assert torch.equal(dataset.images("train", order), theirs.images("train", order))
    with pytest.raises(ValueError, match="`num_classes` must be 1"):
        dataclasses.replace(config, num_classes=3)


def test_a_number_that_is_wrong_names_the_files_that_do_not_count(tmp_path):
    config = write_kind("image_folder", tmp_path / "data")
    image = sorted((tmp_path / "data" / "train").rglob("*.png"))[0]
    image.rename(image.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"where '.*\.heic' do not count.* 11 were found"):
        open_dataset(config)


def test_hidden_folders_are_no_classes(tmp_path):
    config = write_kind("image_folder", tmp_path / "data")
    (tmp_path / "data" / "train" / ".ipynb_checkpoints").mkdir()
    assert open_dataset(config).class_names == ("ant", "bird", "cat")


def test_numbered_class_folders_in_the_order_of_texts_are_said(tmp_path):
    write_kind("image_folder", tmp_path / "data")
    for split in SPLITS:
        for name, number in (("ant", "2"), ("bird", "10"), ("cat", "11")):
            (tmp_path / "data" / split / name).rename(tmp_path / "data" / split / number)
    config = write_kind("image_folder", tmp_path / "other")
    with pytest.warns(UserWarning, match=r"order of their names as text \(10, 11, 2, "):
        dataset = open_dataset(dataclasses.replace(config, root=str(tmp_path / "data")))
    assert dataset.class_names == ("10", "11", "2")
