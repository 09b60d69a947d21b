"""Runs stages one after another in this process: for debugging, and for machines without Ray."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from harness.config.resources import Resources
from harness.execution.failures import Failures
from harness.execution.stage_run import Outcome, run_stage
from harness.executors.interface import Executor, Graph, Listener, StageEvent
from harness.executors.requests import Demand, demand_of
from harness.machine.metering import lost_device
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Store
from harness.storage.checkpoints import newest_step
from harness.storage.stop_requests import StopRequest

BUSY_POLL_S = 1.0
"""Seconds between two looks at a stage that another process works on."""


class InlineExecutor(Executor):
    """One stage at a time, in the order given."""

    def run_graph(
        self, graph: Graph, root: Path, resources: Mapping[str, Resources], stop: StopRequest
    ) -> None:
        """Run all stages; see `Executor`."""
        asked = {kind: resources[kind] for kind in graph.kinds(resources)}
        demands = refuse_impossible(asked)
        with stop.open():
            graph.grow(1)
            # The list grows while it is walked.
            for stage in graph.stages:
                if stop.is_requested:
                    break
                if stage.key in graph.outcomes:
                    continue
                demand = demands[stage.kind]
                # One at a time: what it holds is all that this run has.
                held = demand.held
                start = StageEvent(stage=stage, what="started", held=held, total=held)
                outcome = _run(start, root, resources[stage.kind], demand, graph.listen, stop)
                if outcome is None:
                    break
                graph.end(stage, outcome)
                graph.grow(1)


def _run(
    start: StageEvent,
    store_root: Path,
    request: Resources,
    demand: Demand,
    listen: Listener,
    stop: StopRequest,
) -> Outcome | None:
    """Run a stage until it has ended; None where a stop request ended a wait."""
    stage, failures, store = start.stage, Failures(), Store(store_root)
    listen(start)
    while True:
        outcome = run_stage(stage, store_root, request, demand.gpus, stop=stop.path)
        if outcome.status == "busy":
            listen(StageEvent(stage=stage, what="waiting"))
            time.sleep(BUSY_POLL_S)
            if stop.is_requested:
                return None
            continue
        if outcome.status != "failed":
            return outcome
        if lost := lost_device():
            # As where machines are lost: later stages would fail here, and a new process is whole.
            raise ConnectionError(f"this process has lost its GPU in {stage.label} ({lost})")
        step = newest_step(store.checkpoints(stage.kind, stage.work_key))
        if not failures.add(outcome.failure, step):
            return replace(outcome, error=failures.told(outcome.error))
        listen(StageEvent(stage=stage, what="again", outcome=outcome))
        time.sleep(failures.wait_s)
        if stop.is_requested:
            return None
        listen(start)


def this_machine() -> dict[str, float]:
    """What there is of `CPU`, `GPU` and `memory` [bytes], memory of graphics cards not counted."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    gpus = float(torch.cuda.device_count())
    return {"CPU": float(os.cpu_count() or 1), "GPU": gpus, "memory": memory}


def refuse_impossible(asked: Mapping[str, Resources]) -> dict[str, Demand]:
    """Refuse what one process on this machine cannot give; returns the demands."""
    here = this_machine()
    cores, gpus, memory_gib = int(here["CPU"]), int(here["GPU"]), here["memory"] / 2**30
    demands = {kind: demand_of(request, gpus) for kind, request in asked.items()}
    for kind, demand in demands.items():
        request, wanted = asked[kind], asked[kind].accelerator_type
        if demand.workers > 1:
            setting = "gpus=auto" if demand.gpus else "workers=1"
            raise ConfigError(
                f"asks for {demand.workers} workers, but the inline executor runs everything in "
                f"one process; run with --executor ray, or with --set resources.{kind}.{setting}",
                path=f"resources.{kind}",
            )
        name = torch.cuda.get_device_name() if wanted and 0 < demand.gpus <= gpus else "none"
        is_wanted = wanted.split("-")[0].lower() in name.lower().replace(" ", "-").split("-")
        wrong = (
            ("gpus", demand.gpus > gpus,
             f"asks for {demand.gpus:g} GPUs, but this machine has {gpus}; use `auto`"),
            ("cpus", request.cpus > cores,
             f"must be at most the {cores} cores of this machine, but got {request.cpus}; set it "
             f"to {cores}"),
            ("memory_gib", (request.memory_gib or 0) > memory_gib,
             f"must be at most the {memory_gib:.0f} GiB of this machine, but got "
             f"{request.memory_gib}; lower it"),
            ("accelerator_type", bool(wanted) and request.gpus != 0 and not is_wanted,
             f"asks for a GPU of the kind {wanted}, but this machine has {name}; leave it out"),
        )  # fmt: skip
        for setting, is_wrong, text in wrong:
            if is_wrong:
                raise ConfigError(
                    f"{text}, or run on a cluster with --executor ray --address ADDRESS",
                    path=f"resources.{kind}.{setting}",
                )
    return demands
