"""Stage `given_pairs`: metrics of reconstructions that were not made here, and their originals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.config.perceptual import PerceptualMetric, describe_lpips, missing_lpips
from harness.data.image_sets import ImageSet
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.metrics.extractors import ExtractionConfig
from harness.metrics.frechet import self_test
from harness.metrics.reconstruction_scores import ReconstructionScores
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from harness.stages.encoder.stage import load_extractor
from harness.stages.given_samples import (
    AnyImages,
    estimate_given,
    open_as_planned,
    require_resolution,
)
from harness.stages.reconstruction import load_perceptual
from harness.stages.running.context import StageContext
from harness.stages.running.image_grids import save_pairs
from harness.stages.running.rounds import Rounds
from harness.stages.stage import StageKind
from models.batch_part import slices_of


@dataclass(frozen=True, kw_only=True)
class GivenPairsStage:
    """Configuration of the stage; its other input is the extractor."""

    reconstructions: AnyImages = field(metadata=NO_KEY)
    """Where the reconstructions are; their content enters the key, their place does not."""
    originals: AnyImages = field(metadata=NO_KEY)
    """Where the originals are, in the same order; in two folders also by the same names."""
    content: tuple[str, str]
    """Fingerprints of both."""
    resolution: int
    """Side that the images must have, in pixels: that of the data set."""
    perceptual: PerceptualMetric
    perceptual_weights: str
    """Hashes of the weights of LPIPS; empty without it."""
    batch_size: int
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)


@torch.no_grad()
def run(config: GivenPairsStage, context: StageContext) -> Mapping[str, Any]:
    """Compare image by image, and set by set in features.

    Raises:
        ValueError: The sets are not pairs, or they or the weights of LPIPS changed since they were
            planned with.
    """
    device = context.device
    self_test(device)
    sets = (config.reconstructions, config.originals)
    made, originals = map(open_as_planned, sets, config.content)
    check_pairs(made, originals)
    _check_perceptual(config)
    extractor = load_extractor(context.inputs["extractor"], device, config.extraction)
    perceptual = load_perceptual(config.perceptual, device)
    scores = ReconstructionScores(extractor, perceptual, device)
    rounds = Rounds(context, made.num_images, config.batch_size)
    for part in rounds.take_parts():
        scores.add_tensors(part)
    for turn in rounds:
        if len(indices := turn.positions):
            pairs = [
                require_resolution(part.images(indices), part.name, config.resolution).to(device)
                for part in (made, originals)
            ]
            for rows in slices_of(len(indices), context.slices):
                scores.update(to_model_range(pairs[0][rows]), *(part[rows] for part in pairs))
            if indices[0] == 0:
                save_pairs(context.work.payload / "reconstructions.png", pairs[1], pairs[0])
        rounds.end(turn, scores.to_tensors)
    states = context.world.gather(scores.state)
    if not context.world.is_first:
        return {}
    for state in states[1:]:
        scores.merge(state)
    return {**scores.compute(), "source": made.name}


def check_pairs(made: ImageSet, originals: ImageSet) -> None:
    """Refuse two sets that are not reconstructions and originals, one by one.

    Args:
        made: The reconstructions.
        originals: The originals.

    Raises:
        ValueError: Files were skipped, or number or names (where both have some) differ.
    """
    for images in (made, originals):
        if images.skipped:
            raise ValueError(
                f"pairs must be whole, but {len(images.skipped):,} images of {images.name!r} were "
                f"skipped: {'; '.join(images.skipped[:3])}; replace them, or remove them and their "
                "partners too"
            )
    if made.num_images != originals.num_images:
        raise ValueError(
            f"each original must have one reconstruction, but {originals.name!r} has "
            f"{originals.num_images:,} images and {made.name!r} {made.num_images:,}; give both in "
            "the same order and number"
        )
    if made.names is None or originals.names is None:
        return
    for place, (ours, theirs) in enumerate(zip(made.names, originals.names, strict=True)):
        if ours != theirs:
            raise ValueError(
                f"a reconstruction must have the name of its original, but image {place:,} is "
                f"{ours!r} in {made.name!r} and {theirs!r} in {originals.name!r}; rename the files"
            )


def _check_perceptual(config: GivenPairsStage) -> None:
    now = describe_lpips(config.perceptual)
    if now != config.perceptual_weights:
        raise ValueError(
            f"the weights of LPIPS must be those planned with ({config.perceptual_weights}), but "
            f"are {now}; put those files back, or run the command again to plan with these"
        )


def missing(config: GivenPairsStage, _path: str) -> list[MissingItem]:
    """Images, and the weights of LPIPS."""
    images = config.originals.missing() + config.reconstructions.missing()
    return [*images, *missing_lpips(config.perceptual, "evaluation.perceptual")]


KIND = StageKind(version=1, run=run, estimate=estimate_given, missing=missing, in_sweeps=False)
