"""Stage `generation`: samples of one generator snapshot under one guidance setting, and metrics.

Where samples or their features are kept, metrics are the work of the stage `scores`.
"""

import time
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from harness.config.evaluation import AutoGuidanceWith, Guidance
from harness.config.resources import Resources
from harness.config.samplers import AnySampler
from harness.config.training import Precision
from harness.config.trial import Trial
from harness.data.dataset import CONTENT
from harness.data.pixel_range import to_uint8
from harness.machine.random_streams import derive_seed, generator_for
from harness.metrics.extractors import ExtractionConfig
from harness.metrics.frechet import self_test
from harness.metrics.sample_scores import SampleScores
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.stages.encoder.stage import feature_dim_of, load_extractor
from harness.stages.encoder.stage import flops_per_image as encoder_flops
from harness.stages.flops import BYTES
from harness.stages.generator import stage as generator_stage
from harness.stages.generator.kind import GeneratorStage
from harness.stages.generator.kinds import kind_of
from harness.stages.generator.stage import load_generator
from harness.stages.reference import load_reference
from harness.stages.running.context import StageContext
from harness.stages.running.image_grids import save_grid
from harness.stages.running.kept_samples import KeptSamples
from harness.stages.running.optimisation import arithmetic
from harness.stages.running.rounds import Rounds
from harness.stages.stage import Estimate, Stage, StageKind
from harness.stages.tokenizer.stage import flops_per_image as tokenizer_flops
from harness.stages.tokenizer.stage import load_tokenizer
from harness.storage.artifacts import Artifact, write_tensors
from models.batch_part import slices_of
from models.dual_autoencoder import DualAutoencoder
from models.guidance import ClassifierFreeGuidance, NoGuidance
from models.steps import LISTENER
from models.token_sampling import LogitGuidance
from models.tokenizer import TokenizerNetwork

FEATURES = "features.safetensors"
"""Features of the samples, where they are kept: `features.features`, and `labels` asked for."""
RATE = "sampling_images_per_s"
"""What is measured of sampling and decoding, metrics left out, in the artifact's cost."""
GRID_ROWS, GRID_COLUMNS = 8, 10
"""Shown samples: the first classes side by side, one noise a row."""


@dataclass(frozen=True, kw_only=True)
class GenerationStage:
    """Configuration of the stage; its inputs are generator and tokenizer, the extractor unless
    samples are kept for it, and the reference where nothing is kept."""

    step: int
    """Training step of the snapshot."""
    guidance: Guidance
    weak_step: int | None
    """Training step of the weaker model's snapshot, under AutoGuidance."""
    sampler: AnySampler
    num_images: int
    label_policy: Literal["balanced", "random", "data"]
    batch_size: int
    seed: int
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)
    keep_samples: bool = field(default=False, metadata=KEY_UNLESS_DEFAULT)
    precision: Precision = field(default="fp32", metadata=KEY_UNLESS_DEFAULT)
    keep: Literal["none", "features", "samples"] = field(
        default="none", metadata=KEY_UNLESS_DEFAULT
    )
    requantise: bool = field(default=False, metadata=KEY_UNLESS_DEFAULT)
    """Whether latents are brought to codes before they are decoded."""

    @property
    def keeps_samples(self) -> bool:
        """Whether the images stay."""
        return self.keep_samples or self.keep == "samples"

    @classmethod
    def of(
        cls, trial: Trial, *, step: int, guidance: Guidance, weak_step: int | None, number: int = 0
    ) -> "GenerationStage":
        """How a trial's generator is measured at one snapshot under one guidance setting.

        Args:
            weak_step: Training step of the weaker model's snapshot, under AutoGuidance.
            number: Which of the sampling seeds, from 0.
        """
        evaluation, keep = trial.evaluation, trial.evaluation.keep
        seed = evaluation.seed
        assert seed is not None
        return cls(
            step=step,
            guidance=guidance,
            weak_step=weak_step,
            sampler=evaluation.sampler,
            num_images=evaluation.num_images,
            label_policy=evaluation.label_policy,
            batch_size=evaluation.batch_size,
            seed=derive_seed(seed, "samples", number) if number else seed,
            extraction=ExtractionConfig() if keep == "samples" else evaluation.extraction,
            keep_samples=evaluation.keep_samples,
            precision=evaluation.sampling_precision,
            keep=keep,
            requantise=getattr(trial.tokenizer, "latents", "") == "requantised",
        )


