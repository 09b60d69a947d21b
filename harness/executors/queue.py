"""Decides which stage runs when: starts, waits and further attempts, on any kind of machines."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.execution.failures import Failures, classify, one_line
from harness.execution.stage_run import Outcome
from harness.executors.interface import Capacity, Graph, StageEvent
from harness.executors.placement import Placement, place
from harness.executors.requests import Amounts, Demand, as_packed, is_possible, side_by_side
from harness.plan.cost import estimated_flops
from harness.plan.graph import critical_paths
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.checkpoints import newest_step
from harness.storage.lease import surely_lives
from harness.storage.stop_requests import StopRequest

POLL_S = 0.5
"""Seconds between two looks at the queue where nothing ends."""
BUSY_POLL_S = 5.0
"""Seconds after which a stage that another process works on is looked at again."""


@runtime_checkable
class Machines(Protocol):
    """Where stages run."""

    def totals(self) -> Mapping[str, Amounts]:
        """Machine -> what it has; of those that live at this moment."""
        ...

    def taken_elsewhere(self) -> Mapping[str, Amounts]:
        """Machine -> what others than this queue hold of it, as far as that is known."""
        ...

    def launch(self, placement: Placement, demand: Demand) -> Any:
        """Start a stage; returns a handle that can be hashed."""
        ...

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Those that have ended, after at most `timeout_s` seconds."""
        ...

    def outcome(self, handle: Any) -> Outcome:
        """How a stage ended; raises what its worker ended with where that told no outcome."""
        ...

    def want(self, demands: Sequence[Demand]) -> None:
        """Tell an autoscaler what waits and fits nowhere yet."""
        ...


