"""Training steps of tokenizer and generators: the stages' own loops, and the parts of a step."""

import bisect
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from harness.benchmarks.generated import enlarged, size_of
from harness.benchmarks.measuring import Bench, Case, Variant, ladder
from harness.benchmarks.rows import Row, quartiles
from harness.benchmarks.turns import Pause, Work
from harness.config.generator import GeneratorSettings
from harness.config.generator_settings import GeneratorBase
from harness.data.latents.training_set import free_host_bytes
from harness.schema.keys import to_plain
from harness.stages.generator import stage as generator_stage
from harness.stages.generator.kinds import kind_of
from harness.stages.stage import Stage
from harness.stages.tokenizer import stage as tokenizer_stage
from models.parameters import num_parameters

TRAINING_BYTES = 20
"""Bytes a parameter that a generator's training holds: weight, gradient, two moments, average."""
MEMORY_SHARE = 0.8
"""Share of the free memory that these may take; the rest is for activations."""
WHOLE, PROFILED, REST = "whole step", "whole step, profiled", "rest of the step"


def trained_batch(bench: Bench) -> int:
    """Images a step of the tokenizer's training; 0 where it is not trained here."""
    config = bench.subject.stage("tokenizer").config
    # The cut-down training has one step, so that these are the images of a batch.
    images = tokenizer_stage.kind_of(config.tokenizer).trained_images(config)
    return images and (bench.subject.batch_size or images)


def tokenizer_training(bench: Bench) -> list[Row]:
    """Measures the whole step under every variant."""
    images = trained_batch(bench)
    row = Row(part="tokenizer training", what="step", images=images)
    if not images:
        return [_not_trained(row)]
    stage = bench.subject.stage("tokenizer")
    config: Any = stage.config
    flops = tokenizer_stage.training_flops(stage) / config.tokenizer.training.batch_size
    row = dataclasses.replace(
        row,
        reason="; ".join(f"{k}: {v}" for k, v in bench.subject.notes.items()),
        configuration=json.dumps(to_plain(config.tokenizer)),
    )
    variants = ladder(bench.factors("fused optimizer", "bf16", "channels last"))
    cases = [bench.training(stage, config, each, flops, convolutions=1.0) for each in variants]
    return bench.compare(row, cases)


def tokenizer_parts(bench: Bench) -> list[Row]:
    """Measures the shares of a tokenizer's step, in the arithmetic of its trial.

    Parts are the profiler ranges of the stage's own loop, whatever they are; the ranges of one name
    add up. Their seconds are their shares under the profiler times the seconds of the step without
    it. A turn is one step, because a profile of more would be large.
    """
    row = Row(part="tokenizer parts", what=WHOLE, images=trained_batch(bench))
    if not row.images:
        return [_not_trained(row)]
    stage = bench.subject.stage("tokenizer")
    config: Any = stage.config
    precision = config.tokenizer.training.precision
    row = dataclasses.replace(row, precision=precision)
    usual = Variant(name="", precision=precision, channels_last="auto", fused_optimizer=True)
    plain, other = (bench.training(stage, config, usual).loop() for _ in range(2))
    profiles: list[profile] = []
    loops = {WHOLE: plain, PROFILED: _profiled(other, bench.device, profiles)}
    times = dataclasses.replace(bench, steps=1).run(loops, bench.together)
    whole = bench.row(row, times[WHOLE])
    profiled = bench.row(dataclasses.replace(row, what=PROFILED), times[PROFILED], times[WHOLE])
    if whole.seconds is None or profiled.to_plain is None:
        return [whole, profiled]
    note = f"{1 / profiled.to_plain - 1:+.1%} under the profiler, which gives the shares of parts"
    rows = [dataclasses.replace(whole, share=1.0, reason=note)]
    for name, shares in _shares(profiles[0].events() or (), bench.device).items():
        low, share, high = (each * whole.seconds for each in quartiles(shares))
        part = dataclasses.replace(row, what=name, repeats=len(shares), seconds=share)
        part = dataclasses.replace(part, seconds_q1=low, seconds_q3=high)
        rows.append(dataclasses.replace(part, images=None, share=share / whole.seconds))
    return rows


