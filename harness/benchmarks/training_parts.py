"""Training steps of tokenizer and generators: the stages' own loops, under every variant."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch

from harness.benchmarks.bench import ENDLESS, Bench
from harness.benchmarks.rows import Row
from harness.benchmarks.turns import Times
from harness.benchmarks.variants import (
    PLAIN,
    Variant,
    generator_factors,
    ladder,
    tokenizer_factors,
)
from harness.cost import generator_training_flops, tokenizer_training_flops
from harness.keys import to_plain
from harness.latent_set import free_host_bytes
from harness.pretrained import DiffusersTokenizerConfig
from harness.stages.generator import GeneratorStage
from models.lightningdit import LightningDiTConfig, num_parameters

TRAINING_BYTES = 20
"""Bytes a parameter that a generator's training holds: weight, gradient, two moments, average."""


def tokenizer_training(bench: Bench) -> list[Row]:
    """The whole step under every variant."""
    part = "tokenizer training"
    config = bench.subject.trial.tokenizer
    if isinstance(config, DiffusersTokenizerConfig):
        return [Row(part=part, what="step", status="skipped", reason="it is not trained here")]
    stage = bench.subject.stage("tokenizer")
    training = bench.subject.batch_of(config.training)
    encoder = stage.inputs["encoder"].config if "encoder" in stage.inputs else None
    flops = tokenizer_training_flops(stage.config, encoder) / config.training.batch_size
    row = Row(
        part=part,
        what="step",
        images=training.batch_size,
        reason="; ".join(f"{k}: {v}" for k, v in bench.subject.notes.items()),
        configuration=json.dumps(to_plain(config)),
    )
    variants = ladder(tokenizer_factors(bench.device, compiled=bench.compiled))
    if why := bench.takes_too_long(flops * training.batch_size * len(variants), "fp32"):
        return [dataclasses.replace(row, status="skipped", reason=why)]
    inputs = bench.subject.inputs(stage)
    loops = {}
    for variant in variants:
        trained = dataclasses.replace(config, training=variant.training(training, ENDLESS))
        changed = dataclasses.replace(stage.config, tokenizer=trained)
        loops[variant.name] = bench.training_loop(stage, changed, inputs, variant.context)
    return _rows(bench, row, variants, bench.run(loops), flops)


def generator_training(bench: Bench, sizes: Mapping[str, LightningDiTConfig]) -> list[Row]:
    """The whole step of each size; every variant for the largest that this device can take."""
    part = "generator training"
    config = bench.subject.trial.generator
    if config is None:
        return [Row(part=part, what="step", status="skipped", reason="the trial has no generator")]
    stage = bench.subject.stage("generator")
    training = bench.subject.batch_of(config.training)
    rows, measurable = [], []
    for name, size in sizes.items():
        trained = dataclasses.replace(
            config, size=size.size, patch_size=size.patch_size, training=training
        )
        changed = dataclasses.replace(stage.config, generator=trained)
        flops = generator_training_flops(
            dataclasses.replace(
                changed,
                generator=dataclasses.replace(
                    trained, training=dataclasses.replace(training, steps=1, warmup_steps=0)
                ),
            ),
            None,
        )
        row = Row(
            part=part,
            what=name,
            images=training.batch_size,
            configuration=json.dumps(to_plain(trained)),
        )
        why = _too_large(bench, changed) or bench.takes_too_long(3 * flops, "fp32")
        if why:
            rows.append(dataclasses.replace(row, status="skipped", reason=why))
            continue
        measurable.append((row, changed, flops / training.batch_size))
    for row, changed, flops in measurable:
        largest = row is measurable[-1][0]
        rows += _one_size(bench, row, changed, flops, every=largest)
        rows += _waiting(bench, row, changed)
    return rows


def _one_size(
    bench: Bench, row: Row, config: GeneratorStage, flops: float, *, every: bool
) -> list[Row]:
    factors = generator_factors(bench.device, compiled=bench.compiled)
    variants = ladder(factors)
    if not every:
        variants = [PLAIN, variants[-1]]
    loops = {variant.name: _generator_loop(bench, config, variant) for variant in variants}
    return _rows(bench, row, variants, bench.run(loops), flops)


def _waiting(bench: Bench, row: Row, config: GeneratorStage) -> list[Row]:
    """How long the fastest step waits for latents, where they are resident and where not.

    Each is alone: what is read ahead while another loop has its turn would not be waited for.
    """
    fastest = ladder(generator_factors(bench.device, compiled=bench.compiled))[-1]
    rows = []
    for resident in (True, False):
        where = "resident" if resident else "streamed"
        variant = dataclasses.replace(fastest, name=f"{where} latents, alone", resident=resident)
        waits: list[float] = []
        loop = _generator_loop(bench, config, variant, waits)
        times = bench.run({variant.name: loop}, together=False)[variant.name]
        done = bench.row(dataclasses.replace(row, variant=variant.name), times)
        if done.status == "measured":
            counted = bench.steps * len(times.turns)
            waited = waits[-1] - waits[-1 - counted]
            share = waited / sum(turn.wall_s for turn in times.turns)
            done = dataclasses.replace(done, data_wait=share, precision=variant.precision)
        rows.append(done)
    return rows


def _generator_loop(
    bench: Bench, config: GeneratorStage, variant: Variant, waits: list[float] | None = None
) -> Any:
    stage = bench.subject.stage("generator")
    training = variant.training(config.generator.training, ENDLESS)
    trained = dataclasses.replace(config.generator, training=training)
    changed = dataclasses.replace(config, generator=trained)
    inputs = bench.subject.inputs(stage)
    return bench.training_loop(stage, changed, inputs, variant.context, waits)


def _too_large(bench: Bench, config: GeneratorStage) -> str:
    with torch.device("meta"):
        needed_gib = TRAINING_BYTES * num_parameters(config.build()) / 2**30
    free_gib = free_memory_gib(bench.device)
    if needed_gib <= 0.8 * free_gib:
        return ""
    return (
        f"weights, gradients, moments and average need {needed_gib:.1f} GiB of the {free_gib:.1f} "
        "GiB that are free"
    )


def free_memory_gib(device: torch.device) -> float:
    """Memory of the device that is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    return free_host_bytes() / 2**30


def _rows(
    bench: Bench, row: Row, variants: list[Variant], times: Mapping[str, Times], flops: float
) -> list[Row]:
    """A row a variant, with its speed relative to the first."""
    plain = times[variants[0].name]
    return [
        bench.row(
            bench.with_peak(
                dataclasses.replace(row, variant=variant.name), variant.precision, flops
            ),
            times[variant.name],
            plain,
        )
        for variant in variants
    ]
