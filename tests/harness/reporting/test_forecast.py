"""How long stages will take, on constructed records with closed-form answers."""

import json
from dataclasses import replace

import pytest

from harness.config.resources import Capacity, Resources, capacity_of
from harness.machine.devices import peak_flops
from harness.plan.plan import make_plan
from harness.reporting.forecast import (
    ASSUMED_CPU_SHARE,
    ASSUMED_MFU,
    RATE_EXPONENT,
    History,
    Measured,
    remaining_s,
    seconds_to_end,
)
from harness.reporting.plan_record import Machine, StageRecord, Work
from harness.reporting.recording import record_of_stage
from harness.reporting.stage_states import StageState
from harness.storage.artifacts import Store

ONE_CPU = Capacity(cpus=1.0)
HERE = Machine(cpu="cpu", gpu="", core_flops_per_s=1e9)


@pytest.fixture
def generator(load):
    stages = make_plan(load()).stages
    return record_of_stage(next(stage for stage in stages if stage.kind == "generator"))


def measured(stage, *, kind=None, device="cpu", devices=1.0, scale=1.0, useful_s=10.0) -> Measured:
    """A stage of `scale` times the operations an image, on as many images."""
    return Measured(
        kind=kind or stage.kind,
        device=device,
        devices=devices,
        flops=scale * stage.work.flops,
        images=stage.work.images,
        useful_s=useful_s,
    )


def test_a_stage_takes_what_it_took_before_on_the_same_device(generator) -> None:
    found = History(HERE, [measured(generator, useful_s=12.0)]).forecast(generator, ONE_CPU)
    assert (found.source, found.wall_s, found.device_s) == ("measured", 12.0, 12.0)


def test_twice_the_devices_take_half_the_time_and_cost_the_same(generator) -> None:
    history = History(HERE, [measured(generator, useful_s=12.0)])
    found = history.forecast(generator, Capacity(cpus=2.0))
    assert (found.wall_s, found.device_s) == (6.0, 12.0)


def test_the_nearest_configuration_of_the_kind_gives_the_rate(generator) -> None:
    far, near = (
        measured(generator, scale=100.0, useful_s=1.0),
        measured(generator, scale=2.0, useful_s=8.0),
    )
    found = History(HERE, [far, near]).forecast(generator, ONE_CPU)
    assert found.wall_s == pytest.approx(4.0 * 2**RATE_EXPONENT, rel=1e-4)


def test_other_kinds_on_the_device_stand_in_where_the_kind_was_never_measured(generator) -> None:
    history = History(
        HERE,
        [
            measured(generator, kind="tokenizer", useful_s=3.0),
            measured(generator, kind="latents", useful_s=1.0),
        ],
    )
    found = history.forecast(generator, ONE_CPU)
    assert (found.source, found.wall_s) == ("device", pytest.approx(2.0))


def test_another_device_says_nothing(generator) -> None:
    there = Machine(cpu="cpu", gpu="NVIDIA H200", core_flops_per_s=1e9)
    history = History(there, [measured(generator, device="another")])
    held = Capacity(cpus=1.0, gpus=2.0)
    found = history.forecast(generator, held)
    peak = peak_flops("NVIDIA H200", "fp32")
    assert peak is not None
    assert found.source == "assumed"
    assert found.device_s == pytest.approx(generator.work.flops / (ASSUMED_MFU * peak))
    assert found.wall_s == pytest.approx(generator.work.flops / (ASSUMED_MFU * peak) / 2)


def test_a_gpu_that_is_not_known_has_no_forecast(generator) -> None:
    found = History(HERE).forecast(generator, Capacity(gpus=1.0))
    assert (found.source, found.wall_s) == ("unknown", None)


def test_a_driver_without_a_gpu_counts_on_the_one_that_was_measured_last(generator) -> None:
    held = Capacity(cpus=1.0, gpus=1.0)
    one = Measured(
        kind="generator",
        device="a GPU",
        devices=1.0,
        flops=1e9,
        images=1,
        useful_s=1.0,
        on_gpu=True,
    )
    history = History(HERE, [measured(generator), one])
    assert history.device_for(held) == "a GPU"
    assert history.forecast(generator, held).source == "measured"
    assert history.device_for(ONE_CPU) != "a GPU"


def test_a_cpu_is_taken_at_a_share_of_its_matrix_product(generator) -> None:
    found = History(HERE).forecast(generator, ONE_CPU)
    assert found.wall_s == pytest.approx(generator.work.flops / (ASSUMED_CPU_SHARE * 1e9))


def test_stages_of_an_earlier_run_are_taken_at_this_run_s_pace(generator) -> None:
    idle = [measured(generator, useful_s=4.0), measured(generator, kind="latents", useful_s=1.0)]
    history = History(HERE, idle)
    work = {"estimated_flops": generator.work.flops, "images": generator.work.images}
    cost = {"wall_s": 2.5, "gpus": 0.0, "cpus": 1, **work}
    history.add({"kind": "latents", "environment": {"device": "cpu"}, "cost": cost})
    assert history.forecast(generator, ONE_CPU).wall_s == pytest.approx(10.0)
    known = replace(generator, kind="latents")
    assert history.forecast(known, ONE_CPU).wall_s == pytest.approx(2.5)


