"""What a run cost, what it was expected to cost and what sharing saved, on constructed records."""

import pytest

from harness.execution.stage_run import Outcome
from harness.plan.plan import make_plan
from harness.reporting.bill import (
    Bill,
    KindBill,
    Usage,
    bill_lines,
    device_seconds,
    recorded_costs,
    savings,
    settle,
)
from harness.reporting.forecast import Forecast
from harness.reporting.plan_text import device_time
from harness.storage.artifacts import Store
from harness.storage.durable import write_json

SECONDS = {"tokenizer": 100.0, "generator": 40.0}


def put(store: Store, stage, device_s: float) -> None:
    folder = store.folder(stage.kind, stage.key)
    folder.mkdir(parents=True)
    cost = {"wall_s": device_s / 2, "device_s": device_s, "estimated_flops": 8.0}
    made = {"kind": stage.kind, "key": stage.key, "result": {}, "files": {}, "cost": cost}
    write_json(folder / "artifact.json", made)


@pytest.fixture
def plan(load):
    """Three generators on one tokenizer."""
    return make_plan(load("grid.generator.seed=[0, 1, 2]"))


@pytest.fixture
def store(plan, tmp_path):
    """Each tokenizer took 100 device seconds, each generator 40, all else 1."""
    store = Store(tmp_path)
    for stage in plan.stages:
        put(store, stage, SECONDS.get(stage.kind, 1.0))
    return store


def test_a_tokenizer_that_three_trials_share_is_paid_for_once(plan, store) -> None:
    costs = recorded_costs(plan.stages, store)
    alone_s, shared_s = savings(plan.rows, costs)
    # A trial alone: tokenizer, generator, and extractor, reference, latents, reconstruction and
    # generation at 1 each.
    assert alone_s == 3 * (100 + 40 + 5)
    # Together three generators and generations, and one of everything else.
    assert shared_s == 100 + 4 + 3 * (40 + 1)


def test_guidance_settings_of_one_trial_save_nothing(load, tmp_path) -> None:
    guidance = "[{kind: none}, {kind: cfg, scale: 2.0}]"
    plan = make_plan(load(f"evaluation.guidance={guidance}"))
    store = Store(tmp_path)
    for stage in plan.stages:
        put(store, stage, 1.0)
    alone_s, shared_s = savings(plan.rows, recorded_costs(plan.stages, store))
    assert alone_s == shared_s == len(plan.stages)


def test_the_bill_sets_estimate_beside_actual_for_what_this_run_made(plan, store) -> None:
    generators = [stage for stage in plan.stages if stage.kind == "generator"]
    outcomes = {s.key: Outcome(key=s.key, status="done") for s in generators[:2]}
    outcomes[generators[2].key] = Outcome(key=generators[2].key, status="reused")
    expected = {
        stage.key: Forecast(wall_s=25.0, device_s=50.0, source="measured") for stage in generators
    }
    bill = settle(plan, store, outcomes, expected, [])
    assert bill.kinds == {
        "generator": KindBill(stages=2, expected_s=100.0, actual_s=80.0, flops=16.0)
    }
    assert (bill.alone_s, bill.shared_s, bill.saved_s) == (435.0, 227.0, 208.0)
    without = settle(plan, store, outcomes, {}, [])
    assert without.kinds["generator"].expected_s is None


def test_a_bill_is_worded() -> None:
    bill = Bill(
        kinds={"generator": KindBill(stages=2, expected_s=7200.0, actual_s=5400.0, flops=1.0)},
        alone_s=400.0,
        shared_s=300.0,
        use={"cpus": Usage(wall_s=100.0, capacity_s=200.0, busy_s=150.0)},
    )
    assert bill_lines(bill) == [
        "  generator: 2 stages, 1 h 30 min of device time (2 h 0 min est.)",
        "shared stages: 5 min 0 s of device time in place of 6 min 40 s for every trial by itself, "
        "1 min 40 s saved (25%)",
        "CPUs: 2 min 30 s of 3 min 20 s busy (75%), 50 s idle",
    ]


def test_a_cost_recorded_before_device_seconds_were_is_read() -> None:
    assert device_seconds({"wall_s": 3.0, "gpus": 0.0, "cpus": 2}) == 6.0
    assert device_seconds({"wall_s": 3.0, "gpus": 0.5, "cpus": 2}) == 1.5


def test_device_time_is_summed_by_kind_and_unknown_where_one_is(plan) -> None:
    forecasts = {
        stage.key: Forecast(wall_s=1.0, device_s=2.0, source="measured", on_gpu=True)
        for stage in plan.stages
    }
    generators = [stage for stage in plan.stages if stage.kind == "generator"]
    (found,) = device_time(generators, forecasts)
    assert (found["stages"], found["device_s"], found["on_gpu"]) == (3, 6.0, True)
    forecasts[generators[0].key] = Forecast(wall_s=None, device_s=None, source="unknown")
    (found,) = device_time(generators, forecasts)
    assert found["device_s"] is None
    assert found["sources"] == ["unknown", "measured"]
