"""Stage `latents`: the training split, encoded once per tokenizer, or taken from a folder.

Posterior samples with fixed noise, of every image and, where asked, of its mirror image
(arXiv 2501.01423's released pipeline): a generator sees the same latents in every epoch. Where
whole posteriors are kept, a generator samples them afresh at every step. Indices are stored as the
smallest integers that hold the codebook, without noise, mean or deviation.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from harness.config.data import DataConfig, published
from harness.config.latents import LatentsConfig
from harness.config.trial import Trial
from harness.data import open_dataset
from harness.data.dataset import ImageDataset, batches, describe_content, take
from harness.data.latents.folder import (
    EncodedHere,
    LatentFolder,
    LatentStatistics,
    Statistics,
    fingerprint,
    link_shards,
)
from harness.data.latents.shards import FEATURES, VIEWS, LatentShards, lower_name, planes_of
from harness.data.pixel_range import to_model_range
from harness.machine.finite import require_finite
from harness.machine.random_streams import derive_seed, generator_for
from harness.schema.keys import KEY_UNLESS_DEFAULT, to_plain
from harness.schema.reading import ConfigError
from harness.stages.running.context import StageContext
from harness.stages.stage import Estimate, Stage, StageKind
from harness.stages.tokenizer.stage import encoding_flops_per_image, load_tokenizer
from harness.storage.artifacts import Artifact, write_tensors
from models.batch_part import slices_of
from models.dual_autoencoder import DualAutoencoder
from models.latent import AnyLayout, IndexLayout, LatentLayout
from models.posterior import AnyPosterior, IndexPosterior, PointPosterior, Posterior, draw, join
from models.tokenizer import TokenizerNetwork

SHARD_IMAGES = 10_000
"""Images a shard, as published."""


@dataclass(frozen=True, kw_only=True)
class LatentsStage:
    """Configuration of the stage; its other input is the tokenizer."""

    data: DataConfig
    latents: LatentsConfig
    layout: AnyLayout
    """Channel groups and grid, or codebook and grids of indices; they travel with the latents."""
    seed: int
    """Seed of the posterior's noise."""
    scaling: Literal["own", "statistics"] = field(default="statistics", metadata=KEY_UNLESS_DEFAULT)
    """How they are normalised: by the tokenizer's own scaling, or as measured here."""
    content: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of latents or statistics that are given; empty where images are encoded here."""
    lower: tuple[int, ...] = field(default=(), metadata=KEY_UNLESS_DEFAULT)
    """Cells along a side of further latents of every view, of smaller images; of whole posteriors
    they are samples."""

    @classmethod
    def of(cls, trial: Trial) -> "LatentsStage":
        """The latents that a trial's generator learns from."""
        assert trial.tokenizer.seed is not None
        return cls(
            data=trial.data,
            # What a generator rounds them to is not what is stored.
            latents=replace(trial.latents, precision="fp32"),
            layout=trial.layout,
            seed=trial.tokenizer.seed,
            scaling=trial.tokenizer.scaling,
            content=trial.latents.content,
            lower=() if trial.generator is None else trial.generator.encoded_sides,
        )

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the images' views: as they are and, where asked, mirrored."""
        return VIEWS if self.latents.flip else VIEWS[:1]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of a shard's tensors, labels left out."""
        return tuple(name for view in self.views for name in self.tensors_of(view))

    def tensors_of(self, view: str) -> tuple[str, ...]:
        """Names of one view's tensors: samples, or means and log-variances."""
        return planes_of(view, moments=self.latents.posterior == "moments")


def stage_of(trial: Trial, tokenizer: Stage) -> Stage:
    """The stage of a trial's latents, encoded by a tokenizer."""
    return Stage(
        kind="latents",
        config=LatentsStage.of(trial),
        inputs={"tokenizer": tokenizer},
        label=tokenizer.label,
    )


@torch.no_grad()
def run(config: LatentsStage, context: StageContext) -> Mapping[str, Any]:
    """Encode the training split shard by shard, or take a folder of latents; measure them."""
    source = config.latents.source
    if not isinstance(source, EncodedHere):
        return _take(config, source, context)
    payload = context.work.shared_payload
    dataset = open_dataset(config.data)
    tokenizer = load_tokenizer(
        context.inputs["tokenizer"],
        context.device,
        compiled=context.resources.compile,
        channels_last=context.resources.channels_last,
    )
    wanted = config.latents.num_images or dataset.num_images("train")
    chosen = take(dataset, "train", wanted)
    num_images = len(chosen)
    paths = []
    for shard, local in enumerate(batches(num_images, SHARD_IMAGES)):
        path = payload / f"latents_shard{shard:05d}.safetensors"
        # A shard that an earlier attempt has finished stays: shards are whole or absent.
        # Workers take the shards in turn; the first one publishes them all.
        if shard % context.world.size == context.world.rank and not path.exists():
            tensors = _encode_shard(config, dataset, tokenizer, chosen[local], context)
            write_tensors(path, tensors)
        paths.append(path)
        context.after_step(int(local[-1]) + 1, num_images, dict)
    context.world.barrier()
    if not context.world.is_first:
        return {}
    shards = LatentShards(paths, config.tensors, config.layout)
    return {**_describe(config, context, shards, None), **describe_content(dataset, "train")}