def stage_of(
    trial: Trial,
    inputs: Mapping[str, Stage],
    *,
    step: int,
    guidance: Guidance,
    weak: Trial | None,
    number: int,
) -> Stage:
    """The stage of a trial's samples at one snapshot under one guidance setting.

    Args:
        inputs: Its `generator`, `tokenizer`, `extractor` and `reference`.
        weak: The trial whose generator is the weaker model, under AutoGuidance.
        number: Which of the sampling seeds, from 0.
    """
    assert trial.generator is not None
    parts, weak_step = [inputs["generator"].label], None
    if step != inputs["generator"].config.steps:
        parts.append(f"step {step}")
    if guidance.kind != "none":
        parts.append(guidance_label(guidance))
    if number:
        parts.append(f"samples {number + 1}")
    if weak is not None:
        assert weak.generator is not None
        assert isinstance(guidance, AutoGuidanceWith)
        weak_step = guidance.step or weak.generator.snapshot_steps[-1]
        weak_stage = generator_stage.stage_of(weak, weak.generator, inputs["tokenizer"])
        inputs = {**inputs, "weak": weak_stage}
    config = GenerationStage.of(
        trial, step=step, guidance=guidance, weak_step=weak_step, number=number
    )
    # What only scores is no input of samples that are kept to be scored.
    left_out = {"none": (), "features": ("reference",), "samples": ("reference", "extractor")}
    inputs = {name: s for name, s in inputs.items() if name not in left_out[config.keep]}
    return Stage(kind="generation", config=config, inputs=inputs, label=", ".join(parts))


def guidance_label(guidance: Guidance) -> str:
    """A guidance setting in a few words: `none`, `cfg 4`, `cfg texture 1.3 semantic 1.8`."""
    if guidance.kind == "none":
        return guidance.kind
    if isinstance(scale := guidance.scale, dict):
        return f"{guidance.kind} {' '.join(f'{name} {own:g}' for name, own in scale.items())}"
    linear = " linear" if isinstance(guidance, LogitGuidance) and guidance.is_linear else ""
    return f"{guidance.kind} {scale:g}{linear}"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Everything that turns noise and labels into pixels."""

    generator: GeneratorStage
    model: nn.Module
    weak: nn.Module | None
    tokenizer: TokenizerNetwork
    mean: Tensor | None
    """Mean of each channel, by which latents were normalised; None of indices."""
    std: Tensor | None
    """Their deviation."""
    config: GenerationStage
    device: torch.device
    slices: int = 1
    """Parts in which networks see a batch."""

    def images(
        self, labels: Int64[Tensor, " b"], random: torch.Generator
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Draw latents, undo the normalisation, decode and round."""
        config, settings = self.config, self.generator.generator
        draw = kind_of(settings).draw
        with arithmetic(config.precision, self.device):
            latents = draw(
                self.model, labels, random, config.sampler, config.guidance, self.weak, self.slices
            )
            if settings.draws == "images":
                return to_uint8(latents)
            # Generators live in normalised latents; decoders want them as they were encoded.
            scaled = latents
            if self.mean is not None and self.std is not None:
                scaled = latents * self.std + self.mean
            parts = [scaled[rows] for rows in slices_of(len(scaled), self.slices)]
            if config.requantise:
                assert isinstance(self.tokenizer, DualAutoencoder)
                parts = map(self.tokenizer.requantised, parts)
            return torch.cat([to_uint8(self.tokenizer.decode(part)) for part in parts])


