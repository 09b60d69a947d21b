"""Stage `scores`: metrics of samples that were kept, or of their features, without sampling again.

What the samples' own record has is not measured again. A metric that this program learns later is
one more name in the configuration: the stage runs anew, and the samples stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.config.trial import Trial
from harness.data.sample_archive import SampleArchive
from harness.metrics.extractors import ExtractionConfig
from harness.metrics.frechet import self_test
from harness.metrics.sample_scores import METRICS, SampleScores
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.stages.encoder.stage import feature_dim_of, flops_per_image, load_extractor
from harness.stages.generation import FEATURES, GenerationStage, check_same_images
from harness.stages.reference import load_reference
from harness.stages.running.context import StageContext
from harness.stages.running.rounds import Rounds
from harness.stages.stage import Estimate, Stage, StageKind
from models.batch_part import slices_of


@dataclass(frozen=True, kw_only=True)
class ScoresStage:
    """Configuration of the stage; its inputs are `generation`, `extractor` and `reference`."""

    metrics: tuple[str, ...]
    """What is measured: all that this program knows."""
    num_images: int
    batch_size: int
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)


def stage_of(trial: Trial, generation: Stage, inputs: Mapping[str, Stage]) -> Stage:
    """The stage that scores what a `generation` has kept."""
    evaluation = trial.evaluation
    config = ScoresStage(
        metrics=METRICS,
        num_images=evaluation.num_images,
        batch_size=evaluation.batch_size,
        extraction=evaluation.extraction,
    )
    read = {name: inputs[name] for name in ("extractor", "reference")}
    return Stage(
        kind="scores",
        config=config,
        inputs={"generation": generation, **read},
        label=generation.label,
    )


@torch.no_grad()
def run(config: ScoresStage, context: StageContext) -> Mapping[str, Any]:
    """Measure what the samples' record lacks, from their features or from the images."""
    made, reference = context.inputs["generation"], context.inputs["reference"]
    if all(name in made.result for name in config.metrics):
        return {}
    device, is_first = context.device, context.world.is_first
    self_test(device)
    check_same_images(made, reference)
    extractor = load_extractor(context.inputs["extractor"], device, config.extraction)
    scores = SampleScores(extractor, config.num_images, device)
    if FEATURES in made.record["files"]:
        if is_first:
            tensors = made.tensors(FEATURES)
            del tensors["labels"]
            scores.restore(tensors, config.batch_size)
    else:
        archive = SampleArchive(made.file("samples.npz"))
        _extract(archive, scores, config, context)
        if is_first:
            scores.write_statistics(context.work.payload / "statistics.safetensors")
    if not is_first:
        return {}
    found = scores.compute(load_reference(reference))
    return {name: value for name, value in found.items() if name not in made.result}


def _extract(
    archive: SampleArchive, scores: SampleScores, config: ScoresStage, context: StageContext
) -> None:
    """Show the images to the extractor, each worker its batches; the first one gets all sums."""
    images, labels = archive.array("arr_0"), torch.from_numpy(archive.array("arr_1").copy())
    rounds = Rounds(context, config.num_images, config.batch_size)
    for part in rounds.take_parts():
        scores.add_tensors(part)
    for turn in rounds:
        if len(turn.positions):
            positions = torch.from_numpy(turn.positions)
            # A copy in the order that networks take: kept images lie channels last.
            pixels = torch.from_numpy(images[turn.positions]).permute(0, 3, 1, 2).contiguous()
            asked = labels[positions].to(context.device)
            for rows in slices_of(len(pixels), context.slices):
                seen = pixels[rows].to(context.device)
                scores.update(seen, asked[rows], positions[rows])
        rounds.end(turn, scores.to_tensors)
    for state in context.world.gather(scores.state)[1:]:
        scores.merge(state)


def estimate(stage: Stage) -> Estimate:
    """Features of kept images; features that were kept cost next to nothing."""
    config: ScoresStage = stage.config
    made: GenerationStage = stage.inputs["generation"].config
    if not made.keeps_samples:
        return Estimate(flops=0.0, disk_bytes=1e4)
    extractor = stage.inputs["extractor"].config
    flops = config.num_images * flops_per_image(extractor)
    disk = 2 * 8 * feature_dim_of(extractor) ** 2
    return Estimate(flops=flops, disk_bytes=disk, images=config.num_images)


KIND = StageKind(version=1, run=run, estimate=estimate, compiles=False)
