"""What holds for every kind of data set."""

import dataclasses
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from harness.data import (
    DigitsConfig,
    ImageDataset,
    ImageFolderConfig,
    ParquetConfig,
    open_dataset,
)
from harness.data.stream import BatchStream

SPLITS = ("train", "eval")


def _open_digits(_: Path) -> ImageDataset:
    return open_dataset(DigitsConfig())


def _open_image_folder(root: Path) -> ImageDataset:
    random = np.random.default_rng(0)
    for folder, count in (("train", 4), ("val", 2)):
        for name in ("bird", "ant", "cat"):
            (root / folder / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, size=(20 + number, 26, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / name / f"{number}.png")
    return open_dataset(
        ImageFolderConfig(
            name="animals",
            root=str(root),
            resolution=16,
            flip=True,
            num_classes=3,
            num_train_images=12,
            num_eval_images=6,
        )
    )


def _write_parquet(path: Path, count: int) -> None:
    random = np.random.default_rng(count)
    images = []
    for number in range(count):
        file = io.BytesIO()
        pixels = random.integers(0, 256, size=(20 + number % 3, 26, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "png")
        images.append({"bytes": file.getvalue(), "path": f"{number}.png"})
    features = {"label": {"names": ["ant", "bird", "cat"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": np.arange(count) % 3})
    text = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path, row_group_size=5)


def _open_parquet(root: Path, **options: str) -> ImageDataset:
    root.mkdir()
    _write_parquet(root / "train-00000-of-00002.parquet", 7)
    _write_parquet(root / "train-00001-of-00002.parquet", 5)
    _write_parquet(root / "test-00000-of-00001.parquet", 6)
    return open_dataset(
        ParquetConfig(
            name="animals",
            root=str(root),
            resolution=16,
            flip=True,
            num_classes=3,
            num_train_images=12,
            num_eval_images=6,
            **options,  # type: ignore[arg-type]
        )
    )


def _open_parquet_in_memory(root: Path) -> ImageDataset:
    return _open_parquet(root, keep="memory")


OPENERS = {
    "digits": _open_digits,
    "image_folder": _open_image_folder,
    "parquet": _open_parquet,
    "parquet_in_memory": _open_parquet_in_memory,
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