@torch.no_grad()
def run(config: GenerationStage, context: StageContext) -> Mapping[str, Any]:
    """Sample, extract features and compare with the reference, as far as these are inputs."""
    device, inputs = context.device, context.inputs
    self_test(device)
    sampling = load_sampling(config, inputs, device, context.resources, context.slices)
    generator, reference, scores = inputs["generator"], inputs.get("reference"), None
    if reference is not None:
        check_same_images(generator, reference)
    if "extractor" in inputs:
        extractor = load_extractor(inputs["extractor"], device, config.extraction)
        scores = SampleScores(extractor, config.num_images, device)
    labels = asked_labels(config, torch.tensor(generator.result["label_counts"])).to(device)
    rounds = Rounds(context, config.num_images, config.batch_size)
    for part in rounds.take_parts():
        if scores is not None:
            scores.add_tensors(part)
    kept = _kept(config, context, rounds.done)

    def accumulated() -> Mapping[str, Tensor]:
        if kept is not None:
            kept.end_file()
        return scores.to_tensors() if scores is not None else {}

    took: list[tuple[int, float]] = []
    for turn in rounds:
        images = None
        if len(turn.positions):
            positions = torch.from_numpy(turn.positions)
            asked = labels[positions.to(device)]
            # Noise depends on the number of the batch alone, so that any number of workers, and a
            # resumed stage, draws the same samples.
            random = generator_for(config.seed, "noise", turn.number, device=device)
            started = _seconds(device)
            listening = copy_context()
            listening.run(LISTENER.set, partial(rounds.sampling, turn))
            images = listening.run(sampling.images, asked, random)
            took.append((len(images), _seconds(device) - started))
            if scores is not None:
                for rows in slices_of(len(images), context.slices):
                    scores.update(images[rows], asked[rows], positions[rows])
        if config.keeps_samples:
            _keep(images, kept, context)
        rounds.end(turn, accumulated)
    if timed := took[1:] or took:
        # The first batch compiles and warms up.
        counts, seconds = zip(*timed, strict=True)
        context.measured[RATE] = context.world.size * sum(counts) / sum(seconds)
    states = context.world.gather(scores.state if scores is not None else {})
    if not context.world.is_first:
        return {}
    result: dict[str, Any] = {"num_function_evaluations": _evaluations(config, sampling.generator)}
    if kept is not None:
        kept.write_archive(context.work.payload / "samples.npz", labels)
    context.between_steps("grid of samples and distances", config.num_images, config.num_images)
    _save_samples(sampling, context)
    if scores is not None:
        for state in states[1:]:
            scores.merge(state)
        scores.write_statistics(context.work.payload / "statistics.safetensors")
        if config.keep == "features":
            features = {**scores.features(), "labels": labels.cpu()}
            write_tensors(context.work.payload / FEATURES, features)
    if scores is None or reference is None:
        # What the stage that scores holds to the reference in our stead.
        return result | {name: generator.result.get(name) for name in CONTENT}
    return {**scores.compute(load_reference(reference)), **result}


def asked_labels(config: GenerationStage, label_counts: Int64[Tensor, " k"]) -> Int64[Tensor, " n"]:
    """The classes asked for: in turn (`balanced`), drawn uniformly (`random`) or with the
    frequencies of the training split (`data`)."""
    count, num_classes = config.num_images, len(label_counts)
    random = generator_for(config.seed, "labels")
    if config.label_policy == "balanced":
        return torch.arange(count) % num_classes
    if config.label_policy == "random":
        return torch.randint(num_classes, (count,), generator=random)
    return torch.multinomial(label_counts.double(), count, replacement=True, generator=random)


def _seconds(device: torch.device) -> float:
    """A clock: of a CPU the processor time of a core, which other work on it hardly moves."""
    if device.type != "cuda":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _keep(images: Tensor | None, kept: KeptSamples | None, context: StageContext) -> None:
    """Keep a round's samples; only the first worker gets them all, in the order of ranks."""
    for batch in context.world.gather(images):
        if batch is not None and kept is not None:
            kept.add(batch)


def _kept(config: GenerationStage, context: StageContext, done: int) -> KeptSamples | None:
    """Open the files that become the archive, where samples are to be kept."""
    if not (config.keeps_samples and context.world.is_first):
        return None
    tokenizer = context.inputs["tokenizer"].record["config"]
    return KeptSamples(context.work, tokenizer["data"]["resolution"], done)


def load_sampling(
    config: GenerationStage,
    inputs: Mapping[str, Artifact],
    device: torch.device,
    resources: Resources,
    slices: int = 1,
) -> Sampling:
    """Load all that draws samples; ValueError where the generator learnt from another tokenizer."""
    generator, tokenizer = inputs["generator"], inputs["tokenizer"]
    _check_same_latents(generator, tokenizer)

    def statistic(name: str) -> Tensor | None:
        values = generator.result[name]
        return None if values is None else torch.tensor(values, device=device).view(1, -1, 1, 1)

    settings = {"rounded": config.precision == "bf16", "compiled": resources.compile}
    weak = None
    if isinstance(config.guidance, AutoGuidanceWith):
        assert config.weak_step is not None
        weak = load_generator(inputs["weak"], config.weak_step, device, **settings)
    return Sampling(
        generator=generator_stage.config_of(generator),
        model=load_generator(generator, config.step, device, **settings),
        weak=weak,
        tokenizer=load_tokenizer(
            tokenizer, device, compiled=resources.compile, channels_last=resources.channels_last
        ),
        mean=statistic("mean"),
        std=statistic("std"),
        config=config,
        device=device,
        slices=slices,
    )


