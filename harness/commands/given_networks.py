"""Sweeps whose tokenizers and generators all come from checkpoints, so that nothing is trained."""

import dataclasses

from harness.config.axes import same
from harness.config.sweep import Point, Sweep
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError


def from_checkpoints(sweep: Sweep, *, with_generator: bool) -> Sweep:
    """The sweep of networks from checkpoints alone; without generators, each tokenizer once."""
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
        # What was varied in the generators alone is no axis of a tokenizer that they share.
        known = points.setdefault(point.trial_id, point)
        shared = {a: v for a, v in known.axes.items() if same(point.axes.get(a), v)}
        points[point.trial_id] = dataclasses.replace(known, axes=shared)
    file = dataclasses.replace(sweep.file, name=f"{sweep.file.name}-evaluated")
    axes = tuple(a for a in sweep.axes if any(a.name in p.axes for p in points.values()))
    evaluated = dataclasses.replace(sweep, file=file, points=tuple(points.values()), axes=axes)
    for stage in make_plan(evaluated).stages:
        kind = stage.kind
        if kind in ("tokenizer", "generator") and not getattr(stage.config, kind).is_given:
            raise ConfigError(
                f"must name the file of a trained {kind}, but {stage.label!r} would be "
                "trained, and nothing is trained here; set it, or use harness.run",
                path=f"trial.{kind}.checkpoint",
                source=sweep.source,
            )
    return evaluated
