"""Runs stages as Ray tasks, each as soon as its inputs are in the store and its resources free."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from harness.config.resources import Resources
from harness.execution.stage_run import Outcome
from harness.executors.interface import Feed, Listener, fixed
from harness.executors.queue import Queue
from harness.executors.ray_connection import Say, connected
from harness.executors.ray_machines import RayMachines
from harness.executors.requests import Amounts, Demand, demand_of, is_possible, refusal
from harness.stages.stage import Stage
from harness.storage.stop_requests import StopRequest


class RayExecutor:
    """Runs the graph on a Ray cluster, or on a local Ray that it starts by itself."""

    def __init__(
        self, address: str | None = None, *, wait_for_nodes: bool = False, say: Say = print
    ) -> None:
        """Args:
        address: `HOST:PORT` or `auto` of a running cluster; None starts Ray on this machine.
        wait_for_nodes: Whether requests that no machine can meet wait for one that joins.
        say: Shows a note to the user.
        """
        self.address, self.wait_for_nodes, self.say = address, wait_for_nodes, say

    def run(
        self,
        stages: Sequence[Stage],
        store_root: Path,
        resources: Mapping[str, Resources],
        listen: Listener,
        feed: Feed = fixed,
        stop: StopRequest | None = None,
    ) -> dict[str, Outcome]:
        """Run all stages; see `Executor`."""
        root = store_root.resolve()
        stop = stop or StopRequest(root)
        with connected(self.address, self.say), stop.open():
            shared = self.address is not None
            machines = RayMachines(root, resources, stop, self.say, shared=shared)
            totals = list(machines.totals().values())
            # `auto` means a GPU where the cluster has any.
            gpus = sum(amounts.get("GPU", 0.0) for amounts in totals)
            demands = {kind: demand_of(r, gpus) for kind, r in resources.items()}
            # What a feed will ask for is not known yet: every kind must be possible.
            kinds = {s.kind for s in stages} if feed is fixed else set(resources)
            if not self.wait_for_nodes:
                refuse_impossible(kinds, demands, totals, shared=shared)
            machines.require_code(stages)
            queue = Queue(stages, root, demands, machines, listen, feed, stop)
            # A stage that goes on after its driver would hold machines that nobody counts.
            try:
                return queue.run()
            except BaseException:
                machines.end_all()
                raise


def refuse_impossible(
    kinds: Collection[str],
    demands: Mapping[str, Demand],
    machines: Sequence[Amounts],
    *,
    shared: bool,
) -> None:
    """Refuse requests that no machine of the cluster can meet; Ray would wait for ever.

    Args:
        kinds: Stage kinds that will run.
        demands: Stage kind -> what it needs.
        machines: What each machine has.
        shared: Whether they are a cluster's, which others may join.

    Raises:
        ConfigError: A request is impossible.
    """
    hint = ", or run on a cluster with larger machines (`--address HOST:PORT`)"
    if shared:
        hint = (
            ", join larger machines, or give --wait-for-nodes where machines join later "
            "(autoscaling)"
        )
    for kind in sorted(kinds):
        if not is_possible(demands[kind], machines):
            raise refusal(kind, demands[kind], machines, hint=hint)