def _check_same_latents(generator: Artifact, tokenizer: Artifact) -> None:
    learnt, given = generator.result["tokenizer_key"], tokenizer.record["key"]
    # What draws latents of any tokenizer of their layout has learnt from none that is known here.
    if learnt is not None and learnt != given:
        raise ValueError(
            f"a generator must be decoded by the tokenizer it learnt from ({learnt}), but got "
            f"{given}; sample it with its own tokenizer"
        )


def check_same_images(generator: Artifact, reference: Artifact) -> None:
    """Refuse a reference of other images under the same name than the generator has learnt from."""
    for name in CONTENT:
        learnt, held_to = (a.result.get(name) for a in (generator, reference))
        # Nobody knows the images behind a folder of latents or a file of statistics.
        if None not in (learnt, held_to) and learnt != held_to:
            raise ValueError(
                f"samples must be held to the images that the generator learnt from ({name} "
                f"{learnt}), but the reference was made from others ({held_to}); another content "
                "of the data set needs another data.name"
            )


def _save_samples(sampling: Sampling, context: StageContext) -> None:
    columns = min(GRID_COLUMNS, sampling.generator.num_classes)
    labels = torch.arange(columns, device=sampling.device).repeat(GRID_ROWS)
    random = generator_for(sampling.config.seed, "grid", device=sampling.device)
    if context.slices > 1:
        # The grid may be larger than a batch; its slices are no larger than a batch's.
        pieces = -(-len(labels) * context.slices // sampling.config.batch_size)
        sampling = replace(sampling, slices=max(context.slices, pieces))
    images = sampling.images(labels, random)
    save_grid(context.work.payload / "samples.png", images, columns)


ADAPTIVE_EVALUATIONS = 100
"""Evaluations that an adaptive solver is taken to need; published runs need about so many."""


def estimate(stage: Stage) -> Estimate:
    """Sampling, decoding, and the features of the samples."""
    config, inputs = stage.config, stage.inputs
    tokenizer, extractor = inputs["tokenizer"].config, inputs.get("extractor")
    # Guidance counts where it is on alone; of an adaptive solver nobody knows how often that is.
    per_image = price(stage).get("sample_flops")
    if per_image is None:
        per_evaluation = generator_stage.flops_per_image(inputs["generator"].config)
        if config.guidance.kind in ("cfg", "cfg_logits"):
            per_evaluation *= 2
        if "weak" in inputs:
            per_evaluation += generator_stage.flops_per_image(inputs["weak"].config)
        per_image = ADAPTIVE_EVALUATIONS * per_evaluation + tokenizer_flops(tokenizer) / 2
    disk = 5e5
    if config.keeps_samples:
        disk += 3 * tokenizer.data.resolution**2 * config.num_images
    if extractor is not None:
        per_image += encoder_flops(extractor.config)
        dim = feature_dim_of(extractor.config)
        # Moments; single features, and moments of spatial ones, which are about as wide.
        disk += 8 * dim**2
        disk += BYTES * dim * config.num_images + 8 * dim**2 if config.keep == "features" else 0
    flops = config.num_images * per_image
    return Estimate(flops=flops, disk_bytes=disk, images=config.num_images)


def _evaluations(config: GenerationStage, generator: GeneratorStage) -> float | None:
    """Network evaluations a sample without guidance; None where the solver chooses its steps."""
    return kind_of(generator.generator).evaluations(generator, config.sampler, NoGuidance())


def price(stage: Stage) -> dict[str, float]:
    """What a sample costs, by column; empty where an adaptive solver chooses its steps."""
    config, generator = stage.config, stage.inputs["generator"].config
    kind, flops = kind_of(generator.generator), generator_stage.flops_per_image(generator)
    evaluations = kind.evaluations(generator, config.sampler, config.guidance)
    if evaluations is None:
        return {}
    if isinstance(guidance := config.guidance, AutoGuidanceWith):
        # The weak model is evaluated where guidance by a class would evaluate a second time.
        twice = ClassifierFreeGuidance(
            scale=guidance.scale,
            interval_start=guidance.interval_start,
            interval_end=guidance.interval_end,
            channels=guidance.channels,
        )
        guided = kind.evaluations(generator, config.sampler, twice)
        assert guided is not None
        weak = generator_stage.flops_per_image(stage.inputs["weak"].config)
        evaluations += (guided - evaluations) * weak / flops
    decoder = tokenizer_flops(stage.inputs["tokenizer"].config) / 2
    return {"sample_evaluations": evaluations, "sample_flops": evaluations * flops + decoder}


KIND = StageKind(version=3, run=run, estimate=estimate)
