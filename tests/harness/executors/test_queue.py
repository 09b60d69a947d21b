"""The ready-queue on machines that are not there: what starts when, and what is run again."""

import errno
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from harness.config.encoders import TimmEncoderConfig
from harness.execution import failures
from harness.execution.stage_run import Outcome
from harness.executors import queue
from harness.executors.interface import Graph, fixed
from harness.executors.queue import Queue
from harness.executors.requests import Demand
from harness.plan.plan import make_plan, rows_first
from harness.stages.encoder.kind import EncoderStage
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.stop_requests import StopRequest

GPU = Demand(each={"CPU": 1.0, "GPU": 1.0})
PAIR = Demand(workers=2, each={"CPU": 1.0, "GPU": 1.0})


def stage(label: str, kind: str = "encoder") -> Stage:
    """A stage of which only kind and label matter."""
    network = TimmEncoderConfig(name="vit_tiny_patch16_224", weights="random", model_args={})
    config = EncoderStage(encoder=network, data=None, weights=label)
    return Stage(kind=kind, config=config, inputs={}, label=label)


def machine(*, of_gpus: float) -> dict[str, float]:
    return {"CPU": 16.0, "GPU": of_gpus}


class FakeMachines:
    """Ends one stage at every look, the oldest first."""

    def __init__(self, totals, end: Callable[[Stage, int], Outcome] | None = None) -> None:
        self.here, self.end = totals, end or (lambda s, _: Outcome(key=s.key, status="reused"))
        self.going: deque[tuple[int, Stage]] = deque()
        self.started: list[str] = []
        self.where: list[tuple[str, ...]] = []
        self.wanted: list[list[Demand]] = []

    def totals(self):
        return self.here

    def taken_elsewhere(self):
        return {}

    def launch(self, placement, demand) -> Any:
        handle = (len(self.started), placement.stage)
        self.started.append(placement.stage.label)
        self.where.append(placement.nodes)
        self.going.append(handle)
        return handle

    def wait(self, handles, timeout_s):
        return [self.going.popleft()]

    def outcome(self, handle):
        number, ended = handle
        return self.end(ended, number)

    def want(self, demands):
        self.wanted.append(list(demands))


class Timed(FakeMachines):
    """Ends what ends first by a clock of its own, on which every stage takes its cost."""

    now = 0.0

    def launch(self, placement, demand) -> Any:
        number, started = super().launch(placement, demand)
        return self.now + cost(started), number, started

    def wait(self, handles, timeout_s):
        self.now = min(handles)[0]
        return [min(handles)]

    def outcome(self, handle):
        return super().outcome(handle[1:])


def cost(one: Stage) -> float:
    """Invented; a generator that is wide takes longer."""
    own = 36.0 if one.label.startswith("nano") else 20.0
    costs = {"tokenizer": 33.0, "generator": own, "generation": own / 6, "encoder": 10.0}
    return costs.get(one.kind, 1.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "POLL_S", 0.0)
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.0)
    monkeypatch.setattr(queue, "estimated_flops", lambda stage: 1.0)

    def run_queue(stages, demands, machines, listen=lambda event: None, stop=None):
        stop = stop or StopRequest(tmp_path)
        graph = Graph(stages=list(stages), listen=listen, feed=fixed)
        Queue(graph, tmp_path, demands, machines, stop).run()
        return graph.outcomes

    return run_queue


def test_a_gang_among_sixteen_small_stages_starts_as_soon_as_two_gpus_are_free(run):
    stages = [stage(str(number)) for number in range(16)]
    needed = stages[0]
    gang = Stage(kind="generator", config=needed.config, inputs={"needed": needed}, label="gang")
    machines = FakeMachines({"a": machine(of_gpus=2)})
    run([*stages, gang], {"encoder": GPU, "generator": PAIR}, machines)
    # When its input is there one GPU is busy: that one is waited for, and nothing comes between.
    assert machines.started.index("gang") == 2


