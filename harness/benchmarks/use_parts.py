"""What trained networks are used for, and what feeds them: encoding, sampling, metrics, data."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.benchmarks.bench import Bench
from harness.benchmarks.images import write_folder, write_parquet
from harness.benchmarks.rows import Row
from harness.benchmarks.step_parts import on_threads
from harness.benchmarks.turns import repeated
from harness.benchmarks.variants import Variant
from harness.cost import (
    decoding_flops_per_image,
    encoder_flops_per_image,
    encoding_flops_per_image,
    generator_flops_per_image,
)
from harness.data import DatasetConfig, ParquetConfig, open_dataset
from harness.data.stream import BatchStream
from harness.keys import to_plain
from harness.metrics.sample_scores import SampleScores
from harness.stages.encoder import load_extractor
from harness.stages.generation import GenerationStage, Sampling
from harness.stages.generator import GeneratorStage
from harness.stages.tokenizer import AnyAutoencoder, load_tokenizer
from harness.store import Artifact
from harness.training import Precision, arithmetic
from harness.trial import TokenizerConfig
from models.guidance import ClassifierFreeGuidance, NoGuidance, guidance_is_on
from models.lightningdit import LightningDiT, LightningDiTConfig
from models.rounding import round_weights
from models.sampler import SamplerConfig, time_grid

SCALE = 6.7
INTERVAL = (0.125, 1.0)
"""Guidance of the published 64-epoch model."""
DATA_IMAGES = 2_000
"""Images of a generated data set at most."""


def encoding(bench: Bench) -> list[Row]:
    """Images to latents, as the latents stage's network does it, under every variant."""
    subject = bench.subject
    stage = subject.stage("latents")
    tokenizer = subject.artifact(stage.inputs["tokenizer"])
    images = _noise_images(bench, subject.trial.latents.batch_size)
    flops = encoding_flops_per_image(stage.inputs["tokenizer"].config)
    row = Row(
        part="encoding",
        what="encoder",
        images=len(images),
        configuration=json.dumps({"batch_size": len(images)}),
    )
    variants = [Variant(name="plain"), Variant(name="plain + channels last", channels_last=True)]
    variants.append(Variant(name="plain + bf16", precision="bf16"))
    if bench.compiled:
        variants.append(Variant(name="plain + compile", compile=True))
    if bench.device.type == "cuda":
        variants.append(Variant(name="plain + tf32", precision="tf32"))
    if why := bench.takes_too_long(flops * len(images) * len(variants), "fp32"):
        return [dataclasses.replace(row, status="skipped", reason=why)]
    loops = {v.name: _encoding_loop(bench, tokenizer, images, v) for v in variants}
    return _timed(bench, row, variants, loops, dict.fromkeys(loops, flops))


def _encoding_loop(
    bench: Bench, tokenizer: Artifact, images: Tensor, variant: Variant
) -> Callable[[], object]:
    network = load_tokenizer(
        tokenizer, bench.device, compiled=variant.compile, channels_last=variant.channels_last
    )

    def encode() -> Tensor:
        with torch.no_grad(), arithmetic(variant.precision, bench.device):
            return network.encode(images).mode()

    return encode


def sampling(bench: Bench, sizes: Mapping[str, LightningDiTConfig]) -> list[Row]:
    """Noise to pixels without guidance, with it everywhere, and with it inside its interval."""
    subject = bench.subject
    if subject.trial.generator is None:
        reason = "the trial has no generator"
        return [Row(part="sampling", what="generator", status="skipped", reason=reason)]
    stage = subject.stage("generation")
    tokenizer = subject.artifact(stage.inputs["tokenizer"])
    network = load_tokenizer(tokenizer, bench.device)
    rows: list[Row] = []
    for name, size in sizes.items():
        generator = stage.inputs["generator"].config
        changed = dataclasses.replace(generator.generator, size=size.size)
        changed = dataclasses.replace(generator, generator=changed)
        model = changed.build()
        rows += _sampling_of_one(bench, name, changed, model, network)
    return rows


