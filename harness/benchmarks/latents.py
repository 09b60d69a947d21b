"""Latents in number: a generator's waiting for data means little where a few are read again."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.stages.latents import SHARD_IMAGES
from harness.storage.artifacts import Artifact, Store, write_tensors


def enlarged(store: Store, artifact: Artifact, num_latents: int) -> Artifact:
    """An artifact of latents with the same ones over and over, in shards of the published size.

    Args:
        store: Where the new artifact goes.
        artifact: Of a latents stage; it is what is returned where it has as many.
        num_latents: Images to hold.
    """
    if artifact.result["num_images"] >= num_latents:
        return artifact
    kind, key = artifact.path.parent.name, f"{artifact.path.name}-{num_latents}"
    if (found := store.find(kind, key)) is not None:
        return found
    first = load_file(artifact.file("latents_shard00000.safetensors"))
    with store.work(kind, key) as work:
        _write_shards(work.payload, first, num_latents)
        name = "statistics.safetensors"
        write_tensors(work.payload / name, artifact.tensors(name))
        return work.publish(_record(artifact, first["labels"], num_latents))


def size_of(artifact: Artifact) -> str:
    """Its size in words."""
    files = artifact.record["files"]
    shards = [files[name]["bytes"] for name in files if name.startswith("latents_shard")]
    gib = sum(shards) / 2**30
    number = "1 shard" if len(shards) == 1 else f"{len(shards)} shards"
    return f"{artifact.result['num_images']:,} latents, {gib:.2g} GiB in {number}"


def _write_shards(payload: Path, rows: dict[str, Tensor], num_latents: int) -> None:
    for number, start in enumerate(range(0, num_latents, SHARD_IMAGES)):
        places = torch.arange(start, min(start + SHARD_IMAGES, num_latents)) % len(rows["labels"])
        path = payload / f"latents_shard{number:05d}.safetensors"
        write_tensors(path, {name: tensor[places] for name, tensor in rows.items()})


def _record(artifact: Artifact, labels: Tensor, num_latents: int) -> dict[str, Any]:
    """What is still true of the few, with the number of the many and their labels."""
    own = ("files", "history", "record_sha256")
    record = {name: value for name, value in artifact.record.items() if name not in own}
    places = torch.arange(num_latents) % len(labels)
    counts = torch.bincount(labels[places], minlength=len(artifact.result["label_counts"]))
    changed = {"num_images": num_latents, "label_counts": counts.tolist()}
    return {**record, "result": {**artifact.result, **changed}}
