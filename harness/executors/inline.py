"""Runs stages one after another in this process: for debugging, and for machines without Ray."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from harness.configuration import ConfigError
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
from harness.sweep import Resources

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
    ) -> dict[str, Outcome]:
        """Run all stages; see `Executor`."""
        available = torch.cuda.device_count()
        # What a feed will ask for is not known yet: every kind must be possible.
        kinds = {stage.kind for stage in stages} if feed is fixed else set(resources)
        total = Capacity(cpus=float(os.cpu_count() or 1), gpus=float(available))
        grants = {kind: _grant(kind, resources[kind], available) for kind in kinds}
        outcomes: dict[str, Outcome] = {}
        stages = list(stages)
        grow(feed, 1, stages, outcomes, listen)
        # The list grows while it is walked.
        for stage in stages:
            if stage.key in outcomes:
                continue
            request, gpus = resources[stage.kind], grants[stage.kind]
            held = Capacity(cpus=float(request.cpus), gpus=gpus)
            listen(StageEvent(stage=stage, what="started", held=held, total=total))
            outcome = run_stage(stage, store_root, request, gpus)
            while outcome.status == "busy":
                listen(StageEvent(stage=stage, what="waiting"))
                time.sleep(BUSY_POLL_S)
                outcome = run_stage(stage, store_root, request, gpus)
            outcomes[stage.key] = outcome
            listen(StageEvent(stage=stage, what="ended", outcome=outcome))
            if outcome.status in ("failed", "diverged"):
                block_descendants(stage, stages, outcomes, listen)
            grow(feed, 1, stages, outcomes, listen)
        return outcomes


def _grant(kind: str, request: Resources, available: int) -> float:
    gpus = float(min(1, available)) if request.gpus == "auto" else request.gpus
    if gpus > available:
        raise ConfigError(
            f"asks for {gpus:g} GPUs, but this machine has {available}; use `auto`, or run on a "
            "cluster with --executor ray --address ADDRESS",
            path=f"resources.{kind}.gpus",
        )
    return gpus
