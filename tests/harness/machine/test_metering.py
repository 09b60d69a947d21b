"""What a stage has cost, from constructed numbers with closed-form answers and from a real run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.config.resources import Resources
from harness.execution import stage_run
from harness.execution.stage_run import run_stage
from harness.machine.metering import Meter, Spent, high_water_gib, precision_of
from harness.machine.world import World
from harness.plan.plan import make_plan
from harness.stages.running.context import StageContext
from harness.stages.stage import Estimate
from harness.storage.artifacts import Store, Work

A_HUNDRED_S = Spent(wall_s=100.0)


@pytest.fixture
def record(load, tmp_path, monkeypatch) -> Callable[..., dict[str, Any]]:
    """The cost of a stage of known work that took a hundred seconds, unless told otherwise."""
    work = Work(folder=tmp_path / "key", lease=None, shared_checkpoints=tmp_path, scratch=tmp_path)
    expected = Estimate(flops=989.4e12 * 40, disk_bytes=0.0, images=5000)
    monkeypatch.setattr(stage_run, "estimate", lambda _: expected)
    monkeypatch.setattr(stage_run, "precision_of", lambda _, **__: "bf16")

    def record(
        spent: Spent = A_HUNDRED_S,
        gpus: float = 0.0,
        workers: int = 1,
        device_name: str = "NVIDIA H200",
        data_wait_s: float | None = None,
    ) -> dict[str, Any]:
        monkeypatch.setattr(StageContext, "spent", lambda _: spent)
        monkeypatch.setattr(StageContext, "data_wait_s", data_wait_s)
        context = StageContext(
            inputs={},
            work=work,
            device=torch.device("cpu"),
            resources=Resources(cpus=2),
            world=World(size=workers),
        )
        stage = make_plan(load()).stages[0]
        return stage_run.cost_record(stage, context, gpus / workers, device_name, {})

    return record


def test_four_devices_for_a_hundred_seconds_are_four_hundred_device_seconds(record) -> None:
    cost = record(gpus=4.0, workers=4)
    assert (cost["device_s"], cost["images_per_s"]) == (400.0, 50.0)
    # 40 s of one device's peak in 400 device seconds.
    assert cost["mfu"] == pytest.approx(0.1)
    assert cost["mfu_precision"] == "bf16"


def test_a_shared_device_counts_by_its_share(record) -> None:
    assert record(gpus=0.25)["device_s"] == 25.0
    assert record(gpus=0.25)["mfu"] == pytest.approx(1.6)


def test_a_stage_without_a_gpu_counts_the_cores_of_its_workers(record) -> None:
    cost = record(workers=3)
    assert cost["device_s"] == 600.0
    assert "mfu" not in cost


def test_lost_work_is_paid_for_but_does_not_slow_the_rate(record) -> None:
    cost = record(spent=Spent(wall_s=100.0, lost_s=50.0, attempts=2), gpus=1.0)
    assert (cost["device_s"], cost["images_per_s"], cost["attempts"]) == (100.0, 100.0, 2)
    assert cost["mfu"] == pytest.approx(0.8)


def test_an_unknown_device_has_no_mfu_and_a_stage_without_batches_no_wait(record) -> None:
    cost = record(gpus=1.0, device_name="some device")
    assert "mfu" not in cost
    assert "data_wait_s" not in cost
    assert record(data_wait_s=3.0)["data_wait_s"] == 3.0


def test_the_peak_of_memory_is_that_of_this_stage_and_not_of_an_earlier_one() -> None:
    before = np.ones(40 * 2**20)  # 320 MiB, all touched.
    assert before[-1] == 1.0
    reached = high_water_gib()
    del before
    meter = Meter(torch.device("cpu"))
    peak = meter.peaks().get("peak_host_gib")
    # Where the system cannot start the peak anew, none is told rather than the earlier one.
    assert peak is None or peak < reached - 0.2
    now = np.ones(80 * 2**20)
    assert now[-1] == 1.0
    assert meter.peaks()["peak_host_gib"] > reached


def test_bf16_anywhere_in_a_stage_is_what_its_mfu_is_held_to(load) -> None:
    def generator(*settings: str) -> Any:
        return next(s for s in make_plan(load(*settings)).stages if s.kind == "generator").config

    assert precision_of(generator("generator.training.precision=bf16")) == "bf16"
    assert precision_of(generator()) == "fp32"
    assert precision_of(generator(), convolves=True) == "tf32"  # torch's default on CUDA.


def test_every_artifact_records_what_it_cost(load, tmp_path) -> None:
    stage = make_plan(load()).stages[0]
    assert run_stage(stage, tmp_path, Resources(), 0.0).status == "done"
    cost = Store(tmp_path).get(stage.kind, stage.key).record["cost"]
    assert cost["images"] == 2 * 16
    assert cost["images_per_s"] == pytest.approx(32 / cost["wall_s"])
    assert cost["device_s"] == cost["wall_s"] > 0
    assert (cost["attempts"], cost["lost_s"], cost["slices"], cost["workers"]) == (1, 0.0, 1, 1)
    assert 0.05 < cost["peak_host_gib"] < 50


def test_work_that_a_kill_has_lost_is_billed_to_the_stage(load, tmp_path, monkeypatch) -> None:
    stage = make_plan(load("evaluation.extractor.training.steps=6")).stages[0]
    after_step = StageContext.after_step
    monkeypatch.setattr("harness.stages.running.context.REPORT_EVERY_S", 0.0)

    def killed(self, done, *arguments, **named):
        after_step(self, done, *arguments, **named)
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, tmp_path, Resources(), 0.0)
    spent_s = Store(tmp_path).progress(stage.kind, stage.key)["spent_s"]
    assert spent_s > 0
    assert run_stage(stage, tmp_path, Resources(), 0.0).status == "done"
    cost = Store(tmp_path).get(stage.kind, stage.key).record["cost"]
    # No checkpoint was due before the kill: all of the first attempt was done again.
    assert cost["attempts"] == 2
    assert cost["lost_s"] == pytest.approx(spent_s, rel=1e-6)
    assert cost["wall_s"] > cost["lost_s"]


def test_work_before_a_checkpoint_is_not_lost(load, tmp_path, monkeypatch) -> None:
    stage = make_plan(load("evaluation.extractor.training.steps=6")).stages[0]
    after_step = StageContext.after_step

    def killed(self, done, *arguments, **named):
        after_step(self, done, *arguments, **named)
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, tmp_path, Resources(checkpoint_every_s=1e-9), 0.0)
    assert run_stage(stage, tmp_path, Resources(), 0.0).status == "done"
    cost = Store(tmp_path).get(stage.kind, stage.key).record["cost"]
    assert cost["attempts"] == 2
    assert cost["lost_s"] == pytest.approx(0.0, abs=0.05)
