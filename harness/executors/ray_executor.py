"""Runs stages as Ray tasks, each as soon as its inputs are in the store. The one module with Ray.

Ray carries small tickets only: stages go out as configurations, outcomes come back as one line,
artifacts travel through the store. The queue is our own, because Ray has neither priorities nor
reservations: a stage is submitted when its resources are free, longest remaining path first.
"""

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from harness.configuration import ConfigError
from harness.cost import critical_paths
from harness.execution import Outcome, run_stage
from harness.executors.interface import (
    Capacity,
    Feed,
    Listener,
    StageEvent,
    block_descendants,
    fixed,
    grow,
)
from harness.plan import Stage
from harness.store import Store
from harness.sweep import Resources

POLL_S = 1.0
"""Seconds between two looks at the queue."""
BUSY_POLL_S = 5.0
"""Seconds after which a stage that another process works on is looked at again."""
SLACK = 1e-6
"""Fractions of a GPU don't add up to exactly one."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Ray's object store: only tickets pass through it."""
ANSWER_S = 10.0
"""Seconds that a cluster has to accept a connection."""
INFRASTRUCTURE_RETRIES = 3
"""How often Ray starts a stage again whose worker process died."""


def _run(stage: Stage, store_root: str, resources: Resources, gpus: float) -> Outcome:
    return run_stage(stage, Path(store_root), resources, gpus)


class RayExecutor:
    """Runs the graph on a Ray cluster, or on a local Ray that it starts by itself."""

    def __init__(self, address: str | None = None) -> None:
        """Args:
        address: `HOST:PORT` or `auto` of a running cluster; None starts Ray on this machine.
        """
        self.address = address

    def run(
        self,
        stages: Sequence[Stage],
        store_root: Path,
        resources: Mapping[str, Resources],
        listen: Listener,
        feed: Feed = fixed,
    ) -> dict[str, Outcome]:
        """Run all stages; see `Executor`."""
        _connect(self.address)
        try:
            return _Queue(stages, store_root.resolve(), resources, listen, feed).run()
        finally:
            ray.shutdown()


def _connect(address: str | None) -> None:
    if address and address != "auto":
        _require_answer(address)
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _system_config={"task_oom_retries": INFRASTRUCTURE_RETRIES},
                **quiet,
            )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(_connection_message(address, error), path="--address") from error