def test_what_a_kill_lost_does_not_slow_the_forecast_and_old_records_are_read(tmp_path) -> None:
    cost = {"wall_s": 30.0, "lost_s": 10.0, "gpus": 0.0, "cpus": 2, "workers": 3}
    record = {
        "kind": "generator",
        "environment": {"device": "cpu"},
        "cost": {**cost, "estimated_flops": 240.0, "images": 7},
    }
    for name, content in {
        "generator/new": record,
        "generator/old": {
            **record,
            "cost": {"wall_s": 5.0, "gpus": 1.0, "cpus": 1, "estimated_flops": 10.0},
        },
        "generator/odd": {"kind": "generator"},
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "artifact.json").write_text(json.dumps(content))
    (tmp_path / "generator" / "torn").mkdir()
    (tmp_path / "generator" / "torn" / "artifact.json").write_text("{")
    new, old = History.of(Store(tmp_path), HERE).measured
    assert (new.useful_s, new.devices, new.flops) == (20.0, 6.0, 240.0)
    assert (old.useful_s, old.devices, old.flops) == (5.0, 1.0, 10.0)


def test_a_sweep_ends_with_its_critical_path_or_when_its_work_is_done(load) -> None:
    plan = make_plan(load("grid.seed=[0, 1, 2, 3]"))
    stages = list(plan.stages)
    seconds = {stage.key: 1.0 for stage in stages}

    def held(_stage):
        return ONE_CPU

    # The longest chain: tokenizer, latents, generator, generation.
    assert remaining_s(stages, seconds, held, Capacity(cpus=1000.0)) == 4.0
    assert remaining_s(stages, seconds, held, Capacity(cpus=2.0)) == len(stages) / 2
    assert remaining_s(stages, seconds, held, None) == 4.0
    assert remaining_s([], {}, held, None) == 0.0


TOKENIZER = [("tokenizer", 963e9, 7200, 39.0), ("latents", 32e9, 1437, 0.7)]
TOKENIZER += [("reconstruction", 18e9, 360, 0.6), ("diagnostics", 8e9, 360, 7.0)]
PICO = [("generator", 274e9, 64000, 29.0), ("generation", 87e9, 1440, 3.4)]
NANO = [("generator", 799e9, 64000, 49.0), ("generation", 185e9, 1440, 5.5)]
RECORDED = [("encoder", 141e9, 19200, 6.7), ("reference", 4e9, 1437, 0.3), *TOKENIZER, *PICO]
RECORDED += [*TOKENIZER, *PICO, ("encoder", 463e9, 44800, 18.0), *TOKENIZER, *PICO, *3 * NANO]
"""Kind, operations, images and seconds of stages of the embedded sweep, measured on idle cores."""


def test_a_sweep_that_is_replayed_ends_when_it_was_told_to():
    here = Machine(cpu="cpu", gpu="", core_flops_per_s=56e9)
    stages, made = [], []
    for number, (kind, flops, images, seconds) in enumerate(RECORDED):
        work = Work(flops=flops, images=images, precision="fp32")
        stages.append(StageRecord(kind=kind, key=str(number), label="", input_keys=(), work=work))
        made.append(
            Measured(
                kind=kind, device="cpu", devices=1.0, flops=flops, images=images, useful_s=seconds
            )
        )
    times = [one.useful_s for one in made]
    for number in range(1, len(stages)):
        left = sum(times[number:])
        if left > 0.75 * sum(times):
            continue
        states = {
            stage.key: StageState.of(stage, "done" if place < number else "waiting")
            for place, stage in enumerate(stages)
        }
        history = History(here, made[:number])
        told = seconds_to_end(stages, states, history, lambda _: ONE_CPU, ONE_CPU)
        assert told == pytest.approx(left, rel=0.3)


def test_gpus_that_are_scarce_hold_a_sweep_up(load) -> None:
    stages = list(make_plan(load("grid.seed=[0, 1, 2, 3]")).stages)
    seconds = {stage.key: 1.0 for stage in stages}
    generators = [stage for stage in stages if stage.kind == "generator"]
    total = Capacity(cpus=1000.0, gpus=0.5)
    left = remaining_s(
        stages,
        seconds,
        lambda stage: Capacity(cpus=1.0, gpus=1.0 if stage in generators else 0.0),
        total,
    )
    assert left == len(generators) / 0.5


def test_a_request_says_what_a_stage_holds() -> None:
    assert capacity_of(Resources(cpus=3), 0) == Capacity(cpus=3.0)
    assert capacity_of(Resources(), 8) == Capacity(cpus=1.0, gpus=1.0)
    assert capacity_of(Resources(gpus=0.25), 1) == Capacity(cpus=1.0, gpus=0.25)
