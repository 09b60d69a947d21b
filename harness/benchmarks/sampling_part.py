"""Sampling: a generator's noise to pixels under every guidance and arithmetic."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from harness.benchmarks.measuring import Bench
from harness.benchmarks.rows import Row
from harness.benchmarks.timed import Maker, timed
from harness.benchmarks.variants import Variant
from harness.config.training import Precision
from harness.schema.keys import to_plain
from harness.stages.generation import GenerationStage, Sampling
from harness.stages.generator.stage import GeneratorStage
from harness.stages.generator.stage import flops_per_image as generator_flops_per_image
from harness.stages.tokenizer.stage import AnyAutoencoder, decoding_flops_per_image, load_tokenizer
from harness.storage.artifacts import Artifact
from models.guidance import ClassifierFreeGuidance, NoGuidance, guidance_is_on
from models.lightningdit import LightningDiT, LightningDiTConfig
from models.rounding import round_weights
from models.sampler import SamplerConfig, time_grid

SCALE = 6.7
INTERVAL = (0.125, 1.0)
"""Guidance of the published model after 800 epochs; after 64 it is 10.0 from time 0.1."""
GUIDANCES: Mapping[str, NoGuidance | ClassifierFreeGuidance] = {
    "guidance everywhere": ClassifierFreeGuidance(scale=SCALE),
    "guidance in its interval": ClassifierFreeGuidance(
        scale=SCALE, interval_start=INTERVAL[0], interval_end=INTERVAL[1]
    ),
    "no guidance": NoGuidance(),
}
"""Guidance inside its interval is held to guidance at every step."""


def sampling(bench: Bench, sizes: Mapping[str, LightningDiTConfig]) -> list[Row]:
    """Noise to pixels without guidance, with it everywhere, and with it inside its interval."""
    subject = bench.subject
    if subject.trial.generator is None:
        reason = "the trial has no generator"
        return [Row(part="sampling", what="generator", status="skipped", reason=reason)]
    stage = subject.stage("generation")
    tokenizer = subject.artifact(stage.inputs["tokenizer"])
    rows: list[Row] = []
    for name, size in sizes.items():
        generator = stage.inputs["generator"].config
        changed = dataclasses.replace(generator.generator, size=size.size)
        changed = dataclasses.replace(generator, generator=changed)
        rows += _sampling_of_one(bench, name, changed, tokenizer)
    return rows


def _sampling_of_one(
    bench: Bench,
    name: str,
    generator: GeneratorStage,
    tokenizer: Artifact,
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
    variants, flops, makers = [], {}, {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if bench.device.type == "cuda":
        precisions = ("fp32", "tf32", "bf16")
    networks = _Networks(bench, generator, tokenizer)
    for precision in precisions:
        for words, guidance in GUIDANCES.items():
            variant = Variant(name=f"{words}, {precision}", precision=precision)
            config = dataclasses.replace(
                stage.config, sampler=sampler, guidance=guidance, precision=precision
            )
            variants.append(variant)
            flops[variant.name] = velocity_flops * _evaluations(sampler, guidance) + decoder_flops
            makers[variant.name] = _sampling(bench, networks, config, count)
    decoded = {variant: decoder_flops / total for variant, total in flops.items()}
    return timed(bench, row, variants, makers, flops, convolutions=decoded)


@final
class _Networks:
    """A generator in every arithmetic and the decoder, made when they are first asked for.

    Where variants run one after the other, each alone in memory, the weights of one arithmetic go
    before those of another come.
    """

    def __init__(self, bench: Bench, config: GeneratorStage, tokenizer: Artifact) -> None:
        self._bench, self._config, self._tokenizer = bench, config, tokenizer
        self._held: dict[bool, LightningDiT] = {}
        self._decoder: AnyAutoencoder | None = None

    def generator(self, precision: Precision) -> LightningDiT:
        """With weights rounded to bf16 where it computes in bf16."""
        rounded = precision == "bf16"
        if rounded not in self._held:
            if not self._bench.together:
                self._held.clear()
            model = self._config.build()
            if rounded:
                round_weights(model)
            self._held[rounded] = model.to(self._bench.device).eval().requires_grad_(False)
        return self._held[rounded]

    def decoder(self) -> AnyAutoencoder:
        """The tokenizer."""
        if self._decoder is None:
            self._decoder = load_tokenizer(self._tokenizer, self._bench.device)
        return self._decoder


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


def _sampling(bench: Bench, networks: _Networks, config: GenerationStage, count: int) -> Maker:
    return lambda: _sample(bench, networks, config, count)


def _sample(
    bench: Bench, networks: _Networks, config: GenerationStage, count: int
) -> Callable[[], object]:
    model = networks.generator(config.precision)
    layout = model.layout
    ones = torch.ones(1, layout.channels, 1, 1, device=bench.device)
    labels = torch.arange(count, device=bench.device) % model.num_classes
    drawn = Sampling(
        model=model,
        weak=None,
        tokenizer=networks.decoder(),
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