def _profiled(loop: Work, device: torch.device, profiles: list[profile]) -> Work:
    """The loop under a profiler from its second step on, with a range for every step."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    # The profiler's library writes lines about itself to stderr, one of them where it first starts
    # outside the main thread.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=activities):
        pass

    def work(pause: Pause) -> None:
        with contextlib.ExitStack() as profiled, contextlib.ExitStack() as step:

            def between() -> None:
                step.close()
                pause()
                if not profiles:
                    # It records the thread that starts it, which is this loop's.
                    profiles.append(profiled.enter_context(profile(activities=activities)))
                step.enter_context(record_function(WHOLE))

            loop(between)

    return work


def _shares(events: Iterable[Any], device: torch.device) -> dict[str, list[float]]:
    """Share of each range in every profiled step but the first, and what no range covers."""
    events = [each for each in events if each.device_type.name == "CPU"]
    # A GPU's backward pass is launched by another thread, while the one of the range waits for it.
    # So a range has the kernels that any thread launches in its time.
    launches = sorted((each.time_range.start, each.self_device_time_total) for each in events)
    starts = [start for start, _ in launches]
    sums = [0.0, *itertools.accumulate(taken for _, taken in launches)]

    def taken(event: Any) -> float:
        if device.type != "cuda":
            return event.time_range.elapsed_us()
        first = bisect.bisect_left(starts, event.time_range.start)
        return sums[bisect.bisect_right(starts, event.time_range.end)] - sums[first]

    steps = [each for each in events if each.name == WHOLE][1:]
    shares: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(steps))
    for number, step in enumerate(steps):
        for part in step.cpu_children:
            if part.is_user_annotation:
                shares[part.name][number] += taken(part) / taken(step)
    parts = list(shares.values())
    shares[REST] = [1 - sum(part[number] for part in parts) for number in range(len(steps))]
    return dict(sorted(shares.items(), key=lambda each: -statistics.median(each[1])))


def generator_training(bench: Bench, sizes: Mapping[str, GeneratorBase]) -> list[Row]:
    """Measures each size's step, plain and fastest, and every variant for the largest that fits so:
    in memory, where variants lie side by side, and in time."""
    config = bench.subject.trial.generator
    row = Row(part="generator training", what="step")
    if config is None:
        reason = "the trial has no generator"
        return [dataclasses.replace(row, status="skipped", reason=reason)]
    if not isinstance(config, GeneratorSettings):
        return [_not_trained(row)]
    stage = bench.subject.stage("generator")
    row = dataclasses.replace(row, images=bench.subject.batch_of(config.training).batch_size)
    variants = ladder(bench.factors("resident latents", "fused optimizer", "bf16"))
    rows: list[Row] = []
    measurable: list[tuple[Row, Any, list[Case]]] = []
    for name, size in sizes.items():
        sized = kind_of(config).resized(config, size)
        changed = dataclasses.replace(stage.config, generator=sized)
        flops = generator_stage.training_flops(changed, None) / config.training.batch_size
        of_batch = dataclasses.replace(sized, training=bench.subject.batch_of(config.training))
        own = dataclasses.replace(row, what=name, configuration=json.dumps(to_plain(of_batch)))
        if why := _too_large(bench, changed, 2):
            rows.append(dataclasses.replace(own, status="skipped", reason=why))
            continue
        cases = [bench.training(stage, changed, each, flops) for each in variants]
        measurable.append((own, changed, cases))
    fitting = [
        own
        for own, changed, cases in measurable
        if not _too_large(bench, changed, len(cases)) and not bench.too_long(own, cases)
    ]
    for own, changed, cases in measurable:
        found = bench.compare(own, cases if own in fitting[-1:] else [cases[0], cases[-1]])
        rows += found
        if found[-1].status == "measured":
            rows += _waiting(bench, own, stage, changed, cases[-1])
    return rows


def _waiting(bench: Bench, row: Row, stage: Stage, config: Any, fastest: Case) -> list[Row]:
    """How long the fastest step waits for latents, where they are resident and where not.

    Each is alone: what is read ahead while another loop has its turn would not be waited for. The
    latents are many, so that a batch is gathered from all over its shards as in a real training.
    """
    inputs = bench.subject.inputs(stage)
    latents = enlarged(bench.subject.store, inputs["latents"], bench.num_latents)
    cases = []
    for where, resident in (("resident", True), ("streamed", False)):
        name = f"{where} latents, alone"
        variant = dataclasses.replace(fastest.variant, name=name, latents_on_device=resident)
        many = {**inputs, "latents": latents}
        cases.append(bench.training(stage, config, variant, fastest.flops, inputs=many))
    row = dataclasses.replace(row, reason=size_of(latents))
    return bench.compare(row, cases, together=False, to_first=False)


def _not_trained(row: Row) -> Row:
    return dataclasses.replace(row, images=None, status="skipped", reason="it is not trained here")


def _too_large(bench: Bench, config: Any, num_variants: int) -> str:
    """Why so many variants do not fit, each with its own network where they take turns."""
    networks = num_variants if bench.together else 1
    kind = kind_of(config.generator)
    with torch.device("meta"):
        needed_gib = networks * TRAINING_BYTES * num_parameters(kind.build(config)) / 2**30
    free_gib = free_memory_gib(bench.device)
    if needed_gib <= MEMORY_SHARE * free_gib:
        return ""
    return (
        f"weights, gradients, moments and average of {networks} side by side need {needed_gib:.1f} "
        f"GiB, more than {MEMORY_SHARE:.0%} of the {free_gib:.1f} GiB that are free"
    )


def free_memory_gib(device: torch.device) -> float:
    """Tells how much memory of the device is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    return free_host_bytes() / 2**30
