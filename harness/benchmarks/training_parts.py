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
MEMORY_SHARE = 0.8
"""Share of the free memory that these may take; the rest is for activations."""


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
    """The whole step of each size; every variant for the largest that this device can take so."""
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
        why = _too_large(bench, changed, 2) or bench.takes_too_long(3 * flops, "fp32")
        if why:
            rows.append(dataclasses.replace(row, status="skipped", reason=why))
            continue
        measurable.append((row, changed, flops / training.batch_size))
    number = len(_variants(bench))
    fitting = [row for row, changed, _ in measurable if not _too_large(bench, changed, number)]
    for row, changed, flops in measurable:
        variants = _variants(bench)
        if row not in fitting[-1:]:
            variants = [variants[0], variants[-1]]
        loops = {each.name: _generator_loop(bench, changed, each) for each in variants}
        rows += _rows(bench, row, variants, bench.run(loops), flops)
        rows += _waiting(bench, row, changed)
    return rows


def _variants(bench: Bench) -> list[Variant]:
    return ladder(generator_factors(bench.device, compiled=bench.compiled))


def _waiting(bench: Bench, row: Row, config: GeneratorStage) -> list[Row]:
    """How long the fastest step waits for latents, where they are resident and where not.

    Each is alone: what is read ahead while another loop has its turn would not be waited for.
    """
    fastest = _variants(bench)[-1]
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


def _too_large(bench: Bench, config: GeneratorStage, num_variants: int) -> str:
    """Why so many variants do not fit, each with its own network where they take turns."""
    networks = num_variants if bench.together else 1
    with torch.device("meta"):
        needed_gib = networks * TRAINING_BYTES * num_parameters(config.build()) / 2**30
    free_gib = free_memory_gib(bench.device)
    if needed_gib <= MEMORY_SHARE * free_gib:
        return ""
    return (
        f"weights, gradients, moments and average of {networks} side by side need {needed_gib:.1f} "
        f"GiB, more than {MEMORY_SHARE:.0%} of the {free_gib:.1f} GiB that are free"
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
