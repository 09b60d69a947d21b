"""Runs stages one after another in this process: for debugging, and for machines without Ray."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from harness.config.resources import Resources
from harness.execution.failures import Failures
from harness.execution.stage_run import Outcome, run_stage
from harness.executors.interface import (
    Capacity,
    Feed,
    Listener,
    StageEvent,
    block_descendants,
    fixed,
    grow,
)
from harness.executors.requests import Demand, demand_of
from harness.schema.reading import ConfigError
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.checkpoints import newest_step
from harness.storage.stop_requests import StopRequest

BUSY_POLL_S = 1.0
"""Seconds between two looks at a stage that another process works on."""


class InlineExecutor:
    """One stage at a time, in the order of the plan."""

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
        available = torch.cuda.device_count()
        # What a feed will ask for is not known yet: every kind must be possible.
        kinds = {stage.kind for stage in stages} if feed is fixed else set(resources)
        total = Capacity(cpus=float(os.cpu_count() or 1), gpus=float(available))
        demands = {kind: demand_of(resources[kind], available) for kind in kinds}
        for kind, demand in demands.items():
            _refuse_impossible(kind, demand, available)
        outcomes: dict[str, Outcome] = {}
        stages, stop = list(stages), stop or StopRequest(store_root)
        with stop.open():
            grow(feed, 1, stages, outcomes, listen)
            # The list grows while it is walked.
            for stage in stages:
                if stop.is_requested:
                    break
                if stage.key in outcomes:
                    continue
                demand = demands[stage.kind]
                start = StageEvent(stage=stage, what="started", held=demand.held, total=total)
                outcome = _run(start, store_root, resources[stage.kind], demand, listen, stop)
                if outcome is None:
                    break
                outcomes[stage.key] = outcome
                listen(StageEvent(stage=stage, what="ended", outcome=outcome))
                if outcome.status in ("failed", "diverged"):
                    block_descendants(stage, stages, outcomes, listen)
                grow(feed, 1, stages, outcomes, listen)
        return outcomes


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
        step = newest_step(store.checkpoints(stage.kind, stage.key))
        if not failures.add(outcome.failure, step):
            return replace(outcome, error=failures.told(outcome.error))
        listen(StageEvent(stage=stage, what="again", outcome=outcome))
        time.sleep(failures.wait_s)
        if stop.is_requested:
            return None
        listen(start)


def _refuse_impossible(kind: str, demand: Demand, available: int) -> None:
    if demand.workers > 1:
        setting = "gpus=auto" if demand.gpus else "workers=1"
        raise ConfigError(
            f"asks for {demand.workers} workers, but the inline executor runs everything in one "
            f"process; run with --executor ray, or with --set resources.{kind}.{setting}",
            path=f"resources.{kind}",
        )
    if demand.gpus > available:
        raise ConfigError(
            f"asks for {demand.gpus:g} GPUs, but this machine has {available}; use `auto`, or run "
            "on a cluster with --executor ray --address ADDRESS",
            path=f"resources.{kind}.gpus",
        )
