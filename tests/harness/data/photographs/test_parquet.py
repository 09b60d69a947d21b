"""Parquet files: layout, declared counts, memory, and what cannot be read."""

import dataclasses
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from harness.data import ParquetConfig, open_dataset
from harness.data.pipelines import square_pixels
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError, validate

SHARED = Path(os.environ.get("FRONTIER_SHARED", Path(__file__).parents[4].parent / "shared"))
NAMES = ("ant", "bee")
CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _png(seed: int, size: tuple[int, int] = (9, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def _write(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    names: Sequence[str] | None = NAMES,
    column: str = "image",
) -> None:
    cells = pa.array([{"bytes": data, "path": None} for data in images], CELL)
    table = pa.table({column: cells, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path, row_group_size=2)


@pytest.fixture
def config(tmp_path: Path) -> ParquetConfig:
    _write(tmp_path / "train-00000-of-00002.parquet", [_png(n) for n in range(5)], [0, 1, 0, 1, 0])
    _write(tmp_path / "train-00001-of-00002.parquet", [_png(n) for n in range(5, 8)], [1, 1, 0])
    _write(tmp_path / "test-00000-of-00001.parquet", [_png(n) for n in (8, 9)], [0, 1])
    return ParquetConfig(
        name="insects",
        root=str(tmp_path),
        resolution=8,
        num_classes=2,
        num_train_images=8,
        num_eval_images=2,
    )


@pytest.fixture
def rewrite(config: ParquetConfig, tmp_path: Path) -> Callable[..., None]:
    """Replaces the evaluation file."""

    def write_eval(
        images: Sequence[bytes | None] | None = None,
        labels: Sequence[int | None] = (0, 1),
        **options: Any,
    ) -> None:
        path = tmp_path / "test-00000-of-00001.parquet"
        _write(path, [_png(8), _png(9)] if images is None else images, labels, **options)

    return write_eval


def test_rows_of_all_files_follow_each_other(config):
    dataset = open_dataset(config)
    assert dataset.class_names == NAMES
    assert dataset.labels("train").tolist() == [0, 1, 0, 1, 0, 1, 1, 0]
    images = dataset.images("train", np.array([7, 0, 5, 4]))
    for image, seed in zip(images, (7, 0, 5, 4), strict=True):
        source = Image.open(io.BytesIO(_png(seed)))
        expected = square_pixels(source.convert("RGB"), 8, "opencv_crop")
        assert torch.equal(image, torch.from_numpy(expected.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("options", [{"keep": "memory"}, {"row_cache_gib": 1e-9}])
@pytest.mark.parametrize("crop", ["opencv_crop", "adm_center", "resize_center"])
def test_what_is_kept_in_memory_changes_no_pixel(config, options, crop):
    plain = open_dataset(dataclasses.replace(config, crop=crop, flip=True))
    other = open_dataset(dataclasses.replace(config, crop=crop, flip=True, **options))
    order = np.array([3, 0, 7, 7, 1])
    assert torch.equal(plain.images("train", order), other.images("train", order))
    first, second = (d.augmented("train", order, np.random.default_rng(1)) for d in (plain, other))
    assert torch.equal(first, second)
    assert content_hash(dataclasses.replace(config, **options)) == content_hash(config)


def test_pixels_beyond_the_limit_are_refused_with_their_size(config):
    small = dataclasses.replace(config, keep="memory", memory_limit_gib=1e-7)
    with pytest.raises(ValueError, match=r"memory_limit_gib.*take about .* GiB; raise it"):
        open_dataset(small).images("train", np.arange(2))


def test_a_crop_of_images_that_have_the_resolution_changes_nothing_but_mirrors(rewrite, config):
    rewrite([_png(8, (8, 8)), _png(9, (8, 8))])
    dataset = open_dataset(dataclasses.replace(config, flip=True))
    original = dataset.images("eval", np.array([0]))[0]
    indices = np.zeros(32, dtype=np.int64)
    for image in dataset.augmented("eval", indices, np.random.default_rng(0)):
        assert torch.equal(image, original) or torch.equal(image, original.flip(2))
    for pipeline in ("adm_center", "resize_center"):
        assert torch.equal(dataset.images("eval", indices[:1], pipeline)[0], original)


def test_files_can_be_listed_and_the_image_column_may_be_called_img(rewrite, config, tmp_path):
    rewrite(column="img")
    (tmp_path / "train-00001-of-00002.parquet").rename(tmp_path / "more.parquet")
    files = ("more.parquet", "train-00000-of-00002.parquet")
    dataset = open_dataset(dataclasses.replace(config, train_files=files))
    assert dataset.labels("train").tolist() == [1, 1, 0, 0, 1, 0, 1, 0]
    assert dataset.images("eval", np.arange(2)).shape == (2, 3, 8, 8)


def test_absent_files_are_named_before_anything_is_opened(config, tmp_path):
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    (item,) = config.missing()
    assert item.location == str(tmp_path / "test-*.parquet")
    with pytest.raises(ValueError, match=r"set `data\.root` or `data\.eval_files`"):
        open_dataset(config)


def test_an_unreadable_image_is_named_by_file_and_row(rewrite, config):
    rewrite([_png(8), _png(9)[:-60]])
    with pytest.raises(ValueError, match=r"row 1 of '.*test-00000-of-00001.parquet' is not"):
        open_dataset(config).images("eval", np.arange(2))


def test_a_row_without_bytes_is_named(rewrite, config):
    rewrite([None, _png(9)])
    with pytest.raises(ValueError, match=r"row 0 of .*none\); write the images into the file"):
        open_dataset(config).images("eval", np.arange(2))


@pytest.mark.parametrize("labels", [[0, 2], [1, -1], [0, None]])
def test_labels_out_of_range_are_refused(rewrite, config, labels):
    rewrite(labels=labels)
    with pytest.raises(ValueError, match=r"0\.\.1, but 1 of .*the first in row 1"):
        open_dataset(config)


def test_a_file_that_the_others_number_is_named_before_anything_is_opened(config, tmp_path):
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    fewer = dataclasses.replace(config, num_train_images=5)
    for declared in (config, fewer):
        (item,) = declared.missing()
        assert item.location == str(tmp_path / "train-00001-of-00002.parquet")
        with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet', but nothing is"):
            open_dataset(declared)
    listed = dataclasses.replace(fewer, train_files=("train-00000-of-00002.parquet",))
    assert open_dataset(listed).num_images("train") == 5


def test_fewer_images_than_declared_are_not_declared_away(config):
    with pytest.raises(ValueError, match=r"must hold 9 images .* but 8 .*; put back what is"):
        open_dataset(dataclasses.replace(config, num_train_images=9))
    with pytest.raises(ValueError, match=r"must hold 7 images .* remove .* or declare 8"):
        open_dataset(dataclasses.replace(config, num_train_images=7))


@pytest.mark.parametrize("room", [0.5, 1e-9])
def test_a_file_written_anew_after_opening_is_not_mixed_with_its_old_labels(
    rewrite, config, tmp_path, room
):
    dataset = open_dataset(dataclasses.replace(config, row_cache_gib=room))
    dataset.images("eval", np.arange(2))
    rewrite([_png(9), _png(8)], labels=(1, 0))
    os.utime(tmp_path / "test-00000-of-00001.parquet", ns=(1, 1))
    for use in (
        lambda: dataset.images("eval", np.arange(2)),
        dataset.fingerprint,
        dataset.content_fingerprint,
    ):
        with pytest.raises(ValueError, match=r"test-0.* must stay as it is .* than when it was"):
            use()
    assert dataset.images("train", np.arange(8)).shape == (8, 3, 8, 8)


def test_a_file_that_changes_while_it_is_read_is_named(rewrite, config, monkeypatch):
    dataset = open_dataset(config)
    read = pq.ParquetFile.read_row_group

    def change(file: pq.ParquetFile, *arguments: Any, **options: Any) -> pa.Table:
        table = read(file, *arguments, **options)
        rewrite([_png(8), _png(8), _png(9)], labels=(0, 0, 1))
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", change)
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet' must stay as it is"):
        dataset.images("eval", np.arange(2))


def test_a_file_that_vanishes_is_named(config, tmp_path):
    dataset = open_dataset(config)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"test-0.*parquet' must stay readable.*; put the file"):
        dataset.images("eval", np.arange(2))


def test_a_link_to_nothing_is_named(config, tmp_path):
    path = tmp_path / "test-00000-of-00001.parquet"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet' must stay readable"):
        open_dataset(config)


def test_class_names_come_from_the_file_or_else_from_the_configuration(rewrite, config, tmp_path):
    rewrite(names=None)
    with pytest.raises(ValueError, match="list them as `class_names`"):
        open_dataset(config)
    assert open_dataset(dataclasses.replace(config, class_names=NAMES)).class_names == NAMES
    with pytest.raises(ValueError, match=r"\[ant, bee\], but are \[bee, ant\]"):
        open_dataset(dataclasses.replace(config, class_names=NAMES[::-1]))


def test_files_of_other_classes_are_refused(rewrite, config):
    rewrite(names=("bee", "ant"))
    with pytest.raises(ValueError, match="same classes in the same order"):
        open_dataset(config)
    rewrite(names=("ant", "bee", "cat"))
    with pytest.raises(ValueError, match=r"must hold 2 class names .* 3 were found"):
        open_dataset(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "photo"}, r"its columns are image, label; set `image_column`"),
        ({"image_column": "label"}, r"must hold encoded images.*int64"),
        ({"label_column": "image"}, r"whole numbers, but holds struct"),
        ({"label_column": "fine"}, r"nothing of that name"),
    ],
)
def test_columns_that_are_not_there_or_of_another_type_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(dataclasses.replace(config, **options))


def test_a_file_that_is_no_parquet_is_named(config, tmp_path):
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet' must be a Parquet file"):
        open_dataset(config)


def test_a_damaged_row_group_is_named(config, tmp_path):
    path = tmp_path / "test-00000-of-00001.parquet"
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    dataset = open_dataset(config)
    with pytest.raises(ValueError, match=r"row group 0 is not|row 0 of"):
        dataset.images("eval", np.arange(2))


def test_damaged_labels_are_named(config, tmp_path):
    path = tmp_path / "train-00001-of-00002.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    assert column.path_in_schema == "label"
    content, start = bytearray(path.read_bytes()), column.dictionary_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-00001-of-00002.parquet' .* 'label' is not"):
        open_dataset(config)


def test_only_recent_row_groups_stay_in_memory(tmp_path, config):
    _write(tmp_path / "big-0.parquet", [bytes(50_000) for _ in range(40)], [0] * 40)
    files = {"train_files": ("big-0.parquet",), "num_train_images": 40}
    dataset = open_dataset(dataclasses.replace(config, **files, row_cache_gib=2e5 / 2**30))
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="row 0 of"):
        dataset.images("train", np.arange(40))
    assert pa.total_allocated_bytes() - before < 500_000