def _require_answer(address: str) -> None:
    """Ray itself waits for minutes where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if not host or not port.isdigit():
            raise ValueError("it is not HOST:PORT")
        with socket.create_connection((host, int(port)), timeout=ANSWER_S):
            return
    except (OSError, ValueError) as error:
        raise ConfigError(_connection_message(address, error), path="--address") from error


def _connection_message(address: str | None, error: Exception) -> str:
    cause = " ".join(str(error).split())[:300]
    if address:
        return (
            f"Ray at {address!r} must answer, but does not ({type(error).__name__}: {cause}); "
            "check the address, and that this process uses the cluster's token "
            "(RAY_AUTH_MODE=token and RAY_AUTH_TOKEN), or RAY_AUTH_MODE=disabled if it has none"
        )
    return (
        f"Ray must start on this machine, but does not ({type(error).__name__}: {cause}); where "
        "the home folder cannot be written set RAY_AUTH_MODE=disabled, where the temporary path "
        "is long set RAY_TMPDIR=/tmp/ray, or run with --executor inline"
    )


class _Queue:
    """Stages that wait, are ready or run, and the resources that are free."""

    def __init__(
        self,
        stages: Sequence[Stage],
        store_root: Path,
        resources: Mapping[str, Resources],
        listen: Listener,
        feed: Feed,
    ) -> None:
        self.stages, self.store, self.listen = list(stages), Store(store_root), listen
        self.resources, self.feed = resources, feed
        total = ray.cluster_resources()
        self.free = {"CPU": total.get("CPU", 0.0), "GPU": total.get("GPU", 0.0)}
        self.gpus = {kind: _grant(r, self.free["GPU"]) for kind, r in resources.items()}
        # What a feed will ask for is not known yet: every kind must be possible.
        self._refuse_impossible({s.kind for s in stages} if feed is fixed else set(resources))
        self.capacity = min(self._capacity(kind) for kind in resources)
        self.paths = critical_paths(stages)
        self.outcomes: dict[str, Outcome] = {}
        self.running: dict[ray.ObjectRef, Stage] = {}
        self.not_before: dict[str, float] = {}
        self.task = ray.remote(max_retries=INFRASTRUCTURE_RETRIES)(_run)
        # A GPU is really freed only when the process that used it ends.
        self.gpu_task = ray.remote(max_retries=INFRASTRUCTURE_RETRIES, max_calls=1)(_run)

    def run(self) -> dict[str, Outcome]:
        self._grow()
        while len(self.outcomes) < len(self.stages):
            self._submit_ready()
            if not self.running:
                time.sleep(POLL_S)
                continue
            finished, _ = ray.wait(list(self.running), num_returns=1, timeout=POLL_S)
            for reference in finished:
                self._collect(reference)
            if finished:
                self._grow()
        return self.outcomes

    def _grow(self) -> None:
        if grow(self.feed, self.capacity, self.stages, self.outcomes, self.listen):
            self.paths = critical_paths(self.stages)

    def _capacity(self, kind: str) -> int:
        """How many stages of a kind run side by side when nothing else does; at least one."""
        needs = {"CPU": float(self.resources[kind].cpus), "GPU": self.gpus[kind]}
        counts = [self.free[n] / need + SLACK for n, need in needs.items() if need > 0]
        return max(1, int(min(counts)))

    def _submit_ready(self) -> None:
        """Submit in order; what a waiting stage lacks is held for it, not given to later ones."""
        reserved: set[str] = set()
        for stage in self._ready():
            needs = self._needs(stage)
            lacking = {n for n, need in needs.items() if need > self.free[n] + SLACK}
            if not lacking and not any(needs[name] > 0 for name in reserved):
                self._submit(stage)
            reserved |= lacking

    def _ready(self) -> list[Stage]:
        busy = {stage.key for stage in self.running.values()}
        known = {stage.key for stage in self.stages}
        ready = [
            stage
            for stage in self.stages
            if stage.key not in self.outcomes
            and stage.key not in busy
            and self.not_before.get(stage.key, 0.0) <= time.monotonic()
            and all(i.key in self.outcomes for i in stage.inputs.values() if i.key in known)
        ]
        return sorted(ready, key=lambda stage: -self.paths[stage.key])

    def _needs(self, stage: Stage) -> dict[str, float]:
        return {"CPU": float(self.resources[stage.kind].cpus), "GPU": self.gpus[stage.kind]}

    def _submit(self, stage: Stage) -> None:
        needs = self._needs(stage)
        task = self.gpu_task if needs["GPU"] > 0 else self.task
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "name": stage.label}
        reference = task.options(**options).remote(
            stage, str(self.store.root), self.resources[stage.kind], needs["GPU"]
        )
        self.running[reference] = stage
        for name, need in needs.items():
            self.free[name] -= need
        held = Capacity(cpus=needs["CPU"], gpus=needs["GPU"])
        self.listen(StageEvent(stage=stage, what="started", held=held, total=_cluster()))

    def _collect(self, reference: ray.ObjectRef) -> None:
        stage = self.running.pop(reference)
        for name, need in self._needs(stage).items():
            self.free[name] += need
        try:
            outcome: Outcome = ray.get(reference)
        except RayError as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]
            outcome = Outcome(key=stage.key, status="failed", error=message)
        if outcome.status == "busy":
            self.not_before[stage.key] = time.monotonic() + BUSY_POLL_S
            self.listen(StageEvent(stage=stage, what="waiting"))
            return
        if outcome.status == "done" and not self.store.find(stage.kind, stage.key):
            error = (
                f"the stage ran on another machine, but its artifact is not in {self.store.root} "
                "here; give a --store on a file system that all machines see"
            )
            outcome = Outcome(key=stage.key, status="failed", error=error, wall_s=outcome.wall_s)
        self.outcomes[stage.key] = outcome
        self.listen(StageEvent(stage=stage, what="ended", outcome=outcome))
        if outcome.status in ("failed", "diverged"):
            block_descendants(stage, self.stages, self.outcomes, self.listen)

    def _refuse_impossible(self, kinds: Collection[str]) -> None:
        """Ray would wait for ever for a request that no machine of the cluster can meet."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for kind in kinds:
            cpus, gpus = self.resources[kind].cpus, self.gpus[kind]
            if not any(n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus for n in nodes):
                sizes = ", ".join(f"{n.get('CPU', 0):g}/{n.get('GPU', 0):g}" for n in nodes)
                raise ConfigError(
                    f"asks for {cpus} CPUs and {gpus:g} GPUs on one machine, but the machines have "
                    f"{sizes} (CPUs/GPUs); lower the request or join larger machines",
                    path=f"resources.{kind}",
                )


def _cluster() -> Capacity:
    total = ray.cluster_resources()
    return Capacity(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0))


def _grant(request: Resources, available: float) -> float:
    return min(1.0, available) if request.gpus == "auto" else float(request.gpus)