def _take(
    config: LatentsStage, folder: LatentFolder | LatentStatistics, context: StageContext
) -> Mapping[str, Any]:
    """Link the shards of a folder, after a look at all that a generator relies on."""
    if (now := folder.identity) != config.content:
        raise ValueError(
            f"{folder.path} must be the {folder.kind} that was planned with ({config.content}), "
            f"but is {now}; put its files back, or run the command again to plan with the new ones"
        )
    shards, known = _open(config, folder)
    if shards is None:
        return _describe(config, context, None, known)
    assert isinstance(folder, LatentFolder)
    if isinstance(config.layout, LatentLayout):
        shards.check_finite()
    links = link_shards(folder, context.work.payload)
    context.after_step(len(shards), len(shards), dict)
    return {
        **_describe(config, context, shards, known),
        "data_fingerprint": None,
        "linked_shards": {link.name: fingerprint(link) for link in links},
    }


def _open(
    config: LatentsStage, folder: LatentFolder | LatentStatistics
) -> tuple[LatentShards | None, Statistics | None]:
    """Latents and statistics that are given, whose headers, counts and labels are right."""
    groups = () if isinstance(config.layout, IndexLayout) else config.layout.groups
    channels = [group.channels for group in groups]
    known = folder.statistics(*channels) if channels else None
    if isinstance(folder, LatentStatistics):
        return None, known
    shards = LatentShards(
        folder.shards,
        config.tensors,
        config.layout,
        apart=True,
        features=[FEATURES[view] for view in config.views] if folder.features else (),
    )
    declared, found = config.data.num_train_images, len(shards)
    if not declared <= found <= declared + folder.num_padded:
        raise ValueError(
            f"{folder.location} must hold the latents of {declared:,} images "
            f"(data.num_train_images; as many as {folder.num_padded} may stand there twice), but "
            f"holds {found:,}; put back what is missing, or correct what is declared"
        )
    shards.check_labels(config.data.num_classes)
    return shards, known


def check_given(stage: Stage) -> None:
    """Refuse latents or statistics at hand that are not what the tokenizer gives."""
    source = stage.config.latents.source
    if isinstance(source, EncodedHere) or source.missing():
        return
    try:
        _open(stage.config, source)
    except ValueError as error:
        raise ConfigError(str(error), path="trial.latents.source.path") from error


def _describe(
    config: LatentsStage,
    context: StageContext,
    shards: LatentShards | None,
    known: Statistics | None,
) -> dict[str, Any]:
    """Write the statistics, and say what was encoded; `known` statistics are not measured.

    Statistics are mean and deviation of each channel, or how often each code stands in the images
    as they are.
    """
    if isinstance(layout := config.layout, IndexLayout):
        # Indices are not normalised. Counting them finds those that are no codes.
        counted = []
        if shards is not None:
            counted = [shards.count_codes(name, layout.codebook_size) for name in config.tensors]
        statistics = {"counts": counted[0]} if counted else {}
        found = {"mean": None, "std": None}
    else:
        if config.scaling == "own":
            known = _own_scaling(context.inputs["tokenizer"])
        elif known is None:
            assert shards is not None, "a plan has statistics alone only where something gives them"
            known = _statistics(shards, config)
        statistics = {"mean": known[0], "std": known[1]}
        found = {name: values.flatten().tolist() for name, values in statistics.items()}
    labels = torch.empty(0, dtype=torch.int64) if shards is None else shards.labels
    write_tensors(context.work.payload / "statistics.safetensors", statistics)
    # A generator's `label_policy: data` draws classes as often as the training split has them.
    counts = torch.bincount(labels, minlength=config.data.num_classes)
    return {
        "num_images": len(labels),
        "views": list(config.views),
        "layout": to_plain(config.layout),
        **found,
        "label_counts": counts.tolist(),
    }


def _encode_shard(
    config: LatentsStage,
    dataset: ImageDataset,
    tokenizer: TokenizerNetwork,
    indices: Any,
    context: StageContext,
) -> dict[str, Tensor]:
    device = context.device
    pipeline = published(config.latents.crop)
    kept = config.latents.posterior
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    wanted = [indices[local] for local in batches(len(indices), config.latents.batch_size)]
    # Read and decoded while the device computes.
    ahead = context.ahead(
        lambda n: dataset.images("train", wanted[n], pipeline), range(len(wanted))
    )
    for positions in wanted:
        images = to_model_range(next(ahead).to(device, non_blocking=True))
        for view in config.views:
            # The published layout has the mirrored image encoded, not the latent mirrored.
            seen = images.flip(-1) if view == "latents_flip" else images
            for side in (0, *config.lower):
                small = reduce_images(seen, config.layout, side) if side else seen
                pieces = slices_of(len(small), context.slices)
                found = [encoded(tokenizer, small[rows], config.layout) for rows in pieces]
                name = lower_name(view, side) if side else view
                names = (name,) if side else config.tensors_of(view)
                random = generator_for(config.seed, name, int(positions[0]), device=device)
                kind = "sample" if side and kept == "moments" else kept
                planes = _kept(kind, join(found), random)
                require_finite(
                    planes[0], "latents", "encode with precision fp32, or mend the tokenizer"
                )
                for name, plane in zip(names, planes, strict=True):
                    parts[name].append(plane.to("cpu", config.layout.dtype))
    ahead.close()
    labels = torch.from_numpy(dataset.labels("train")[indices].copy())
    return {name: torch.cat(planes) for name, planes in parts.items()} | {"labels": labels}