def test_the_fingerprint_sees_rows_and_contents_but_no_path(rewrite, config, tmp_path):
    before = open_dataset(config).fingerprint()
    for number, name in enumerate("az"):
        old = tmp_path / f"train-0000{number}-of-00002.parquet"
        old.rename(tmp_path / f"train-{name}.parquet")
    assert open_dataset(config).fingerprint() == before
    rewrite([_png(8), _png(10, (40, 40))])
    assert open_dataset(config).fingerprint() != before


@pytest.mark.parametrize(
    "bad",
    [
        {"num_classes": 0},
        {"root": ""},
        {"eval_split": "train"},
        {"memory_limit_gib": 0.0},
        {"class_names": ("one",)},
        {"eval_files": ("train-*.parquet",)},
    ],
)
def test_a_configuration_that_cannot_be_right_is_refused(config, bad):
    with pytest.raises(ValueError, match=next(iter(bad)).removesuffix("_files")):
        dataclasses.replace(config, **bad)


def test_a_sweep_file_names_it_and_wrong_keys_are_told(tmp_path):
    tree = {
        "kind": "parquet",
        "name": "cifar10",
        "root": str(tmp_path),
        "train_files": ["train-*.parquet"],
        "num_classes": 10,
        "num_train_images": 50_000,
        "num_eval_images": 10_000,
        "keep": "memory",
    }
    assert validate(ParquetConfig, tree).train_files == ("train-*.parquet",)
    with pytest.raises(ConfigError, match="keep"):
        validate(ParquetConfig, {**tree, "keep": "disk"})


