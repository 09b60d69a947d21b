"""Stage `given_pairs`: metrics of reconstructions that were not made here, and their originals."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from harness.config.perceptual import PerceptualMetric, describe_lpips, missing_lpips
from harness.data.image_sets import ImageSet
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.metrics.extractors import ExtractionConfig
from harness.metrics.frechet import self_test
from harness.metrics.image_quality import psnr
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

CLOSER_DB = 0.5
"""PSNR by which pairs must be closer than images that are no pairs."""
SHOWN_PAIRS = 64
"""Pairs, about, by which their order is looked at."""


@dataclass(frozen=True, kw_only=True)
class GivenPairsStage:
    """Configuration of the stage; its other input is the extractor."""

    reconstructions: AnyImages = field(metadata=NO_KEY)
    """Where the reconstructions are; their content enters the key, their place does not."""
    originals: AnyImages = field(metadata=NO_KEY)
    """Where the originals are, by the same names or, without names, in the same order."""
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
    """Compare image by image, and set by set in features; ValueError where the sets are no pairs,
    or they or the weights of LPIPS changed since they were planned with."""
    device = context.device
    self_test(device)
    sets = (config.reconstructions, config.originals)
    made, originals = map(open_as_planned, sets, config.content)
    partners = pairing(made, originals)
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
                require_resolution(part.images(chosen), part.name, config.resolution).to(device)
                for part, chosen in ((made, partners[indices]), (originals, indices))
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


def pairing(made: ImageSet, originals: ImageSet) -> Int64[np.ndarray, " n"]:
    """Position of the reconstruction of every original.

    Pairs have one name, as a path below the folders or as a file's own name, where the names of
    both sets are the same. Without names on one side they have one position.

    Raises:
        ValueError: Files were skipped, or number or names differ.
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
    if made.names is not None and originals.names is not None:
        for ours, theirs in ((made.names, originals.names), _own_names(made, originals)):
            place = {name: position for position, name in enumerate(ours)}
            if len(place) == len(ours) and place.keys() == set(theirs):
                return np.array([place[name] for name in theirs], dtype=np.int64)
        _refuse_names(made, originals)
    in_order = np.arange(made.num_images, dtype=np.int64)
    _warn_if_shuffled(made, originals, in_order)
    return in_order


def _own_names(*sets: ImageSet) -> list[list[str]]:
    return [[name.rpartition("/")[2] for name in images.names or ()] for images in sets]


def _refuse_names(made: ImageSet, originals: ImageSet) -> None:
    """Refuse two folders of other names; the files of a data set may be numbered where made."""
    ours, theirs = _own_names(made, originals)
    common = set(ours) & set(theirs)
    if originals.is_split and not common:
        return
    odd = next((name for name in theirs if name not in common), theirs[0])
    raise ValueError(
        f"a reconstruction must have the name of its original, but {odd!r} of {originals.name!r} "
        f"has no one partner in {made.name!r} ({len(common):,} of {len(theirs):,} names are in "
        "both); rename the files"
    )


def _warn_if_shuffled(
    made: ImageSet, originals: ImageSet, in_order: Int64[np.ndarray, " n"]
) -> None:
    """Say that pairs by position are no closer to each other than images taken at random."""
    some = in_order[:: max(1, len(in_order) // SHOWN_PAIRS)]
    pairs = made.images(some), originals.images(some)
    if len(some) < 2 or pairs[0].shape != pairs[1].shape:
        return
    # The median: a few pairs that are right by chance would lift the mean.
    own, other = (float(psnr(pairs[0], pairs[1].roll(by, 0)).median()) for by in (0, 1))
    if own < other + CLOSER_DB:
        warnings.warn(
            f"reconstructions of {made.name!r} are no closer to the originals at their positions "
            f"(PSNR {own:.1f} dB) than to others ({other:.1f} dB): the two sets seem to be in "
            "different orders; give the files of both the same names",
            stacklevel=2,
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
