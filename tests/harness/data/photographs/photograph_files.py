"""The same photographs in every kind of file, for the tests of data sets."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.data import DatasetConfig, ImageFolderConfig, ParquetConfig, WebDatasetConfig

NAMES = ("ant", "bird", "cat")
SPLITS = {"train": 12, "val": 6}
KINDS = ("parquet", "image_folder", "webdataset")


def png(seed: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of noise, 26 pixels wide and 20 to 22 high unless a size (height, width) is given."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, size=(*(size or (20 + seed % 3, 26)), 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "png")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photographs(count: int, first_seed: int) -> list[bytes]:
    return [png(first_seed + number) for number in range(count)]


def labels_of(count: int) -> list[int]:
    """As in class folders: all of the first class, then all of the next."""
    return [3 * number // count for number in range(count)]


def write_parquet(
    path: Path, images: Sequence[bytes | None], labels: Sequence[int], group: int = 2
) -> None:
    cells = [{"bytes": data, "path": None} for data in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array(labels, pa.int64())})
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}}
    text = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path, row_group_size=group)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))


def samples(
    images: Sequence[bytes], labels: Sequence[int], first: int = 0
) -> list[tuple[str, bytes]]:
    return [
        member
        for number, (data, label) in enumerate(zip(images, labels, strict=True), first)
        for member in ((f"{number:06d}.png", data), (f"{number:06d}.cls", str(label).encode()))
    ]


def write_kind(
    kind: str, root: Path, images: Mapping[str, Sequence[bytes]] | None = None, **options: Any
) -> DatasetConfig:
    """Write both splits as one kind of files and declare them."""
    root.mkdir(parents=True, exist_ok=True)
    images = images or {name: photographs(n, 100 * n) for name, n in SPLITS.items()}
    for split, data in images.items():
        _WRITERS[kind](root, split, data, labels_of(len(data)))
    declared: dict[str, Any] = {
        "name": "animals",
        "root": str(root),
        "eval_split": "val",
        "resolution": 16,
        "num_classes": 3,
        "num_train_images": len(images["train"]),
        "num_eval_images": len(images["val"]),
        **options,
    }
    if kind == "parquet":
        return ParquetConfig(**declared)
    if kind == "image_folder":
        return ImageFolderConfig(**declared)
    return WebDatasetConfig(class_names=NAMES, **declared)


def replace_image(kind: str, root: Path, split: str, position: int, data: bytes | None) -> None:
    """Write a split again with another image at one position."""
    images: list[Any] = photographs(SPLITS[split], 100 * SPLITS[split])
    images[position] = data
    _WRITERS[kind](root, split, images, labels_of(len(images)))


def _parquet_split(root: Path, split: str, images: Sequence[bytes], labels: list[int]) -> None:
    half = len(images) // 2
    write_parquet(root / f"{split}-00000-of-00002.parquet", images[:half], labels[:half])
    write_parquet(root / f"{split}-00001-of-00002.parquet", images[half:], labels[half:])


def _folder_split(root: Path, split: str, images: Sequence[bytes], labels: list[int]) -> None:
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / split / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.png").write_bytes(data)


def _tar_split(root: Path, split: str, images: Sequence[bytes], labels: list[int]) -> None:
    half = len(images) // 2
    write_tar(root / f"{split}-0000.tar", samples(images[:half], labels[:half]))
    write_tar(root / f"{split}-0001.tar", samples(images[half:], labels[half:], half))


_WRITERS = {"parquet": _parquet_split, "image_folder": _folder_split, "webdataset": _tar_split}
