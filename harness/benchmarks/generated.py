"""Data that the benchmark reads: photograph-like images made on the fly, and latents repeated."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file

from harness.data import ImageFolderConfig, ParquetConfig
from harness.data.pipelines import Workers
from harness.stages.latents import SHARD_IMAGES
from harness.storage.artifacts import Artifact, Store, write_tensors

DISTINCT = 64
"""Different images; more rows repeat them, which decodes no faster."""
CLASSES = 10
QUALITY = 90
"""Of the JPEG files."""
LARGEST = (500, 375)
"""Width and height behind crops of 256 pixels: ImageNet's usual size. Smaller crops scale it."""


@lru_cache(maxsize=4)
def encoded_images(resolution: int) -> tuple[bytes, ...]:
    """Makes JPEG files whose spectrum falls towards fine detail, somewhat larger than the crop."""
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
    """Writes a Parquet data set of generated images, decoded whenever they are asked for."""
    images = encoded_images(resolution)
    num_eval_images = max(100, num_images // 10)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num_images), ("test", num_eval_images)):
        rows = [{"bytes": images[i % DISTINCT], "path": f"{i}.jpg"} for i in range(count)]
        table = pa.table({"image": rows, "label": [i % num_classes for i in range(count)]})
        pq.write_table(table, folder / f"{split}-00000.parquet", row_group_size=256)
    return ParquetConfig(
        name="generated",
        root=str(folder),
        resolution=resolution,
        num_classes=num_classes,
        num_train_images=num_images,
        num_eval_images=num_eval_images,
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        decode_workers=decode_workers,
    )


def write_folder(
    folder: Path, resolution: int, num_images: int, decode_workers: Workers = "auto"
) -> ImageFolderConfig:
    """Writes the same images in class folders."""
    images = encoded_images(resolution)
    for split, count in (("train", num_images), ("val", CLASSES)):
        for number in range(count):
            place = folder / split / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:06d}.jpg").write_bytes(images[number % DISTINCT])
    return ImageFolderConfig(
        name="generated folder",
        root=str(folder),
        resolution=resolution,
        num_classes=CLASSES,
        num_train_images=num_images,
        num_eval_images=CLASSES,
        decode_workers=decode_workers,
    )


def enlarged(store: Store, artifact: Artifact, num_latents: int) -> Artifact:
    """Repeats the latents of an artifact to `num_latents`, in shards of the published size, since
    waits for a few that are read again say little. One of as many is returned as it is."""
    if artifact.result["num_images"] >= num_latents:
        return artifact
    kind, key = artifact.path.parent.name, f"{artifact.path.name}-{num_latents}"
    if (found := store.find(kind, key)) is not None:
        return found
    first = load_file(artifact.file("latents_shard00000.safetensors"))
    places = torch.arange(num_latents) % len(first["labels"])
    with store.work(kind, key) as work:
        for number, own in enumerate(places.split(SHARD_IMAGES)):
            path = work.payload / f"latents_shard{number:05d}.safetensors"
            write_tensors(path, {name: tensor[own] for name, tensor in first.items()})
        name = "statistics.safetensors"
        write_tensors(work.payload / name, artifact.tensors(name))
        counts = first["labels"][places].bincount(minlength=len(artifact.result["label_counts"]))
        changed = {"num_images": num_latents, "label_counts": counts.tolist()}
        # What is told of the files is true of the few only.
        own_facts = ("files", "history", "record_sha256")
        record: dict[str, Any] = {k: v for k, v in artifact.record.items() if k not in own_facts}
        return work.publish({**record, "result": {**artifact.result, **changed}})


def size_of(artifact: Artifact) -> str:
    """Tells the size of an artifact of latents in words."""
    files = artifact.record["files"]
    shards = [files[name]["bytes"] for name in files if name.startswith("latents_shard")]
    number = "1 shard" if len(shards) == 1 else f"{len(shards)} shards"
    gib = sum(shards) / 2**30
    return f"{artifact.result['num_images']:,} latents, {gib:.2g} GiB in {number}"
