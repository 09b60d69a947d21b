"""Stage `reference`: feature statistics of the training split, which generated images are held to.

Images are read without augmentation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.data import open_dataset
from harness.data.dataset import batches, spread
from harness.metrics.frechet import FeatureStatistics
from harness.stages.context import StageContext
from harness.stages.encoder import load_extractor
from harness.store import write_tensors
from harness.trial import Crop, DataConfig, Trial, published

VERSION = 1
"""Raised by hand when the numbers that this stage makes change."""


@dataclass(frozen=True, kw_only=True)
class ReferenceStage:
    """What the stage reads, beside the extractor."""

    data: DataConfig
    crop: Crop
    """Crop and resize of the images; `training`: the data set's own, centred."""
    num_images: int
    """Images, spread evenly over the training split."""
    batch_size: int

    @classmethod
    def of(cls, trial: Trial) -> "ReferenceStage":
        """The reference that a trial's samples are held to."""
        evaluation = trial.evaluation
        return cls(
            data=trial.data,
            crop=evaluation.reference_crop,
            num_images=evaluation.num_reference or trial.data.num_train_images,
            batch_size=evaluation.batch_size,
        )


def run(config: ReferenceStage, context: StageContext) -> Mapping[str, Any]:
    """Accumulate the statistics of the reference images."""
    dataset = open_dataset(config.data)
    extractor = load_extractor(context.inputs["extractor"], context.device)
    statistics = FeatureStatistics.empty(extractor.feature_dim, context.device)
    chosen = spread(config.num_images, dataset.num_images("train"))
    for local in batches(len(chosen), config.batch_size):
        images = dataset.images("train", chosen[local], published(config.crop))
        statistics = statistics.update(extractor.features(images))
        context.after_step(int(local[-1]) + 1, len(chosen), dict)
    write_tensors(context.work.payload / "statistics.safetensors", statistics.to_tensors())
    return {
        "num_images": config.num_images,
        "feature_dim": extractor.feature_dim,
        "data_fingerprint": dataset.fingerprint(),
    }