def test_cifar10_is_read_as_it_lies_there():
    root = SHARED / "data" / "cifar10"
    if not root.is_dir():
        pytest.skip(f"CIFAR-10 is not at {root}")
    config = ParquetConfig(
        name="cifar10",
        root=str(root),
        resolution=32,
        num_classes=10,
        num_train_images=50_000,
        num_eval_images=10_000,
    )
    dataset = open_dataset(config)
    assert dataset.class_names[0] == "airplane"
    assert dataset.class_names[9] == "truck"
    assert np.bincount(dataset.labels("train")).tolist() == [5000] * 10
    images = dataset.images("eval", np.arange(100))
    assert images.shape == (100, 3, 32, 32)
    assert 60 < images.float().mean() < 180


@pytest.mark.parametrize("encode", [lambda a: a, lambda a: a.dictionary_encode()])
def test_labels_may_be_the_names_of_classes(config, tmp_path, encode):
    path = tmp_path / "train-00001-of-00002.parquet"
    cells = pa.array([{"bytes": _png(n), "path": None} for n in range(5, 8)], CELL)
    named = encode(pa.array(["bee", "ant", "bee"]))
    for file in (path, tmp_path / "train-00000-of-00002.parquet"):
        pq.write_table(pa.table({"image": cells, "label": named}), file)
    declared = dataclasses.replace(config, num_train_images=6)
    (item,) = declared.missing()
    assert "list the names of the classes as `class_names`" in str(item)
    split = dataclasses.replace(declared, class_names=NAMES).open_split("train")
    assert split.labels.tolist() == [1, 0, 1] * 2
    other = dataclasses.replace(declared, class_names=("ant", "fly"))
    assert "2 of " in str(other.missing()[0])


def test_a_row_group_of_other_rows_than_the_footer_says_is_named(config, monkeypatch):
    dataset, read = open_dataset(config), pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *a, **named: read(*a, **named).slice(0, 1)
    )
    with pytest.raises(ValueError, match=r"row group 0 of .*parquet' must have the \d+ rows"):
        dataset.images("train", np.arange(2))
