"""Photograph-like images made on the fly, as Parquet files and as class folders."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.data import ImageFolderConfig, ParquetConfig
from harness.data.pipelines import Workers

DISTINCT = 64
"""Different images; more rows repeat them, which decodes no faster."""
CLASSES = 10
QUALITY = 90
"""Of the JPEG files."""
LARGEST = (500, 375)
"""Width and height behind crops of 256 pixels: ImageNet's usual size. Smaller crops scale it."""


@lru_cache(maxsize=4)
def encoded_images(resolution: int) -> tuple[bytes, ...]:
    """JPEG files whose spectrum falls towards fine detail, somewhat larger than the crop."""
    random = np.random.default_rng(0)
    scale = max(1.0, 256 / resolution)
    width, height = (max(resolution, round(side / scale)) for side in LARGEST)
    return tuple(_encoded(random, width, height) for _ in range(DISTINCT))


def _encoded(random: np.random.Generator, width: int, height: int) -> bytes:
    pixels = np.zeros((height, width, 3))
    for cells in (4, 16, 64):
        small = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        large = small.resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(large, dtype=np.float64) / cells
    pixels *= 255 / pixels.max()
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def write_parquet(
    folder: Path,
    resolution: int,
    num_images: int,
    num_classes: int,
    decode_workers: Workers = "auto",
) -> ParquetConfig:
    """A Parquet data set of generated images, decoded whenever they are asked for."""
    images = encoded_images(resolution)
    for split, count in (("train", num_images), ("test", max(100, num_images // 10))):
        _write_rows(folder / f"{split}-00000.parquet", images, count, num_classes)
    return ParquetConfig(
        name="generated",
        root=str(folder),
        resolution=resolution,
        num_classes=num_classes,
        num_train_images=num_images,
        num_eval_images=max(100, num_images // 10),
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        decode_workers=decode_workers,
    )


def _write_rows(path: Path, images: Sequence[bytes], count: int, num_classes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": images[i % len(images)], "path": f"{i}.jpg"} for i in range(count)]
    labels = [i % num_classes for i in range(count)]
    pq.write_table(pa.table({"image": rows, "label": labels}), path, row_group_size=256)


def write_folder(
    folder: Path, resolution: int, num_images: int, decode_workers: Workers = "auto"
) -> ImageFolderConfig:
    """The same images in class folders."""
    images = encoded_images(resolution)
    counts = {"train": num_images, "val": CLASSES}
    for split, count in counts.items():
        for number in range(count):
            place = folder / split / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:06d}.jpg").write_bytes(images[number % len(images)])
    return ImageFolderConfig(
        name="generated folder",
        root=str(folder),
        resolution=resolution,
        num_classes=CLASSES,
        num_train_images=num_images,
        num_eval_images=counts["val"],
        decode_workers=decode_workers,
    )
