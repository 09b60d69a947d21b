"""Costs of the stages of a plan, estimated from their configurations alone."""

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
