"""Ray's machines: what they have, and how a stage is started on them.

Only small messages go through Ray: stages go out as configurations, outcomes come back as one line,
artifacts travel through the store. Ray's own retries are off, because it would repeat stages that
ran out of host memory for ever and would move stages without telling the queue.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler import sdk
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.config.resources import Resources
from harness.execution.stage_run import Outcome
from harness.executors.parcel import Parcel
from harness.executors.placement import Placement
from harness.executors.ray_connection import Say
from harness.executors.ray_gang import Job, run_gang
from harness.executors.ray_head import Head
from harness.executors.requests import Amounts, Demand
from harness.schema.imported import code_of
from harness.schema.reading import ConfigError
from harness.stages.stage import Stage
from harness.storage.stop_requests import StopRequest

QUIET_S = 2.0
"""Seconds after our last change before Ray's count of what is taken is read: it lags behind."""
SIGNALS_S = 0.1
"""Longest wait within Ray, in seconds: signals that come during one count as one."""


def _run(job: Job) -> Outcome:
    if not job.gpus:
        hide_gpus()
    return job.run()


def _find_code(parcel: Parcel) -> str:
    """Why a stage cannot be opened on this machine, or that its code is another; else nothing."""
    try:
        stage = parcel.open()
        found = code_of(stage.config)
    except ConfigError as error:
        return str(error)
    if found == stage.code:
        return ""
    return f"it has {found} in place of {dict(stage.code)}; install the same version there"