class Queue:
    """Runs a graph of stages on machines that may join and leave."""

    def __init__(
        self,
        graph: Graph,
        root: Path,
        demands: Mapping[str, Demand],
        machines: Machines,
        stop: StopRequest,
    ) -> None:
        self.graph, self.store, self.demands = graph, Store(root), demands
        self.machines, self.stop = machines, stop
        self.running: dict[Any, Placement] = {}
        self.failures: defaultdict[str, Failures] = defaultdict(Failures)
        self.held_elsewhere: dict[str, float] = {}
        """Stage that another process works on -> when to look again."""
        self.again_at: dict[str, float] = {}
        """Stage that failed -> when its next attempt starts."""
        self.places = 1
        """How many stages of any kind run at a time."""
        self.costs: dict[str, float] = {}
        """Stage -> its operations, estimated once: stages are sorted at every look."""
        self._estimate()

    def run(self) -> None:
        """Run until every stage has ended or, after a stop request, until none runs any more."""
        # A loop that looks, not callbacks: every decision is made in one thread, in one place.
        self._grow()
        while len(self.graph.outcomes) < len(self.graph.stages):
            if not self.stop.is_requested:
                self._start_ready()
            elif not self.running:
                break
            self._wait()

    def _wait(self) -> None:
        if not self.running:
            time.sleep(POLL_S)
            return
        ended = self.machines.wait(list(self.running), POLL_S)
        for handle in ended:
            self._collect(handle)
        if ended and not self.stop.is_requested:
            self._grow()

    def _grow(self) -> None:
        machines = list(self.machines.totals().values())
        self.places = min(side_by_side(demand, machines) for demand in self.demands.values())
        if self.graph.grow(self.places):
            self._estimate()

    def _estimate(self) -> None:
        new = (stage for stage in self.graph.stages if stage.key not in self.costs)
        self.costs |= {stage.key: estimated_flops(stage) for stage in new}
        self.paths = critical_paths(self.graph.stages, lambda stage: self.costs[stage.key])

    def _start_ready(self) -> None:
        ready = sorted(self._ready(), key=self._urgency())
        if not ready:
            return
        # Asked at every look, so that machines that join or leave are noticed.
        totals = self.machines.totals()
        now = time.monotonic()
        # Until its next attempt a stage keeps what it held.
        soon = {key for key, when in self.again_at.items() if when > now}
        for placement in place(ready, self.demands, totals, self._free(totals), soon):
            stage, demand = placement.stage, self.demands[placement.stage.kind]
            self.running[self.machines.launch(placement, demand)] = placement
            held, total = demand.held, _sum(totals)
            self.graph.listen(StageEvent(stage=stage, what="started", held=held, total=total))
        demands = [self.demands[s.kind] for s in ready if s.key not in self._busy()]
        self.machines.want([d for d in demands if not is_possible(d, list(totals.values()))])

    def _urgency(self) -> Callable[[Stage], tuple[float, float]]:
        """Sorts stages: large gangs, chains that may hold up the end, then as they are given."""
        left = [s for s in self.graph.stages if s.key not in self.graph.outcomes]
        # The given order ends rows early; a chain that is longer than half of what each place has
        # yet to do would hold up the end. Half, as estimates are off by that much.
        long = sum(self.costs[s.key] for s in left) / self.places / 2 if self.places > 1 else inf
        late = {s.key: path for s in left if (path := self.paths[s.key]) > long}
        return lambda stage: (-self.demands[stage.kind].workers, -late.get(stage.key, 0.0))

    def _busy(self) -> set[str]:
        return {placement.stage.key for placement in self.running.values()}

    def _ready(self) -> list[Stage]:
        busy, ended = self._busy(), self.graph.outcomes
        known = {stage.key for stage in self.graph.stages}
        return [
            stage
            for stage in self.graph.stages
            if stage.key not in ended
            and stage.key not in busy
            and all(key in ended for key in stage.input_keys if key in known)
            and not self._is_held_elsewhere(stage)
        ]

    def _is_held_elsewhere(self, stage: Stage) -> bool:
        """Whether a stage that was found busy still is; no worker is started to find that out."""
        when = self.held_elsewhere.get(stage.key)
        if when is None or when > time.monotonic():
            return when is not None
        if surely_lives(self.store.lease(stage.kind, stage.work_key)):
            self.held_elsewhere[stage.key] = time.monotonic() + BUSY_POLL_S
            return True
        del self.held_elsewhere[stage.key]
        return False

    def _free(self, totals: Mapping[str, Amounts]) -> Mapping[str, Amounts]:
        """Machine -> what is free of it."""
        # Counted here: Ray's own count lags behind what was just started or has just ended.
        free = {node: dict(amounts) for node, amounts in totals.items()}
        held = [
            (node, as_packed(self.demands[placement.stage.kind].each))
            for placement in self.running.values()
            for node in placement.nodes
        ]
        for node, amounts in [*held, *self.machines.taken_elsewhere().items()]:
            for name, amount in amounts.items():
                if node in free and name in free[node]:
                    free[node][name] -= amount
        return free

    def _collect(self, handle: Any) -> None:
        stage = self.running.pop(handle).stage
        outcome = self._outcome(stage, handle)
        if outcome.status == "busy":
            self.held_elsewhere[stage.key] = time.monotonic() + BUSY_POLL_S
            self.graph.listen(StageEvent(stage=stage, what="waiting"))
            return
        if outcome.status == "failed" and self._may_run_again(stage, outcome):
            if not self.stop.is_requested:
                self.graph.listen(StageEvent(stage=stage, what="again", outcome=outcome))
                return
            # The next command runs it again.
            outcome = Outcome(key=stage.key, status="stopped", wall_s=outcome.wall_s)
        elif outcome.status == "failed":
            outcome = replace(outcome, error=self.failures[stage.key].told(outcome.error))
        self.graph.end(stage, outcome)

    def _outcome(self, stage: Stage, handle: Any) -> Outcome:
        # A stage counts as done only where this machine sees its artifact.
        try:
            outcome = self.machines.outcome(handle)
            is_there = outcome.status != "done" or self.store.find(stage.kind, stage.key)
        except Exception as error:
            # The worker died, what it raised could not be sent here, or the store does not answer.
            kind = classify(error)
            return Outcome(key=stage.key, status="failed", error=one_line(error), failure=kind)
        if not is_there:
            error = (
                f"the stage ran on another machine, but its artifact is not in {self.store.root} "
                "here; give a --store on a file system that all machines see"
            )
            return Outcome(
                key=stage.key,
                status="failed",
                error=error,
                failure="configuration",
                wall_s=outcome.wall_s,
            )
        return outcome

    def _may_run_again(self, stage: Stage, outcome: Outcome) -> bool:
        """Count a failed attempt; whether another one follows it."""
        if outcome.again:
            # The next attempt computes in more slices; single images end that.
            return True
        failures = self.failures[stage.key]
        # Only the name of the newest checkpoint is read; whether it is whole the attempt finds out.
        step = newest_step(self.store.checkpoints(stage.kind, stage.work_key))
        if not failures.add(outcome.failure, step):
            return False
        self.again_at[stage.key] = time.monotonic() + failures.wait_s
        return True


def _sum(totals: Mapping[str, Amounts]) -> Capacity:
    return Capacity(
        cpus=sum(amounts.get("CPU", 0.0) for amounts in totals.values()),
        gpus=sum(amounts.get("GPU", 0.0) for amounts in totals.values()),
    )
