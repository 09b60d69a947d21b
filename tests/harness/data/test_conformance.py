"""What holds for every kind of data set."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data import DigitsConfig, ImageDataset, open_dataset
from harness.data.prefetch import Ahead
from harness.data.shuffle import BlockShuffle
from harness.data.stream import BatchStream

from .photographs.photograph_files import KINDS, write_kind

SPLITS = ("train", "eval")


def _open_digits(_: Path) -> ImageDataset:
    return open_dataset(DigitsConfig())


def _open_photographs(kind: str, root: Path, **options: Any) -> ImageDataset:
    return open_dataset(write_kind(kind, root, flip=True, **options))


OPENERS: dict[str, Callable[[Path], ImageDataset]] = {
    "digits": _open_digits,
    **{kind: partial(_open_photographs, kind) for kind in KINDS},
    **{f"{kind} in memory": partial(_open_photographs, kind, keep="memory") for kind in KINDS},
    "webdataset without bad images": partial(
        _open_photographs,
        "webdataset",
        bad_images_limit=1,
        shuffle=BlockShuffle(block_images=2, window_images=6),
    ),
}


@pytest.fixture(params=list(OPENERS))
def open_kind(request: pytest.FixtureRequest) -> Callable[[Path], ImageDataset]:
    return OPENERS[request.param]


@pytest.fixture
def dataset(open_kind: Callable[[Path], ImageDataset], tmp_path: Path) -> ImageDataset:
    return open_kind(tmp_path / "data")


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_square_uint8_rgb_in_the_order_asked_for(dataset, split):
    images = dataset.images(split, np.array([3, 0, 3]))
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, dataset.resolution, dataset.resolution)
    assert images.is_contiguous()
    assert torch.equal(images[0], images[2])
    assert torch.equal(images[1:2], dataset.images(split, np.array([0])))


@pytest.mark.parametrize("split", SPLITS)
def test_labels_name_classes_and_cover_all_of_them(dataset, split):
    labels = dataset.labels(split)
    assert labels.dtype == np.int64
    assert len(labels) == dataset.num_images(split)
    assert set(labels) == set(range(dataset.num_classes))
    assert len(dataset.class_names) == dataset.num_classes
    assert not labels.flags.writeable


@pytest.mark.parametrize("pipeline", ["opencv_crop", "adm_center", "resize_center"])
def test_every_published_pipeline_is_understood_and_repeats(dataset, pipeline):
    first, again = (dataset.images("eval", np.arange(4), pipeline) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("indices", [[-1], [10**6]])
def test_an_index_outside_the_split_is_refused(dataset, indices):
    with pytest.raises(ValueError, match="use positions within the split"):
        dataset.images("eval", np.array(indices))


def test_no_indices_give_no_images(dataset):
    side = dataset.resolution
    assert dataset.images("train", np.arange(0)).shape == (0, 3, side, side)


def test_augmentation_follows_its_generator_alone(dataset):
    indices = np.arange(8)
    first, again, other = (
        dataset.augmented("train", indices, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_fingerprint_is_the_same_for_the_same_content(open_kind, tmp_path):
    first, again = open_kind(tmp_path / "one"), open_kind(tmp_path / "two")
    assert first.fingerprint() == again.fingerprint()
    assert len(first.fingerprint()) == 64


@pytest.mark.parametrize("augment", [False, True])
def test_a_resumed_stream_gives_the_batches_of_the_uninterrupted_one(open_kind, tmp_path, augment):
    def stream(dataset: ImageDataset) -> BatchStream:
        return BatchStream(dataset=dataset, split="train", batch_size=5, seed=3, augment=augment)

    whole = stream(open_kind(tmp_path / "one"))
    straight = [whole.batch(step) for step in range(6)]
    resumed = stream(open_kind(tmp_path / "two"))
    for step in (5, 3, 4):
        images, labels = resumed.batch(step)
        assert torch.equal(images, straight[step][0])
        assert torch.equal(labels, straight[step][1])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("augment", [False, True])
def test_the_parts_of_all_ranks_are_the_batch(dataset, num_ranks, augment):
    whole = BatchStream(dataset=dataset, split="train", batch_size=7, seed=1, augment=augment)
    bounds = [7 * rank // num_ranks for rank in range(num_ranks + 1)]
    parts = [
        dataclasses.replace(whole, part=slice(first, last)).batch(2)
        for first, last in itertools.pairwise(bounds)
    ]
    images, labels = whole.batch(2)
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_the_content_fingerprint_is_the_same_for_the_same_content(open_kind, tmp_path):
    first, again = open_kind(tmp_path / "one"), open_kind(tmp_path / "two")
    assert first.content_fingerprint() == again.content_fingerprint()
    assert len(first.content_fingerprint()) == 64


@pytest.mark.parametrize("depth", [0, 3])
def test_batches_ahead_are_the_batches_of_the_stream(dataset, depth):
    stream = BatchStream(dataset=dataset, split="train", batch_size=5, seed=3, augment=True)
    with Ahead(stream.batch, range(2, 8), depth=depth) as batches:
        for step, (images, labels) in zip(range(2, 8), batches, strict=True):
            assert torch.equal(images, stream.batch(step)[0])
            assert torch.equal(labels, stream.batch(step)[1])


def test_nothing_is_left_out_where_every_image_is_good(dataset):
    assert dataset.left_out("train") == dataset.left_out("eval") == ()