def encoded(tokenizer: TokenizerNetwork, images: Tensor, layout: AnyLayout) -> AnyPosterior:
    """The latents of images, indices as the sum of their codes where channels are wanted."""
    found = tokenizer.encode(images)
    if not isinstance(found, IndexPosterior) or isinstance(layout, IndexLayout):
        return found
    assert isinstance(tokenizer, DualAutoencoder)
    return PointPosterior(mean=tokenizer.quantizer.grid(found.indices))


def reduce_images(
    images: Float[Tensor, "b 3 h w"], layout: AnyLayout, side: int
) -> Float[Tensor, "b 3 s s"]:
    """Area averages of images whose latents have so many cells along a side."""
    assert isinstance(layout, LatentLayout), "indices have no lower resolutions"
    return functional.avg_pool2d(images, layout.height // side)


def _kept(wanted: str, posterior: AnyPosterior, random: torch.Generator) -> tuple[Tensor, ...]:
    """Choose what is stored of a posterior: a sample, its mean, or mean and log-variance."""
    if wanted == "moments":
        if not isinstance(posterior, Posterior):
            raise ValueError(
                "latents.posterior: moments must meet an encoder that predicts a variance, but "
                "this tokenizer's is deterministic; set latents.posterior: mode"
            )
        return posterior.mean, posterior.log_variance
    return (draw(posterior, random) if wanted == "sample" else posterior.mode(),)


def _own_scaling(tokenizer: Artifact) -> Statistics:
    """Mean and deviation that stand for the scaling in a pretrained tokenizer's file."""
    scaling = tokenizer.result["scaling"]
    if scaling is None:
        raise ValueError(
            "config.json must have a scaling under tokenizer.scaling: own, but has none; set "
            "tokenizer.scaling: statistics"
        )
    shape = (1, -1, 1, 1)
    return torch.tensor(scaling["mean"]).view(shape), torch.tensor(scaling["std"]).view(shape)


def _statistics(shards: LatentShards, config: LatentsStage) -> Statistics:
    """Per-channel mean and unbiased deviation over images and positions of a random subset; of
    whole posteriors one sample an image is measured."""
    # Published statistics are of 10,000 random latents too; of all, they would be other numbers.
    count = min(config.latents.num_statistics, len(shards))
    random = torch.Generator().manual_seed(derive_seed(config.seed, "statistics"))
    chosen = torch.randperm(len(shards), generator=random)[:count].sort().values.numpy()
    sample, *rest = (shards.gather(name, chosen) for name in config.tensors_of(VIEWS[0]))
    if rest:
        noise = torch.randn(sample.shape, generator=random)
        sample = Posterior(mean=sample, log_variance=rest[0]).sample(noise)
    mean = sample.mean(dim=(0, 2, 3), keepdim=True)
    std = sample.std(dim=(0, 2, 3), keepdim=True)
    if not bool((std > 0).all()):
        channel = int((std.flatten() <= 0).nonzero()[0])
        raise ValueError(
            f"every latent channel must vary, but channel {channel} is constant over {count} "
            "images; train the tokenizer longer or lower latent_dim"
        )
    return mean, std


def estimate(stage: Stage) -> Estimate:
    """Encoding the images; a folder's shards are linked, not copied."""
    config: LatentsStage = stage.config
    if config.content:
        return Estimate(flops=0.0, disk_bytes=1e4)
    images = config.latents.num_images or config.data.num_train_images
    encoded = images * len(config.views)
    numbers = images * len(config.tensors) * math.prod(config.layout.shape)
    if isinstance(layout := config.layout, LatentLayout):
        cells = sum(side**2 for side in config.lower)
        numbers += encoded * layout.channels * cells
        encoded *= 1 + cells / layout.height**2
    return Estimate(
        flops=encoded * encoding_flops_per_image(stage.inputs["tokenizer"].config),
        disk_bytes=config.layout.dtype.itemsize * numbers,
        images=images * len(config.views),
    )


KIND = StageKind(
    version=1,
    run=run,
    estimate=estimate,
    check_given=check_given,
    images=lambda config: None if config.content else config.data,
    missing=lambda config, _path: config.latents.source.missing(),
    convolves=True,
)