def _sampling_of_one(
    bench: Bench,
    name: str,
    generator: GeneratorStage,
    model: LightningDiT,
    network: AnyAutoencoder,
) -> list[Row]:
    stage = bench.subject.stage("generation")
    sampler = _cut_sampler(stage.config.sampler, bench.num_points)
    count = bench.subject.batch_size or bench.subject.trial.evaluation.batch_size
    velocity_flops = generator_flops_per_image(generator)
    decoder_flops = decoding_flops_per_image(stage.inputs["tokenizer"].config)
    row = Row(
        part="sampling",
        what=name,
        images=count,
        reason=f"{sampler.num_function_evaluations} evaluations",
        configuration=json.dumps({"sampler": to_plain(sampler), "batch_size": count}),
    )
    variants, flops, loops = [], {}, {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if bench.device.type == "cuda":
        precisions = ("fp32", "tf32")
    models = dict.fromkeys(precisions, model)
    if "bf16" in models:
        models["bf16"] = copy.deepcopy(model)
        round_weights(models["bf16"])
    for precision in precisions:
        for words, guidance in GUIDANCES.items():
            variant = Variant(name=f"{words}, {precision}", precision=precision)
            config = dataclasses.replace(
                stage.config, sampler=sampler, guidance=guidance, precision=precision
            )
            variants.append(variant)
            flops[variant.name] = velocity_flops * _evaluations(sampler, guidance) + decoder_flops
            loops[variant.name] = _sampling_loop(bench, models[precision], network, config, count)
    if why := bench.takes_too_long(sum(flops.values()) * count, "fp32"):
        return [dataclasses.replace(row, status="skipped", reason=why)]
    for each in models.values():
        each.to(bench.device).eval().requires_grad_(False)
    return _timed(bench, row, variants, loops, flops)


GUIDANCES: Mapping[str, NoGuidance | ClassifierFreeGuidance] = {
    "guidance everywhere": ClassifierFreeGuidance(scale=SCALE),
    "guidance in its interval": ClassifierFreeGuidance(
        scale=SCALE, interval_start=INTERVAL[0], interval_end=INTERVAL[1]
    ),
    "no guidance": NoGuidance(),
}
"""Guidance inside its interval is held to guidance at every step."""


def _cut_sampler(sampler: SamplerConfig, num_points: int) -> SamplerConfig:
    """A fixed number of steps; an adaptive solver would choose its own for untrained networks."""
    if sampler.kind == "dopri5":
        return SamplerConfig(num_steps=num_points)
    return dataclasses.replace(sampler, num_steps=min(sampler.num_steps, num_points))


def _evaluations(sampler: SamplerConfig, guidance: NoGuidance | ClassifierFreeGuidance) -> int:
    """Passes of one image through the generator, the null class's included."""
    starts = time_grid(sampler).tolist()[:-1]
    per_step = (sampler.num_function_evaluations or 0) // len(starts)
    guided = sum(guidance_is_on(guidance, start) for start in starts)
    return per_step * (len(starts) + guided)


def _sampling_loop(
    bench: Bench,
    model: LightningDiT,
    network: AnyAutoencoder,
    config: GenerationStage,
    count: int,
) -> Callable[[], object]:
    layout = model.layout
    ones = torch.ones(1, layout.channels, 1, 1, device=bench.device)
    labels = torch.arange(count, device=bench.device) % model.num_classes
    drawn = Sampling(
        model=model,
        weak=None,
        tokenizer=network,
        mean=torch.zeros_like(ones),
        std=ones,
        config=config,
        device=bench.device,
    )
    random = torch.Generator(device=bench.device).manual_seed(0)

    def images() -> Tensor:
        with torch.no_grad():
            return drawn.images(labels, random)

    return images


def metrics(bench: Bench) -> list[Row]:
    """Images to features and their moments, as the generation stage adds up its samples."""
    subject = bench.subject
    stage = subject.stage("generation")
    source = stage.inputs["extractor"]
    extraction = stage.config.extraction
    extractor = load_extractor(subject.artifact(source), bench.device, extraction)
    side, count = subject.trial.data.resolution, subject.trial.evaluation.batch_size
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=bench.device)
    labels = torch.zeros(count, dtype=torch.int64, device=bench.device)
    flops = encoder_flops_per_image(source.config)
    row = Row(
        part="metric pipeline",
        what=f"{extractor.name}, all accumulators",
        images=count,
        reason=subject.notes.get("extractor", ""),
        configuration=json.dumps({**to_plain(extraction), "batch_size": count}),
    )
    if why := bench.takes_too_long(flops * count, "fp32"):
        return [dataclasses.replace(row, status="skipped", reason=why)]
    state = {"scores": SampleScores(extractor, count, bench.device)}

    def update() -> None:
        state["scores"] = SampleScores(extractor, count, bench.device)
        state["scores"].update(images, labels)

    variant = Variant(name="", precision="fp32")
    return _timed(bench, row, [variant], {"": update}, {"": flops})


def data(bench: Bench, folder: Path) -> list[Row]:
    """Files to batches of pixels, as training asks for them, without anything that computes."""
    trial = bench.subject.trial
    resolution = trial.data.resolution
    count = trial.latents.batch_size
    if isinstance(trial.tokenizer, TokenizerConfig):
        count = bench.subject.batch_of(trial.tokenizer.training).batch_size
    files = write_parquet(folder / "parquet", resolution, DATA_IMAGES, 10)
    assert isinstance(files, ParquetConfig)
    sources: dict[str, DatasetConfig] = {
        "parquet": files,
        "parquet, pixels in memory": dataclasses.replace(files, keep="memory"),
        "image folder": write_folder(folder / "folder", resolution, DATA_IMAGES),
    }
    loops = {name: _reading_loop(config, count) for name, config in sources.items()}
    row = Row(
        part="data pipeline",
        what=f"generated JPEG to {resolution} px",
        images=count,
        configuration=json.dumps({"batch_size": count, "crop": files.crop}),
    )
    variants = [Variant(name=name) for name in sources]
    rows = _timed(bench, row, variants, loops, {})
    # Several formats are not variants of one thing.
    return [dataclasses.replace(each, to_plain=None, precision="") for each in rows]


def _reading_loop(config: DatasetConfig, count: int) -> Callable[[], object]:
    dataset = open_dataset(config)
    stream = BatchStream(dataset=dataset, split="train", batch_size=count, seed=0, augment=True)
    steps = itertools.count()
    return lambda: stream.batch(next(steps))


def _noise_images(bench: Bench, count: int) -> Tensor:
    side = bench.subject.trial.data.resolution
    return torch.rand(count, 3, side, side, device=bench.device) * 2 - 1


def _timed(
    bench: Bench,
    row: Row,
    variants: Sequence[Variant],
    loops: Mapping[str, Callable[[], object]],
    flops: Mapping[str, float],
) -> list[Row]:
    """A row a variant; the first is the one that others are held to."""
    times = bench.run(
        {name: repeated(on_threads(function, bench.threads)) for name, function in loops.items()},
        together=True,
    )
    plain = times[variants[0].name] if len(variants) > 1 else None
    rows = []
    for variant in variants:
        named = dataclasses.replace(row, variant=variant.name)
        if variant.name in flops:
            named = bench.with_peak(named, variant.precision, flops[variant.name])
        rows.append(bench.row(named, times[variant.name], plain))
    return rows