def hide_gpus() -> None:
    """Let a stage without GPUs see none; Ray leaves them all visible to it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class RayMachines:
    """The machines of the cluster that this process is connected to."""

    def __init__(
        self,
        store_root: Path,
        resources: Mapping[str, Resources],
        stop: StopRequest,
        say: Say,
        *,
        shared: bool,
    ) -> None:
        """Args:
        store_root: Root of the store, seen by every machine.
        resources: Stage kind -> its request.
        stop: The driver's stop request, handed to every stage.
        say: Shows a note to the user.
        shared: Whether others may use the machines too.
        """
        self.store_root, self.resources = store_root, resources
        self.stop, self.say, self.shared = stop, say, shared
        self.head = Head(ray.get_runtime_context().gcs_address, shared=shared)
        # No retries by Ray: a stage that it repeats would hold what the queue counts as free. And a
        # GPU is really freed only when the process that used it ends; options can't ask for that.
        self.gpu_task = ray.remote(max_retries=0, max_calls=1)(_run)
        self.cpu_task = ray.remote(max_retries=0)(_run)
        # A process each: Ray Train leaves a signal handler in its own.
        self.gang_task = ray.remote(max_retries=0, max_calls=1, num_cpus=0)(run_gang)
        self._placed: dict[ray.ObjectRef, tuple[Placement, Demand]] = {}
        self._changed = 0.0
        self._taken: Mapping[str, Amounts] = {}
        self._wanted: list[str] = []

    def totals(self) -> dict[str, Amounts]:
        """Machine -> what it has; of those that live at this moment.

        Raises:
            ConnectionError: The head does not answer; or Ray was started here and has ended, so
                that no machine will ever join.
        """
        self.head.require()
        found = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        if not found and not self.shared:
            raise ConnectionError(
                "the Ray that this command started must go on running, but its raylet has ended"
            )
        return found

    def require_code(self, stages: Sequence[Stage]) -> None:
        """Refuse to start where a machine lacks the user's own code, or has another version."""
        # One of each code is enough: a sweep has the same in hundreds of stages.
        parcels = {str(stage.code): Parcel.of(stage) for stage in stages if stage.code}
        for node in self.totals() if parcels else ():
            where = NodeAffinitySchedulingStrategy(node, soft=False)
            find = ray.remote(num_cpus=0)(_find_code).options(scheduling_strategy=where)
            for error in ray.get([find.remote(parcel) for parcel in parcels.values()]):
                if error:
                    raise ConfigError(f"machine {node[:8]} of the cluster: {error}", path="plugins")

    def taken_elsewhere(self) -> Mapping[str, Amounts]:
        """Machine -> what other jobs hold of it, seen whenever this one was quiet for a while."""
        if self.shared and time.monotonic() - self._changed > QUIET_S:
            self._taken = self._look_at_others()
        return self._taken

    def launch(self, placement: Placement, demand: Demand) -> Any:
        """Start a stage on the chosen machine."""
        stage = placement.stage
        job = Job(
            parcel=Parcel.of(stage),
            key=stage.key,
            store_root=self.store_root,
            resources=self.resources[stage.kind],
            each=demand.each,
            nodes=placement.nodes,
            stop=self.stop.path,
            shared=self.shared,
        )
        name = f"{stage.kind} {stage.label}"
        if demand.workers > 1:
            # Starts the workers and holds nothing itself.
            task = self.gang_task.options(name=f"workers of {name}")
        else:
            task = self._task_on(placement.nodes[0], demand.each, name)
        handle = task.remote(job)
        self._placed[handle] = (placement, demand)
        self._changed = time.monotonic()
        return handle

    def _task_on(self, node: str, amounts: Amounts, name: str) -> Any:
        each = dict(amounts)
        cpus, gpus = each.pop("CPU"), each.pop("GPU", 0.0)
        task = self.gpu_task if gpus else self.cpu_task
        memory = each.pop("memory", None)
        # Not soft: a stage must start on the machine that was chosen for it, or not at all.
        return task.options(
            num_cpus=cpus,
            num_gpus=gpus,
            memory=memory,
            resources=each or None,
            name=name,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )

    def wait(self, handles: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Those that have ended, after at most `timeout_s` seconds; ConnectionError where the head
        does not answer any more."""
        self.head.look()
        until = time.monotonic() + timeout_s
        while True:
            # Signals that come while Ray waits are handled after it, and two of them as one.
            ended, _ = ray.wait(list(handles), num_returns=1, timeout=min(SIGNALS_S, timeout_s))
            if ended or time.monotonic() >= until:
                return ended

    def outcome(self, handle: Any) -> Outcome:
        """How a stage ended; raises Ray's error where its worker died."""
        self._placed.pop(handle, None)
        self._changed = time.monotonic()
        return ray.get(handle)

    def want(self, demands: Sequence[Demand]) -> None:
        """Tell the user, and an autoscaler if there is one, what waits and fits nowhere yet."""
        wanted = sorted({str(demand) for demand in demands})
        if wanted == self._wanted:
            return
        for text in wanted:
            self.say(f"waiting for machines that hold {text}: none of the {self._sizes()} do")
        self._wanted = wanted
        # Ray's autoscaler sees tasks that wait in Ray, and these wait with us.
        bundles = [dict(demand.each) for demand in demands for _ in range(demand.workers)]
        sdk.request_resources(bundles=bundles)

    def end_all(self) -> None:
        """Stop every stage that still runs, at once."""
        for handle in self._placed:
            ray.cancel(handle, force=True)

    def _sizes(self) -> str:
        sizes = [f"{a.get('CPU', 0):g}/{a.get('GPU', 0):g}" for a in self.totals().values()]
        return f"{len(sizes)} there ({', '.join(sizes) or 'none'} CPUs/GPUs)"

    def _look_at_others(self) -> dict[str, Amounts]:
        # A private name of Ray; its public calls tell what is free of the cluster as a whole only.
        from ray._private.state import available_resources_per_node

        try:
            available = available_resources_per_node()
        except (RayError, RuntimeError):
            return {}
        ours: dict[str, dict[str, float]] = {}
        for placement, demand in self._placed.values():
            for node in placement.nodes:
                held = ours.setdefault(node, {})
                for name, amount in demand.each.items():
                    held[name] = held.get(name, 0.0) + amount
        taken: dict[str, Amounts] = {}
        for node, totals in self.totals().items():
            free, held = available.get(node, totals), ours.get(node, {})
            taken[node] = {
                name: max(0.0, totals[name] - free.get(name, 0.0) - held.get(name, 0.0))
                for name in ("CPU", "GPU", "memory")
                if name in totals
            }
        return taken