def test_gangs_come_first_then_chains_that_would_end_late_then_the_order_given(run, monkeypatch):
    costs = {"one": 1.0, "two": 5.0, "three": 9.0, "gang": 1.0, "four": 1.0}
    monkeypatch.setattr(queue, "estimated_flops", lambda one: costs[one.label])
    stages = [stage(name, "generator" if name == "gang" else "encoder") for name in costs]
    machines = FakeMachines({"a": machine(of_gpus=4)})
    run(stages, {"encoder": GPU, "generator": PAIR}, machines)
    assert machines.started == ["gang", "three", "two", "one", "four"]


def test_rows_become_whole_early_and_the_end_comes_no_later(run, monkeypatch, load):
    monkeypatch.setattr(queue, "estimated_flops", cost)
    sizes, dims = "grid.generator.size=[nano, pico]", "grid.tokenizer.latent_dim=[2, 3, 4]"
    plan = make_plan(load(dims, sizes, "grid.alignment=[none, vf]"))
    every = sum(map(cost, plan.stages))
    ordered = rows_first(plan.stages, plan.rows, cost)
    assert sorted(s.key for s in ordered) == sorted(s.key for s in plan.stages)
    for places, worst in (1, 1.001), (2, 1.03), (4, 1.08):
        machines, ends = Timed({"a": {"CPU": places}}), {}

        def listen(event, machines=machines, ends=ends):
            if event.what == "ended":
                ends[event.stage.key] = machines.now

        run(ordered, {s.kind: Demand(each={"CPU": 1.0}) for s in ordered}, machines, listen)
        whole = sorted(max(ends[s.key] for s in row.stages) for row in plan.rows)
        assert whole[-1] <= worst * every / places
        assert whole[0] <= sum(map(cost, ordered[:8])), "of one row alone"
        assert whole[1] <= 0.5 * whole[-1]


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [("infrastructure", 4), ("host_memory", 2), ("error", 1), ("storage", 1), ("", 1)],
)
def test_only_failures_that_may_pass_are_run_again_and_not_for_ever(run, failure, attempts):
    events = []
    machines = FakeMachines(
        {"a": machine(of_gpus=1)},
        lambda s, _: Outcome(key=s.key, status="failed", error="lost", failure=failure),
    )
    only = stage("only")
    outcomes = run([only], {"encoder": GPU}, machines, events.append)
    assert len(machines.started) == attempts
    assert outcomes[only.key].status == "failed"
    assert [event.what for event in events].count("again") == attempts - 1


@pytest.mark.parametrize(
    ("failure", "steps", "attempts"),
    [
        ("infrastructure", [10, 20, 30, 40, 50, 60], 7),
        ("infrastructure", [10, 20, 20, 20, 20], 5),
        ("host_memory", [10, 20, 30], 2),
    ],
)
def test_lost_workers_count_anew_where_a_stage_got_on(run, tmp_path, failure, steps, attempts):
    def end(s, number):
        if number == len(steps):
            return Outcome(key=s.key, status="reused")
        seal = Store(tmp_path).checkpoints(s.kind, s.key) / f"step-{steps[number]:09d}.json"
        seal.parent.mkdir(parents=True, exist_ok=True)
        seal.touch()
        return Outcome(key=s.key, status="failed", error="lost", failure=failure)

    machines, only = FakeMachines({"a": machine(of_gpus=1)}, end), stage("only")
    status = run([only], {"encoder": GPU}, machines)[only.key].status
    assert len(machines.started) == attempts
    assert status == ("reused" if attempts > len(steps) else "failed")


def test_a_gang_that_lost_a_worker_keeps_its_gpus_until_its_next_attempt(run, monkeypatch):
    monkeypatch.setattr(failures, "RETRY_AFTER_S", 0.2)

    def end(s, number):
        if number == 0:
            return Outcome(key=s.key, status="failed", error="lost", failure="infrastructure")
        return Outcome(key=s.key, status="reused")

    machines, gang = FakeMachines({"a": machine(of_gpus=2)}, end), stage("gang", "generator")
    started = []

    def listen(event):
        if event.what == "started":
            started.append((event.stage.label, time.monotonic()))

    run([gang, *map(stage, "abc")], {"encoder": GPU, "generator": PAIR}, machines, listen)
    (first, began), (second, again), *_ = started
    assert (first, second) == ("gang", "gang")
    assert again - began >= 0.2


