"""Stage `latents`: the training split, encoded once per tokenizer.

Posterior samples with fixed noise, of every image and, where asked, of its mirror image
(arXiv 2501.01423's released pipeline): a generator sees the same latents in every epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from harness.data import open_dataset
from harness.data.dataset import ImageDataset, batches
from harness.data.pixel_range import to_model_range
from harness.keys import KEY_UNLESS_DEFAULT, to_plain
from harness.random_streams import derive_seed, generator_for
from harness.stages.context import StageContext
from harness.stages.tokenizer import AnyAutoencoder, load_tokenizer
from harness.store import Artifact, write_tensors
from harness.trial import DataConfig, LatentsConfig, Trial, published
from models.latent import LatentLayout

VERSION = 1
"""Raised by hand when the numbers that this stage makes change."""
SHARD_IMAGES = 10_000
"""Images a shard, as published."""


@dataclass(frozen=True, kw_only=True)
class LatentsStage:
    """What the stage reads, beside the tokenizer."""

    data: DataConfig
    latents: LatentsConfig
    layout: LatentLayout
    """Channel groups and grid; they travel with the latents."""
    seed: int
    """Seed of the posterior's noise."""
    scaling: Literal["own", "statistics"] = field(default="statistics", metadata=KEY_UNLESS_DEFAULT)
    """How they are normalised: by the tokenizer's own scaling, or as measured here."""

    @classmethod
    def of(cls, trial: Trial) -> "LatentsStage":
        """The latents that a trial's generator learns from."""
        assert trial.tokenizer.seed is not None
        return cls(
            data=trial.data,
            latents=trial.latents,
            layout=trial.layout,
            seed=trial.tokenizer.seed,
            scaling=trial.tokenizer.scaling,
        )


@torch.no_grad()
def run(config: LatentsStage, context: StageContext) -> Mapping[str, Any]:
    """Encode the training split shard by shard; shards that are already there are kept."""
    device, payload = context.device, context.work.payload
    dataset = open_dataset(config.data)
    tokenizer = load_tokenizer(
        context.inputs["tokenizer"],
        device,
        compiled=context.compile,
        channels_last=context.channels_last,
    )
    num_images = dataset.num_images("train")
    paths = []
    for shard, indices in enumerate(batches(num_images, SHARD_IMAGES)):
        path = payload / f"latents_shard{shard:05d}.safetensors"
        if not path.exists():
            tensors = _encode_shard(config, dataset, tokenizer, indices, device)
            temporary = path.with_suffix(".tmp")
            write_tensors(temporary, tensors)
            temporary.replace(path)
        paths.append(path)
        context.after_step(int(indices[-1]) + 1, num_images, dict)
    if config.scaling == "own":
        mean, std = _own_scaling(context.inputs["tokenizer"])
    else:
        mean, std = _statistics(paths, num_images, config)
    write_tensors(payload / "statistics.safetensors", {"mean": mean, "std": std})
    labels = torch.from_numpy(dataset.labels("train").copy())
    counts = torch.bincount(labels, minlength=dataset.num_classes)
    return {
        "num_images": num_images,
        "views": ["latents", "latents_flip"] if config.latents.flip else ["latents"],
        "layout": to_plain(config.layout),
        "mean": mean.flatten().tolist(),
        "std": std.flatten().tolist(),
        "label_counts": counts.tolist(),
        "data_fingerprint": dataset.fingerprint(),
    }


def _encode_shard(
    config: LatentsStage,
    dataset: ImageDataset,
    tokenizer: AnyAutoencoder,
    indices: Any,
    device: torch.device,
) -> dict[str, Tensor]:
    pipeline = published(config.latents.crop)
    parts: dict[str, list[Tensor]] = {"latents": []}
    if config.latents.flip:
        parts["latents_flip"] = []
    for local in batches(len(indices), config.latents.batch_size):
        positions = indices[local]
        images = to_model_range(dataset.images("train", positions, pipeline).to(device))
        for view, latents in parts.items():
            seen = images.flip(-1) if view == "latents_flip" else images
            posterior = tokenizer.encode(seen)
            random = generator_for(config.seed, view, int(positions[0]), device=device)
            noise = torch.randn(posterior.mean.shape, generator=random, device=device)
            sampled = config.latents.posterior == "sample"
            latents.append((posterior.sample(noise) if sampled else posterior.mode()).cpu())
    labels = torch.from_numpy(dataset.labels("train")[indices].copy())
    return {view: torch.cat(latents) for view, latents in parts.items()} | {"labels": labels}


def _own_scaling(
    tokenizer: Artifact,
) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
    """Mean and deviation that stand for the scaling in a pretrained tokenizer's file."""
    scaling = tokenizer.result["scaling"]
    if scaling is None:
        raise ValueError(
            "config.json must have a scaling under tokenizer.scaling: own, but has none; set "
            "tokenizer.scaling: statistics"
        )
    shape = (1, -1, 1, 1)
    return torch.tensor(scaling["mean"]).view(shape), torch.tensor(scaling["std"]).view(shape)


def _statistics(
    paths: list[Path], num_images: int, config: LatentsStage
) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
    """Per-channel mean and unbiased deviation over images and positions of a random subset."""
    count = min(config.latents.num_statistics, num_images)
    random = torch.Generator().manual_seed(derive_seed(config.seed, "statistics"))
    chosen = torch.randperm(num_images, generator=random)[:count].sort().values
    parts, start = [], 0
    for path in paths:
        latents = load_file(path)["latents"]
        local = chosen[(chosen >= start) & (chosen < start + len(latents))] - start
        parts.append(latents[local])
        start += len(latents)
    sample = torch.cat(parts)
    mean = sample.mean(dim=(0, 2, 3), keepdim=True)
    std = sample.std(dim=(0, 2, 3), keepdim=True)
    if not bool((std > 0).all()):
        channel = int((std.flatten() <= 0).nonzero()[0])
        raise ValueError(
            f"every latent channel must vary, but channel {channel} is constant over {count} "
            "images; train the tokenizer longer or lower latent_dim"
        )
    return mean, std
