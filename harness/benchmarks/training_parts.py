"""Training steps of tokenizer and generators: the stages' own loops, under every variant."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.benchmarks.latents import enlarged, size_of
from harness.benchmarks.measuring import ENDLESS, Bench, Watched
from harness.benchmarks.rows import Row
from harness.benchmarks.variants import (
    Variant,
    generator_factors,
    ladder,
    tokenizer_factors,
)
from harness.config.diffusers import DiffusersTokenizerConfig
from harness.data.latents.training_set import free_host_bytes
from harness.schema.keys import to_plain
from harness.stages.generator.stage import GeneratorStage
from harness.stages.generator.stage import training_flops as generator_training_flops
from harness.stages.tokenizer.stage import training_flops as tokenizer_training_flops
from harness.storage.artifacts import Artifact
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
    variants = {v.name: v for v in ladder(tokenizer_factors(bench.device, compiled=bench.compiled))}
    watched = {name: Watched() for name in variants}

    def loop_of(name: str) -> Any:
        variant = variants[name]
        trained = dataclasses.replace(config, training=variant.training(training, ENDLESS))
        changed = dataclasses.replace(stage.config, tokenizer=trained)
        inputs = bench.subject.inputs(stage)
        return bench.training_loop(stage, changed, inputs, variant.context, watched[name])

    rows = [
        bench.with_peak(
            dataclasses.replace(row, variant=name), variant.precision, flops, convolutions=1.0
        )
        for name, variant in variants.items()
    ]
    return _with_slices(bench.compare(rows, loop_of), watched)


def generator_training(bench: Bench, sizes: Mapping[str, LightningDiTConfig]) -> list[Row]:
    """The whole step of each size, plain and fastest; every variant for the largest that fits so.

    What fits is a question of memory, where variants lie side by side, and of time.
    """
    part = "generator training"
    config = bench.subject.trial.generator
    if config is None:
        return [Row(part=part, what="step", status="skipped", reason="the trial has no generator")]
    stage = bench.subject.stage("generator")
    training = bench.subject.batch_of(config.training)
    variants = _variants(bench)
    ends = [variants[0], variants[-1]]
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
        if why := _too_large(bench, changed, len(ends)):
            rows.append(dataclasses.replace(row, status="skipped", reason=why))
            continue
        measurable.append((row, changed, flops / training.batch_size))
    fitting = [
        row
        for row, changed, flops in measurable
        if not _too_large(bench, changed, len(variants))
        and not bench.too_long(_priced(bench, row, variants, flops))
    ]
    for row, changed, flops in measurable:
        chosen = variants if row in fitting[-1:] else ends
        found = _trained(bench, _priced(bench, row, chosen, flops), changed, chosen)
        rows += found
        if found[-1].status == "measured":
            rows += _waiting(bench, row, changed)
    return rows


def _trained(
    bench: Bench, rows: Sequence[Row], config: GeneratorStage, variants: Sequence[Variant]
) -> list[Row]:
    """A generator's step under some variants, measured."""
    by_name = {variant.name: variant for variant in variants}
    watched = {name: Watched() for name in by_name}

    def loop_of(name: str) -> Any:
        inputs = bench.subject.inputs(bench.subject.stage("generator"))
        return _generator_loop(bench, config, by_name[name], watched[name], inputs)

    return _with_slices(bench.compare(rows, loop_of), watched)


def _priced(bench: Bench, row: Row, variants: Sequence[Variant], flops: float) -> list[Row]:
    """A row a variant, with what its operations are held to."""
    return [
        bench.with_peak(dataclasses.replace(row, variant=each.name), each.precision, flops)
        for each in variants
    ]


def _with_slices(rows: Sequence[Row], watched: Mapping[str, Watched]) -> list[Row]:
    """Rows that tell where a batch did not fit into the device's memory as a whole."""
    return [_told(row, watched[row.variant].slices) if row.variant else row for row in rows]


def _told(row: Row, slices: int) -> Row:
    if slices == 1 or row.status != "measured":
        return row
    note = f"every batch in {slices} slices, since the device has no memory for a whole one"
    return dataclasses.replace(row, reason="; ".join(filter(None, [row.reason, note])))


def _variants(bench: Bench) -> list[Variant]:
    return ladder(generator_factors(bench.device, compiled=bench.compiled))


def _waiting(bench: Bench, row: Row, config: GeneratorStage) -> list[Row]:
    """How long the fastest step waits for latents, where they are resident and where not.

    Each is alone: what is read ahead while another loop has its turn would not be waited for. The
    latents are many, so that a batch is gathered from all over its shards as in a real training.
    """
    fastest = _variants(bench)[-1]
    inputs = bench.subject.inputs(bench.subject.stage("generator"))
    latents = enlarged(bench.subject.store, inputs["latents"], bench.num_latents)
    row = dataclasses.replace(row, reason=size_of(latents))
    rows = []
    for resident in (True, False):
        where = "resident" if resident else "streamed"
        variant = dataclasses.replace(fastest, name=f"{where} latents, alone", resident=resident)
        watched = Watched()
        loop = _generator_loop(bench, config, variant, watched, {**inputs, "latents": latents})
        times = bench.run({variant.name: loop}, together=False)[variant.name]
        done = bench.row(dataclasses.replace(row, variant=variant.name), times)
        if done.status == "measured":
            counted = sum(turn.steps for turn in times.turns)
            waited = watched.waits[-1] - watched.waits[-1 - counted]
            share = waited / sum(turn.wall_s for turn in times.turns)
            done = dataclasses.replace(done, data_wait=share, precision=variant.precision)
        rows.append(_told(done, watched.slices))
    return rows


def _generator_loop(
    bench: Bench,
    config: GeneratorStage,
    variant: Variant,
    watched: Watched,
    inputs: Mapping[str, Artifact],
) -> Any:
    stage = bench.subject.stage("generator")
    training = variant.training(config.generator.training, ENDLESS)
    trained = dataclasses.replace(config.generator, training=training)
    changed = dataclasses.replace(config, generator=trained)
    return bench.training_loop(stage, changed, inputs, variant.context, watched)


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
