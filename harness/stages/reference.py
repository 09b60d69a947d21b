"""Stage `reference`: what generated images are held to, as statistics and features.

Images are read without augmentation. Statistics that others made take the place of the training
split where the evaluation names their file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from harness.config.data import Crop, DataConfig, published
from harness.config.reference import (
    ReferenceImages,
    ReferenceSource,
    StatisticsFile,
    TrainingSplit,
    describe_source,
)
from harness.config.trial import Trial
from harness.config.weights import check_file, missing_checkpoint
from harness.data import open_dataset
from harness.data.dataset import describe_content, spread, take
from harness.data.image_sets import open_image_set
from harness.data.missing import MissingItem
from harness.metrics.extractors import ExtractionConfig, FeatureExtractor
from harness.metrics.frechet import FeatureStatistics
from harness.metrics.sample_scores import Reference
from harness.metrics.statistics_files import ImportedStatistics, read_statistics
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.schema.reading import ConfigError
from harness.stages.encoder.stage import feature_dim_of, flops_per_image, load_extractor
from harness.stages.flops import BYTES
from harness.stages.running.context import StageContext
from harness.stages.running.rounds import Rounds
from harness.stages.stage import Estimate, Stage, StageKind
from harness.storage.artifacts import Artifact, write_tensors
from models.batch_part import slices_of

PLACE = "evaluation.reference.path"
"""Where a sweep names a file of statistics."""


@dataclass(frozen=True, kw_only=True)
class ReferenceStage:
    """Configuration of the stage; its other input is the extractor."""

    data: DataConfig
    crop: Crop
    """Crop and resize of the images; `training`: the data set's own, centred."""
    num_images: int
    """Images, spread evenly over the training split."""
    num_features: int
    """Images whose features are kept, spread evenly over those."""
    batch_size: int
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)
    source: ReferenceSource = field(default=TrainingSplit(), metadata=KEY_UNLESS_DEFAULT)
    """The training split, or the file or set of images in its place."""
    content: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of that file or fingerprint of that set; empty for the training split."""

    @classmethod
    def of(cls, trial: Trial) -> "ReferenceStage":
        """The reference that a trial's samples are held to."""
        evaluation = trial.evaluation
        return cls(
            data=trial.data,
            crop=evaluation.reference_crop,
            num_images=evaluation.num_reference or trial.data.num_train_images,
            num_features=evaluation.num_reference_features,
            batch_size=evaluation.batch_size,
            extraction=evaluation.extraction,
            source=evaluation.reference,
            content=describe_source(evaluation.reference),
        )


def stage_of(trial: Trial, extractor: Stage) -> Stage:
    """The stage of what a trial's samples are held to."""
    source = trial.evaluation.reference
    label = f"{trial.data.name} train"
    if isinstance(source, StatisticsFile):
        label = Path(source.path).name
    elif isinstance(source, ReferenceImages):
        place = getattr(source.images, "path", "")
        label = Path(place).name if place else f"{trial.data.name} {source.images.kind}"
    config, inputs = ReferenceStage.of(trial), {"extractor": extractor}
    return Stage(kind="reference", config=config, inputs=inputs, label=label)


@torch.no_grad()
def run(config: ReferenceStage, context: StageContext) -> Mapping[str, Any]:
    """Accumulate the statistics of the reference images, or take those of a file."""
    extractor = load_extractor(context.inputs["extractor"], context.device, config.extraction)
    source = config.source
    if isinstance(source, StatisticsFile):
        check_file(source.path, config.content)
        reference, found = _from_file(source, extractor, config, context), {}
    elif isinstance(source, ReferenceImages):
        images = open_image_set(source.images)
        reference = _extracted(
            images.images, np.arange(images.num_images), extractor, config, context
        )
        found = {"skipped": list(images.skipped)}
    else:
        dataset = open_dataset(config.data)
        chosen = take(dataset, "train", config.num_images)
        read = partial(dataset.images, "train", pipeline=published(config.crop))
        reference = _extracted(read, chosen, extractor, config, context)
        found = describe_content(dataset, "train")
    if context.world.is_first:
        reference.statistics.require_spread()
    write_tensors(context.work.payload / "reference.safetensors", reference.to_tensors())
    return {
        "num_images": reference.statistics.num_samples,
        "feature_dim": extractor.feature_dim,
        **found,
    }


