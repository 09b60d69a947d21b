"""Which stages start now, and where."""

import pytest

from harness.config.encoders import TimmEncoderConfig
from harness.config.resources import Resources
from harness.executors.placement import place
from harness.executors.requests import (
    Demand,
    demand_of,
    is_possible,
    refuse_impossible,
    side_by_side,
)
from harness.schema.reading import ConfigError
from harness.stages.encoder.kind import EncoderStage
from harness.stages.stage import Stage


def stage(label: str, kind: str = "encoder") -> Stage:
    """A stage of which only kind and label matter."""
    network = TimmEncoderConfig(name="vit_tiny_patch16_224", weights="random", model_args={})
    config = EncoderStage(encoder=network, data=None, weights=label)
    return Stage(kind=kind, config=config, inputs={}, label=label)


def gpus(number: float, workers: int = 1) -> Demand:
    return Demand(workers=workers, each={"CPU": 1.0, "GPU": number})


def machine(cpus: float = 16, of_gpus: float = 0, **more: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": of_gpus, **more}


def placed(stages, demands, totals, free=None) -> dict[str, tuple[str, ...]]:
    placements = place(stages, demands, totals, free or totals)
    return {placement.stage.label: placement.nodes for placement in placements}


SMALL, GANG = stage("small"), stage("gang", "generator")
DEMANDS = {"encoder": gpus(1), "generator": gpus(1, workers=2), "tokenizer": gpus(0.6)}


def test_a_gang_takes_one_machine_where_one_holds_it():
    totals = {"a": machine(of_gpus=1), "b": machine(of_gpus=4), "c": machine(of_gpus=2)}
    assert placed([GANG], DEMANDS, totals) == {"gang": ("c", "c")}


def test_a_gang_spreads_where_no_machine_holds_it_alone():
    totals = {"a": machine(of_gpus=1), "b": machine(of_gpus=1)}
    assert placed([GANG], DEMANDS, totals) == {"gang": ("a", "b")}


def test_what_a_gang_lacks_is_held_for_it():
    totals = {"a": machine(of_gpus=2)}
    free = {"a": machine(cpus=15, of_gpus=1)}
    assert placed([GANG, SMALL], DEMANDS, totals, free) == {}


def test_small_work_fills_what_a_waiting_gang_cannot_use():
    totals = {"a": machine(of_gpus=2), "b": machine(of_gpus=1)}
    free = {"a": machine(cpus=15, of_gpus=1), "b": machine(of_gpus=1)}
    demands = {**DEMANDS, "generator": Demand(workers=2, each={"CPU": 8.0, "GPU": 1.0})}
    # The gang starts on a and b at once; a larger one waits for all of a and leaves b alone.
    assert placed([GANG, SMALL], demands, totals, free) == {"gang": ("a", "b")}
    marked = {"accelerator_type:H100": 1.0}
    totals["a"] |= marked
    free["a"] |= marked
    demands["generator"] = Demand(
        workers=2, each={"CPU": 1.0, "GPU": 1.0, "accelerator_type:H100": 1e-3}
    )
    assert placed([GANG, SMALL], demands, totals, free) == {"small": ("b",)}


def test_cpu_work_goes_beside_a_waiting_gang_but_not_into_its_cpus():
    totals = {"a": machine(cpus=4, of_gpus=2)}
    free = {"a": machine(cpus=3, of_gpus=1)}
    demands = {**DEMANDS, "encoder": Demand(each={"CPU": 1.0})}
    several = [GANG, stage("one"), stage("two")]
    assert placed(several, demands, totals, free) == {"one": ("a",)}


def test_cpu_work_keeps_off_machines_with_gpus():
    totals = {"a": machine(of_gpus=8), "b": machine(cpus=2)}
    assert placed([SMALL], {"encoder": Demand(each={"CPU": 1.0})}, totals) == {"small": ("b",)}


def test_fractions_share_a_gpu_only_where_they_fit_on_one():
    half, most = stage("half"), [stage(str(number), "tokenizer") for number in range(3)]
    totals = {"a": machine(of_gpus=2)}
    assert len(placed(most, DEMANDS, totals)) == 2
    assert placed([half], {"encoder": gpus(0.5)}, totals, {"a": machine(of_gpus=0.5)})


def test_a_request_that_no_machine_will_ever_meet_holds_nothing():
    demands = {**DEMANDS, "generator": gpus(1, workers=8)}
    totals = {"a": machine(of_gpus=2)}
    assert placed([GANG, SMALL], demands, totals) == {"small": ("a",)}


@pytest.mark.parametrize(
    ("request_", "at_hand", "workers", "of_gpus"),
    [
        (Resources(), 0, 1, 0),
        (Resources(), 8, 1, 1),
        (Resources(gpus=8), 8, 8, 1),
        (Resources(gpus=0.5), 8, 1, 0.5),
        (Resources(gpus=0, workers=4), 8, 4, 0),
        (Resources(workers=4), 0, 4, 0),
    ],
)
def test_a_request_means_workers_with_at_most_one_gpu_each(request_, at_hand, workers, of_gpus):
    demand = demand_of(request_, at_hand)
    assert (demand.workers, demand.gpus) == (workers, of_gpus)


def test_memory_and_kind_of_gpu_are_part_of_what_a_machine_must_have():
    demand = demand_of(Resources(gpus=1, memory_gib=64, accelerator_type="H100"), 1)
    mark = {"accelerator_type:H100": 1.0}
    assert is_possible(demand, [machine(of_gpus=1, memory=2**37, **mark)])
    assert not is_possible(demand, [machine(of_gpus=1, memory=2**30, **mark)])
    assert not is_possible(demand, [machine(of_gpus=1, memory=2**37)])


def test_what_runs_side_by_side_is_counted_in_whole_gangs():
    machines = [machine(of_gpus=3), machine(of_gpus=2)]
    assert side_by_side(gpus(1, workers=2), machines) == 2
    assert side_by_side(gpus(1, workers=9), machines) == 1


@pytest.mark.parametrize("gpus", [1.5, -1, float("inf"), float("nan")])
def test_gpus_that_no_stage_can_hold_are_refused_with_the_reason(gpus):
    with pytest.raises(ValueError, match=r"`gpus`.*but got"):
        Resources(gpus=gpus)


def test_workers_beside_gpus_are_refused():
    with pytest.raises(ValueError, match="write `gpus: 4` alone"):
        Resources(gpus=2, workers=4)


@pytest.mark.parametrize(
    ("demand", "setting"),
    [
        (gpus(1, workers=8), "gpus=auto"),
        (Demand(workers=99, each={"CPU": 1.0}), "workers=1"),
        (Demand(each={"CPU": 64.0}), "cpus=1"),
        (Demand(each={"CPU": 1.0, "memory": 2.0**50}), "memory_gib=null"),
        (Demand(each={"CPU": 1.0, "accelerator_type:H100": 1e-3}), "accelerator_type='\"\"'"),
    ],
)
def test_a_refusal_lowers_what_was_too_much(demand, setting):
    with pytest.raises(ConfigError, match=f"--set resources.generator.{setting}`"):
        refuse_impossible(["generator"], {"generator": demand}, [machine()], shared=False)
