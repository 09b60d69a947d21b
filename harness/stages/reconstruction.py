"""Stage `reconstruction`: what a tokenizer loses, measured on the evaluation split."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.data import open_dataset
from harness.data.dataset import batches, spread
from harness.data.pixel_range import to_model_range, to_uint8
from harness.image_grids import save_pairs
from harness.metrics.frechet import (
    FeatureStatistics,
    frechet_distance,
    require_full_rank,
    self_test,
)
from harness.metrics.image_mean import ImageMean
from harness.metrics.image_quality import psnr, ssim
from harness.random_streams import generator_for
from harness.stages.context import StageContext
from harness.stages.encoder import load_extractor
from harness.stages.tokenizer import load_tokenizer
from harness.stages.weights import describe_lpips
from harness.trial import Crop, DataConfig, LPIPSMetric, PerceptualMetric, Trial, published
from models.perceptual import build_lpips

VERSION = 1
"""Raised by hand when the numbers that this stage makes change."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionStage:
    """What the stage reads, beside tokenizer and extractor."""

    data: DataConfig
    split: str
    """Name of the evaluation split."""
    crop: Crop
    """Crop and resize of the evaluated images; `training`: the data set's own, centred."""
    num_images: int
    """Images, spread evenly over the evaluation split."""
    posterior: Literal["sample", "mode"]
    perceptual: PerceptualMetric
    perceptual_weights: str
    """What stands for the weights of LPIPS: their hashes; empty without."""
    batch_size: int
    seed: int
    """Seed of the posterior's noise."""

    @classmethod
    def of(cls, trial: Trial) -> "ReconstructionStage":
        """How a trial's tokenizer is measured."""
        evaluation = trial.evaluation
        assert evaluation.seed is not None
        return cls(
            data=trial.data,
            split=trial.data.eval_split,
            crop=evaluation.reconstruction_crop,
            num_images=evaluation.num_reconstructions or trial.data.num_eval_images,
            posterior=evaluation.posterior,
            perceptual=evaluation.perceptual,
            perceptual_weights=describe_lpips(evaluation.perceptual),
            batch_size=evaluation.batch_size,
            seed=evaluation.seed,
        )


@torch.no_grad()
def run(config: ReconstructionStage, context: StageContext) -> Mapping[str, Any]:
    """Reconstruct the evaluation images and compare them with the originals."""
    device = context.device
    self_test(device)
    dataset = open_dataset(config.data)
    pipeline = published(config.crop)
    extractor = load_extractor(context.inputs["extractor"], device)
    require_full_rank("num_reconstructions", config.num_images, extractor.feature_dim)
    tokenizer = load_tokenizer(context.inputs["tokenizer"], device)
    perceptual = (
        build_lpips(config.perceptual.as_loss()).to(device)
        if isinstance(config.perceptual, LPIPSMetric)
        else None
    )
    original = reconstructed = FeatureStatistics.empty(extractor.feature_dim, device)
    decibels = similarity = distance = ImageMean.empty(device)
    chosen = spread(config.num_images, dataset.num_images("eval"))
    for number, local in enumerate(batches(len(chosen), config.batch_size)):
        pixels = dataset.images("eval", chosen[local], pipeline).to(device)
        images = to_model_range(pixels)
        posterior = tokenizer.encode(images)
        if config.posterior == "sample":
            random = generator_for(config.seed, "posterior", number, device=device)
            noise = torch.randn(posterior.mean.shape, generator=random, device=device)
            latents = posterior.sample(noise)
        else:
            latents = posterior.mode()
        decoded = tokenizer.decode(latents)
        rounded = to_uint8(decoded)
        original = original.update(extractor.features(pixels))
        reconstructed = reconstructed.update(extractor.features(rounded))
        decibels = decibels.update(psnr(rounded, pixels))
        similarity = similarity.update(ssim(decoded, images))
        if perceptual is not None:
            distance = distance.update(perceptual(decoded, images).flatten())
        if number == 0:
            save_pairs(context.work.payload / "reconstructions.png", pixels, rounded)
        context.after_step(int(local[-1]) + 1, len(chosen), dict)
    return {
        "rfid": frechet_distance(reconstructed, original),
        # A perfect reconstruction has no finite value, and JSON no infinite one.
        "psnr": finite_or_none(decibels.compute()),
        "ssim": similarity.compute(),
        "lpips": None if perceptual is None else distance.compute(),
        "num_images": config.num_images,
        "feature_dim": extractor.feature_dim,
    }


def finite_or_none(value: float) -> float | None:
    """The value, or None where it is infinite or not a number."""
    return value if math.isfinite(value) else None