def _extracted(
    read: Callable[[Int64[np.ndarray, " b"]], UInt8[Tensor, "b 3 h w"]],
    chosen: Int64[np.ndarray, " n"],
    extractor: FeatureExtractor,
    config: ReferenceStage,
    context: StageContext,
) -> Reference:
    """Statistics of the chosen images, and the features of some spread evenly over them."""
    # Moments are of all images. Precision, recall and the kernel distance need features one by one,
    # which at ImageNet's size would be 10 GB: they take a part, spread evenly.
    kept = min(config.num_features, len(chosen))
    place = np.full(len(chosen), kept)
    place[spread(kept, len(chosen))] = np.arange(kept)
    reference = Reference.empty(extractor.feature_dim, kept, context.device)
    rounds = Rounds(context, len(chosen), config.batch_size)
    for part in rounds.take_parts():
        reference = reference.merge(Reference.from_tensors(part))
    turns = list(rounds)
    # Read and decoded while the device computes.
    own = [chosen[turn.positions] for turn in turns if len(turn.positions)]
    ahead = context.ahead(lambda number: read(own[number]), range(len(own)))
    for turn in turns:
        if len(local := turn.positions):
            images = next(ahead)
            for rows in slices_of(len(images), context.slices):
                found = extractor.extract(images[rows])
                reference = reference.update(found, torch.from_numpy(place[local[rows]]))
        rounds.end(turn, reference.to_tensors)
    for other in context.world.gather(reference)[1:]:
        reference = reference.merge(other)
    return reference


def _from_file(
    source: StatisticsFile,
    extractor: FeatureExtractor,
    config: ReferenceStage,
    context: StageContext,
) -> Reference:
    """Moments as others computed them; features come from the images in the file, if any."""
    given = read_statistics(Path(source.path).expanduser())
    given.require_extractor(
        name=extractor.name, identity=extractor.identity, feature_dim=extractor.feature_dim
    )
    count, bank = _count(source, given), None
    if given.images is not None:
        images = open_image_set(given.images)
        chosen = spread(min(config.num_features, images.num_images), images.num_images)
        bank = _extracted(images.images, chosen, extractor, config, context).bank
    spatial = None
    if given.spatial_mean is not None and given.spatial_covariance is not None:
        spatial = FeatureStatistics.from_moments(
            given.spatial_mean, given.spatial_covariance, count
        )
    return Reference(
        statistics=FeatureStatistics.from_moments(given.mean, given.covariance, count),
        spatial=spatial,
        bank=bank,
    )


def _count(source: StatisticsFile, given: ImportedStatistics) -> int:
    """How many images are behind the statistics."""
    count = given.num_samples or source.num_images
    if count is None:
        raise ValueError(
            f"the number of images behind {source.path} must be known, but the file does not say; "
            "set evaluation.reference.num_images (ADM's ImageNet reference: 1281167)"
        )
    return count


def check_given(stage: Stage) -> None:
    """Refuse statistics that cannot be read, or are of other features than the extractor's."""
    source, extractor = stage.config.source, stage.inputs["extractor"].config
    if not isinstance(source, StatisticsFile) or missing(stage.config, ""):
        return
    try:
        given = read_statistics(Path(source.path).expanduser())
        # Weights that are made here are compared when they are.
        identity = extractor.encoder.describe().removeprefix("sha256 ")
        given.require_extractor(
            name=extractor.encoder.feature_name,
            identity=given.extractor_identity or identity,
            feature_dim=feature_dim_of(extractor),
        )
        _count(source, given)
    except ValueError as error:
        raise ConfigError(str(error), path=f"trial.{PLACE}") from error


def load_reference(artifact: Artifact) -> Reference:
    """Read the statistics and features that samples are compared with."""
    return Reference.from_tensors(artifact.tensors("reference.safetensors"))


def estimate(stage: Stage) -> Estimate:
    """Extracting the features of the images."""
    config: ReferenceStage = stage.config
    extractor = stage.inputs["extractor"].config
    dim = feature_dim_of(extractor)
    # Moments of pooled and of spatial features, which are about as wide, in float64.
    disk = 2 * 8 * dim**2 + BYTES * dim * min(config.num_features, config.num_images)
    flops = config.num_images * flops_per_image(extractor)
    return Estimate(flops=flops, disk_bytes=disk, images=config.num_images)


def missing(config: ReferenceStage, _path: str) -> list[MissingItem]:
    """The file or set that takes the place of the training images."""
    if isinstance(config.source, StatisticsFile):
        return missing_checkpoint("the reference statistics", config.source.path, PLACE)
    return config.source.images.missing() if isinstance(config.source, ReferenceImages) else []


KIND = StageKind(
    version=2,
    run=run,
    estimate=estimate,
    check_given=check_given,
    images=lambda config: None if config.content else config.data,
    missing=missing,
    compiles=False,
)
