"""A stage kind that only sleeps, for measuring what the harness adds.

Workers import this module when they are sent such a stage, which makes the kind known to them.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.stages import registry
from harness.stages.running.context import StageContext
from harness.stages.stage import Estimate, Stage, StageKind

KIND = "nap"


@dataclass(frozen=True, kw_only=True)
class Nap:
    """What the stage reads."""

    number: int
    """Tells one nap from another."""
    seconds: float
    """How long it sleeps."""


def run(config: Nap, context: StageContext) -> Mapping[str, Any]:
    """Sleep, and say when and in which process."""
    began = time.time()
    time.sleep(config.seconds)
    return {"began": began, "ended": time.time(), "pid": os.getpid()}


def estimate(stage: Stage) -> Estimate:
    """Its seconds stand for operations."""
    return Estimate(flops=stage.config.seconds, disk_bytes=0.0)


registry.KINDS[KIND] = StageKind(version=1, run=run, estimate=estimate)


def naps(count: int, seconds: float) -> list[Stage]:
    """Stages without inputs."""
    return [
        Stage(kind=KIND, config=Nap(number=n, seconds=seconds), inputs={}, label=f"nap {n}")
        for n in range(count)
    ]
