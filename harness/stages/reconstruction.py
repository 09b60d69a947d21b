"""Stage `reconstruction`: what a tokenizer loses, measured on the evaluation split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from harness.config.data import Crop, DataConfig, published
from harness.config.perceptual import LPIPSMetric, PerceptualMetric, describe_lpips, missing_lpips
from harness.config.trial import Trial
from harness.data import open_dataset
from harness.data.dataset import left_out, take
from harness.data.pixel_range import to_model_range, to_uint8
from harness.machine.random_streams import generator_for
from harness.metrics.extractors import ExtractionConfig
from harness.metrics.frechet import self_test
from harness.metrics.reconstruction_scores import ReconstructionScores
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.stages.encoder.stage import flops_per_image as encoder_flops
from harness.stages.encoder.stage import load_extractor
from harness.stages.running.context import StageContext
from harness.stages.running.image_grids import save_pairs
from harness.stages.running.rounds import Rounds
from harness.stages.stage import Estimate, Stage, StageKind
from harness.stages.tokenizer.kind import config_of
from harness.stages.tokenizer.stage import flops_per_image as tokenizer_flops
from harness.stages.tokenizer.stage import load_tokenizer
from models.batch_part import slices_of
from models.latent import IndexLayout
from models.perceptual import LPIPS, NoPerceptual, build_lpips
from models.posterior import IndexPosterior, draw, join


@dataclass(frozen=True, kw_only=True)
class ReconstructionStage:
    """Configuration of the stage; its other inputs are tokenizer and extractor."""

    data: DataConfig
    split: str
    crop: Crop
    """Crop and resize of the evaluated images; `training`: the data set's own, centred."""
    num_images: int
    """Images, spread evenly over the evaluation split."""
    posterior: Literal["sample", "mode"]
    perceptual: PerceptualMetric
    perceptual_weights: str
    """Hashes of the weights of LPIPS; empty without it."""
    batch_size: int
    seed: int
    """Seed of the posterior's noise."""
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)

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
            extraction=evaluation.extraction,
        )


def stage_of(trial: Trial, tokenizer: Stage, extractor: Stage) -> Stage:
    """The stage that measures a trial's tokenizer."""
    return Stage(
        kind="reconstruction",
        config=ReconstructionStage.of(trial),
        inputs={"tokenizer": tokenizer, "extractor": extractor},
        label=tokenizer.label,
    )


@torch.no_grad()
def run(config: ReconstructionStage, context: StageContext) -> Mapping[str, Any]:
    """Reconstruct the evaluation images and compare them with the originals."""
    device = context.device
    self_test(device)
    dataset = open_dataset(config.data)
    pipeline = published(config.crop)
    extractor = load_extractor(context.inputs["extractor"], device, config.extraction)
    perceptual = load_perceptual(config.perceptual, device)
    layout = config_of(context.inputs["tokenizer"]).tokenizer.layout(config.data.resolution)
    codes = layout if isinstance(layout, IndexLayout) else None
    scores = ReconstructionScores(extractor, perceptual, device, codes)
    tokenizer = load_tokenizer(
        context.inputs["tokenizer"],
        device,
        compiled=context.resources.compile,
        channels_last=context.resources.channels_last,
    )
    chosen = take(dataset, "eval", config.num_images)
    rounds = Rounds(context, len(chosen), config.batch_size)
    for part in rounds.take_parts():
        scores.add_tensors(part)
    for turn in rounds:
        if len(turn.positions):
            pixels = dataset.images("eval", chosen[turn.positions], pipeline).to(device)
            images = to_model_range(pixels)
            parts = list(slices_of(len(images), context.slices))
            posterior = join([tokenizer.encode(images[rows]) for rows in parts])
            if config.posterior == "sample":
                random = generator_for(config.seed, "posterior", turn.number, device=device)
                latents = draw(posterior, random)
            else:
                latents = posterior.mode()
            if isinstance(posterior, IndexPosterior):
                scores.count_codes(posterior.indices)
            decoded = torch.cat([tokenizer.decode(latents[rows]) for rows in parts])
            # Features and PSNR see 8-bit images, as files would hold them; SSIM and LPIPS see the
            # decoder's own output, as in the published script.
            rounded = to_uint8(decoded)
            for rows in parts:
                scores.update(decoded[rows], rounded[rows], pixels[rows])
            if turn.number == 0:
                save_pairs(context.work.payload / "reconstructions.png", pixels, rounded)
        rounds.end(turn, scores.to_tensors)
    states = context.world.gather(scores.state)
    if not context.world.is_first:
        return {}
    for state in states[1:]:
        scores.merge(state)
    return {**scores.compute(), **left_out(dataset, "eval")}


def load_perceptual(config: NoPerceptual | LPIPSMetric, device: torch.device) -> LPIPS | None:
    """LPIPS as a metric, frozen, where it is asked for."""
    return build_lpips(config.as_loss()).to(device) if isinstance(config, LPIPSMetric) else None


def estimate(stage: Stage) -> Estimate:
    """Encoding, decoding, and the features of originals and reconstructions."""
    config: ReconstructionStage = stage.config
    per_image = tokenizer_flops(stage.inputs["tokenizer"].config)
    per_image += 2 * encoder_flops(stage.inputs["extractor"].config)
    flops = config.num_images * per_image
    return Estimate(flops=flops, disk_bytes=1e5, images=config.num_images)


KIND = StageKind(
    version=2,
    run=run,
    estimate=estimate,
    missing=lambda config, _path: missing_lpips(config.perceptual, "evaluation.perceptual"),
    convolves=True,
)
