"""Stage `diagnostics`: what a tokenizer's latents look like, without any generator."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.data import Crop, DataConfig, published
from harness.config.evaluation import LatentDiagnostics
from harness.config.trial import Trial
from harness.data import open_dataset
from harness.data.dataset import ImageDataset, batches, spread
from harness.data.latents.training_set import LatentSet
from harness.data.pixel_range import to_model_range
from harness.machine.random_streams import derive_seed, generator_for
from harness.metrics.latent_diagnostics import linear_probe_accuracy, spectrum_high_share
from harness.metrics.uniformity import Uniformity, UniformityConfig, measure_uniformity
from harness.stages import latents as latents_stage
from harness.stages.running.context import StageContext
from harness.stages.stage import Estimate, Stage, StageKind
from harness.stages.tokenizer.stage import flops_per_image as tokenizer_flops
from harness.stages.tokenizer.stage import load_tokenizer
from models.dual_autoencoder import DualAutoencoder
from models.latent import AnyLayout, IndexLayout
from models.tokenizer import TokenizerNetwork

OF_CHANNELS = (
    *(field.name for field in dataclasses.fields(Uniformity)),
    "spectrum_high_share",
    "channel_std_ratio",
    "channel_mean",
    "channel_std",
)
"""What is measured of channels and has no meaning for indices."""
CODE_NUMBERS = 32
"""Random numbers that stand for a code before the linear probe."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticsStage:
    """Configuration of the stage; its other inputs are tokenizer and latents."""

    data: DataConfig
    split: str
    """Name of the evaluation split, whose latents the linear probe is tested on."""
    crop: Crop
    """Crop and resize of those images."""
    diagnostics: LatentDiagnostics
    batch_size: int
    seed: int
    """Seed of the choice of images and positions."""

    @classmethod
    def of(cls, trial: Trial, diagnostics: LatentDiagnostics) -> "DiagnosticsStage":
        """How a trial's latents are looked at."""
        seed = trial.evaluation.seed
        assert seed is not None
        return cls(
            data=trial.data,
            split=trial.data.eval_split,
            crop=trial.latents.crop,
            diagnostics=diagnostics,
            batch_size=trial.latents.batch_size,
            seed=seed,
        )


def stage_of(trial: Trial, tokenizer: Stage) -> Stage | None:
    """The stage that looks at a trial's latents, where that is asked for."""
    wanted = trial.evaluation.diagnostics
    if not isinstance(wanted, LatentDiagnostics):
        return None
    return Stage(
        kind="diagnostics",
        config=DiagnosticsStage.of(trial, wanted),
        inputs={"tokenizer": tokenizer, "latents": latents_stage.stage_of(trial, tokenizer)},
        label=tokenizer.label,
    )


@torch.no_grad()
def run(config: DiagnosticsStage, context: StageContext) -> Mapping[str, Any]:
    """Read a random part of the latents and measure it."""
    device, wanted = context.device, config.diagnostics
    dataset = open_dataset(config.data)
    latents = LatentSet(context.inputs["latents"], device)
    random = np.random.default_rng(derive_seed(config.seed, "diagnostics"))
    chosen = np.sort(random.permutation(len(latents))[: wanted.num_images])
    views = random.integers(len(latents.views), size=len(chosen))
    seen, labels = latents.batch(chosen, views)
    context.after_step(1, 3, dict)
    codes = isinstance(latents.layout, IndexLayout)
    measured = dict.fromkeys(OF_CHANNELS) if codes else _of_channels(latents, seen, random, wanted)
    context.after_step(2, 3, dict)
    tokenizer = load_tokenizer(
        context.inputs["tokenizer"],
        device,
        compiled=context.resources.compile,
        channels_last=context.resources.channels_last,
    )
    held_out = spread(
        min(wanted.num_images, dataset.num_images("eval")), dataset.num_images("eval")
    )
    encoded = _encode(dataset, held_out, tokenizer, config, context, latents.layout)
    if codes and isinstance(tokenizer, DualAutoencoder):
        seen, encoded = (tokenizer.semantic_codes(indices) for indices in (seen, encoded))
    elif isinstance(latents.layout, IndexLayout):
        # One-hot codes of 16k would fill the memory; random numbers for each code stand for them.
        random_codes = generator_for(wanted.seed, "codes")
        table = torch.randn(latents.layout.codebook_size, CODE_NUMBERS, generator=random_codes)
        seen, encoded = (table.to(device)[indices] for indices in (seen, encoded))
    else:
        encoded = (encoded - latents.mean) / latents.std
    accuracy = linear_probe_accuracy(
        seen.flatten(1),
        labels,
        encoded.flatten(1),
        torch.from_numpy(dataset.labels("eval")[held_out].copy()).to(device),
        dataset.num_classes,
    )
    context.after_step(3, 3, dict)
    return {**measured, "linear_probe_accuracy": accuracy, "num_images": len(chosen)}


def _of_channels(
    latents: LatentSet,
    seen: Float[Tensor, "n c h w"],
    random: np.random.Generator,
    wanted: LatentDiagnostics,
) -> dict[str, Any]:
    # Vectors of one image are alike: with one position an image they are independent.
    single = _one_position_each(seen, random)
    uniformity = measure_uniformity(
        single.cpu().numpy(), UniformityConfig(num_vectors=wanted.num_vectors, seed=wanted.seed)
    )
    std = latents.std.flatten()
    return {
        **dataclasses.asdict(uniformity),
        "spectrum_high_share": spectrum_high_share(seen),
        "channel_std_ratio": float(std.max() / std.min()),
        "channel_mean": latents.mean.flatten().tolist(),
        "channel_std": std.tolist(),
    }


def _one_position_each(
    latents: Float[Tensor, "n c h w"], random: np.random.Generator
) -> Float[Tensor, "n c"]:
    """The vector of one random position of each image, as in the paper."""
    flat = latents.flatten(2)
    places = torch.from_numpy(random.integers(flat.shape[2], size=len(flat))).to(flat.device)
    return flat[torch.arange(len(flat), device=flat.device), :, places]


def _encode(
    dataset: ImageDataset,
    indices: np.ndarray,
    tokenizer: TokenizerNetwork,
    config: DiagnosticsStage,
    context: StageContext,
    layout: AnyLayout,
) -> Tensor:
    """Means of the posteriors of evaluation images, or their indices."""
    parts, batch_size = [], max(1, config.batch_size // context.slices)
    for local in batches(len(indices), batch_size):
        images = dataset.images("eval", indices[local], published(config.crop))
        images = to_model_range(images.to(context.device))
        parts.append(latents_stage.encoded(tokenizer, images, layout).mode())
    return torch.cat(parts)


def estimate(stage: Stage) -> Estimate:
    """Encoding the images of the probe's test; t-SNE and the probe itself cost seconds on a CPU."""
    config: DiagnosticsStage = stage.config
    images = min(config.diagnostics.num_images, config.data.num_eval_images)
    flops = images * tokenizer_flops(stage.inputs["tokenizer"].config) / 2
    return Estimate(flops=flops, disk_bytes=1e4, images=images)


KIND = StageKind(version=1, run=run, estimate=estimate, shares_work=False)