def test_a_stage_of_another_process_is_waited_for_without_starting_a_worker(run, monkeypatch):
    looks = iter([True, True, True, False])
    monkeypatch.setattr(queue, "BUSY_POLL_S", 0.01)
    monkeypatch.setattr(queue, "surely_lives", lambda lease: next(looks))
    events = []

    def end(s, number):
        return Outcome(key=s.key, status="reused" if number else "busy")

    machines, only = FakeMachines({"a": machine(of_gpus=1)}, end), stage("only")
    assert run([only], {"encoder": GPU}, machines, events.append)[only.key].status == "reused"
    assert len(machines.started) == 2
    assert [event.what for event in events].count("waiting") == 1
    assert next(looks, "all looked at") == "all looked at"


def test_a_store_that_does_not_answer_for_a_moment_ends_nothing(run, monkeypatch):
    answers = iter([OSError(errno.EIO, "input/output error"), object()])

    def find(self, kind, key):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(Store, "find", find)
    machines = FakeMachines(
        {"a": machine(of_gpus=1)}, lambda s, _: Outcome(key=s.key, status="done")
    )
    only = stage("only")
    assert run([only], {"encoder": GPU}, machines)[only.key].status == "done"
    assert len(machines.started) == 2


def test_a_worker_that_is_lost_while_all_stops_fails_nothing(run, tmp_path):
    stop = StopRequest(tmp_path)
    lost = FakeMachines(
        {"a": machine(of_gpus=1)},
        lambda s, _: Outcome(key=s.key, status="failed", error="lost", failure="infrastructure"),
    )
    only = stage("only")
    outcomes = run([only], {"encoder": GPU}, lost, lambda _: stop.request("told to"), stop)
    assert outcomes[only.key] == Outcome(key=only.key, status="stopped")


def test_a_stage_that_asks_for_slices_is_run_again_once_beside_other_retries(run):
    def end(s, number):
        if number == 0:
            return Outcome(key=s.key, status="failed", failure="device_memory", again=True)
        return Outcome(key=s.key, status="reused")

    machines, only = FakeMachines({"a": machine(of_gpus=1)}, end), stage("only")
    assert run([only], {"encoder": GPU}, machines)[only.key].status == "reused"
    assert len(machines.started) == 2


def test_a_worker_that_died_is_classified_by_what_its_machine_says(run):
    class WorkerCrashedError(Exception):
        pass

    def end(s, number):
        if number == 0:
            raise WorkerCrashedError("it died")
        return Outcome(key=s.key, status="reused")

    machines, only = FakeMachines({"a": machine(of_gpus=1)}, end), stage("only")
    assert run([only], {"encoder": GPU}, machines)[only.key].status == "reused"


def test_a_lost_machine_is_no_longer_counted_and_a_new_one_is_used(run):
    machines = FakeMachines({"a": machine(of_gpus=1), "b": machine(of_gpus=1)})

    def listen(event):
        if event.what == "started":
            machines.here = {"c": machine(of_gpus=1)}

    run([stage("one"), stage("two"), stage("three")], {"encoder": GPU}, machines, listen)
    assert machines.where[-1] == ("c",)


def test_what_fits_nowhere_is_told_while_the_rest_runs(run):
    machines = FakeMachines({"a": machine(of_gpus=1)})
    pair = stage("pair", "generator")

    def listen(event):
        if event.what == "ended" and event.stage.label == "small":
            machines.here = {"a": machine(of_gpus=2)}

    run([pair, stage("small")], {"encoder": GPU, "generator": PAIR}, machines, listen)
    assert machines.started == ["small", "pair"]
    assert machines.wanted[0] == [PAIR]
    assert machines.wanted[-1] == []


def test_a_stop_request_starts_nothing_more_and_waits_for_what_runs(run, tmp_path):
    stop = StopRequest(tmp_path)
    machines = FakeMachines(
        {"a": machine(of_gpus=1)}, lambda s, _: Outcome(key=s.key, status="stopped")
    )
    stages = [stage("one"), stage("two")]
    outcomes = run(stages, {"encoder": GPU}, machines, lambda _: stop.request("told to"), stop)
    assert machines.started == ["one"]
    assert outcomes == {stages[0].key: Outcome(key=stages[0].key, status="stopped")}
