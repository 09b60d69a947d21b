"""Runs stages as Ray tasks, each as soon as its inputs are in the store and its resources free."""

from collections.abc import Mapping
from pathlib import Path

from harness.config.resources import Resources
from harness.executors.interface import Executor, Graph
from harness.executors.queue import Queue
from harness.executors.ray_connection import Say, connected
from harness.executors.ray_machines import RayMachines
from harness.executors.requests import demand_of, refuse_impossible
from harness.storage.stop_requests import StopRequest


class RayExecutor(Executor):
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

    def run_graph(
        self, graph: Graph, root: Path, resources: Mapping[str, Resources], stop: StopRequest
    ) -> None:
        """Run all stages; see `Executor`."""
        with connected(self.address, self.say), stop.open():
            shared = self.address is not None
            machines = RayMachines(root, resources, stop, self.say, shared=shared)
            totals = list(machines.totals().values())
            # `auto` means a GPU where the cluster has any.
            gpus = sum(amounts.get("GPU", 0.0) for amounts in totals)
            demands = {kind: demand_of(r, gpus) for kind, r in resources.items()}
            if not self.wait_for_nodes:
                refuse_impossible(graph.kinds(resources), demands, totals, shared=shared)
            machines.require_code(graph.stages)
            queue = Queue(graph, root, demands, machines, stop)
            # A stage that goes on after its driver would hold machines that nobody counts.
            try:
                queue.run()
            except BaseException:
                machines.end_all()
                raise
