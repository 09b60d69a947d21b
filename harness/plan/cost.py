"""Costs of the stages of a plan, estimated from their configurations alone."""

from collections.abc import Callable, Sequence

from harness.stages.registry import KINDS
from harness.stages.stage import Estimate, Stage


def estimate(stage: Stage) -> Estimate:
    """Estimate one stage, as its kind does."""
    if stage.key not in _estimates:
        _estimates[stage.key] = KINDS[stage.kind].estimate(stage)
    return _estimates[stage.key]


_estimates: dict[str, Estimate] = {}


def estimated_flops(stage: Stage) -> float:
    """Floating-point operations of one stage."""
    return estimate(stage).flops


def critical_paths(
    stages: Sequence[Stage], length: Callable[[Stage], float] = estimated_flops
) -> dict[str, float]:
    """Key -> length from the start of that stage to the end of the longest chain behind it.

    Args:
        stages: Inputs first.
        length: Of one stage; its FLOPs unless given.
    """
    lengths: dict[str, float] = {}
    behind: dict[str, float] = {}
    for stage in reversed(stages):
        lengths[stage.key] = length(stage) + behind.get(stage.key, 0.0)
        for source in stage.inputs.values():
            behind[source.key] = max(behind.get(source.key, 0.0), lengths[stage.key])
    return lengths
