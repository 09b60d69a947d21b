"""Stage `given_samples`: metrics of samples that were not made here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from harness.data.image_sets import ImageSet, ImageSetConfig, open_image_set
from harness.data.missing import MissingItem
from harness.metrics.extractors import ExtractionConfig
from harness.metrics.frechet import self_test
from harness.metrics.sample_scores import SampleScores
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from harness.stages.encoder.stage import feature_dim_of, load_extractor
from harness.stages.reference import load_reference
from harness.stages.running.context import StageContext
from harness.stages.running.image_grids import save_grid
from harness.stages.running.rounds import Rounds
from harness.stages.stage import Estimate, Stage, StageKind
from models.batch_part import slices_of

SHOWN = 80
"""Samples in the grid."""

AnyImages = Annotated[ImageSetConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class GivenSamplesStage:
    """Configuration of the stage; its other inputs are extractor and reference."""

    samples: AnyImages = field(metadata=NO_KEY)
    """Where the images are; their content enters the key, their place does not."""
    content: str
    """Fingerprint of the images."""
    resolution: int
    """Side that the images must have, in pixels: that of the data set."""
    batch_size: int
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)


@torch.no_grad()
def run(config: GivenSamplesStage, context: StageContext) -> Mapping[str, Any]:
    """Extract features and compare with the reference."""
    device = context.device
    self_test(device)
    samples = open_as_planned(config.samples, config.content)
    extractor = load_extractor(context.inputs["extractor"], device, config.extraction)
    scores = SampleScores(extractor, samples.num_images, device)
    rounds = Rounds(context, samples.num_images, config.batch_size)
    for part in rounds.take_parts():
        scores.add_tensors(part)
    for turn in rounds:
        if len(indices := turn.positions):
            images = require_resolution(samples.images(indices), samples.name, config.resolution)
            for rows in slices_of(len(images), context.slices):
                scores.update(images[rows], positions=torch.from_numpy(indices[rows]))
            if indices[0] == 0:
                save_grid(context.work.payload / "samples.png", images[:SHOWN], columns=10)
        rounds.end(turn, scores.to_tensors)
    states = context.world.gather(scores.state)
    if not context.world.is_first:
        return {}
    for state in states[1:]:
        scores.merge(state)
    scores.write_statistics(context.work.payload / "statistics.safetensors")
    return {
        **scores.compute(load_reference(context.inputs["reference"])),
        "source": samples.name,
        "skipped": list(samples.skipped),
    }


def require_resolution(
    images: UInt8[Tensor, "b 3 h w"], name: str, resolution: int
) -> UInt8[Tensor, "b 3 h w"]:
    """The images, if they have the size of the data set that they are measured on."""
    if images.shape[2:] != (resolution, resolution):
        raise ValueError(
            f"the images of {name!r} must have {resolution}x{resolution} pixels as the sweep's "
            f"data set, but have {images.shape[2]}x{images.shape[3]}; take a sweep file of that "
            "size, set data.resolution, or crop them by --crop of evaluate"
        )
    return images


def open_as_planned(config: ImageSetConfig, content: str) -> ImageSet:
    """Open a set of images whose content is the one that a key stands for."""
    images = open_image_set(config)
    if images.fingerprint() != content:
        raise ValueError(
            f"the images of {images.name!r} must be those that were planned with, but have "
            "changed since; run the command again"
        )
    return images


def estimate_given(stage: Stage) -> Estimate:
    """Statistics on disk; given images are not counted before they are read."""
    dim = feature_dim_of(stage.inputs["extractor"].config)
    return Estimate(flops=0.0, disk_bytes=8 * dim**2)


def missing(config: GivenSamplesStage, _path: str) -> list[MissingItem]:
    """Images."""
    return config.samples.missing()


KIND = StageKind(version=1, run=run, estimate=estimate_given, missing=missing, in_sweeps=False)
