"""Sweeps whose tokenizers and generators all come from checkpoints, so that nothing is trained."""

import dataclasses

from harness.config.sweep import Point, Sweep
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError


def from_checkpoints(sweep: Sweep, *, with_generator: bool) -> Sweep:
    """The sweep whose networks all come from checkpoints; without generators, each tokenizer once.

    Raises:
        ConfigError: A network would be trained, or there is no generator.
    """
    points: dict[str, Point] = {}
    for point in sweep.points:
        if not with_generator:
            point = dataclasses.replace(
                point, trial=dataclasses.replace(point.trial, generator=None)
            )
        elif point.trial.generator is None:
            raise ConfigError(
                "must be a block, but the trial has none; use `evaluate tokenizer`",
                path="trial.generator",
                source=sweep.source,
            )
        points.setdefault(point.trial_id, point)
    file = dataclasses.replace(sweep.file, name=f"{sweep.file.name}-evaluated")
    evaluated = dataclasses.replace(sweep, file=file, points=tuple(points.values()))
    for stage in make_plan(evaluated).stages:
        if stage.kind in ("tokenizer", "generator") and not stage.config.checkpoint:
            raise ConfigError(
                f"must name the file of a trained {stage.kind}, but {stage.label!r} would be "
                "trained, and nothing is trained here; set it, or use harness.run",
                path=f"trial.{stage.kind}.checkpoint",
                source=sweep.source,
            )
    return evaluated
