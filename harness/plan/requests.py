"""Resources of each kind of stage, and requests that a kind cannot use."""

import dataclasses
from collections.abc import Mapping

from harness.config.ranges import check_ranges
from harness.config.resources import Resources
from harness.schema.reading import ConfigError, nearest
from harness.stages.registry import KINDS, kinds_of_sweeps


def request_of(kind: str, resources: Mapping[str, Resources]) -> Resources:
    """The request of one stage kind; of `default`, kinds that share no work take one worker."""
    request = resources.get(kind, resources.get("default", Resources()))
    if KINDS[kind].shares_work:
        return request
    gpus = request.gpus if request.gpus == "auto" else min(1.0, request.gpus)
    return dataclasses.replace(request, gpus=gpus, workers=1, slices=1)


def check_resources(resources: Mapping[str, Resources]) -> None:
    """Refuse requests of stage kinds that there are not, and what a kind cannot use."""
    for kind in resources:
        valid = (*kinds_of_sweeps(), "default")
        if kind not in valid:
            raise ConfigError(
                f"unknown stage kind {kind!r}{nearest(kind, valid)} (valid: {', '.join(valid)})",
                path=f"resources.{kind}",
            )
    default = resources.get("default", Resources())
    for kind, asked in resources.items():
        check_ranges(asked, f"resources.{kind}")
        if kind == "default":
            continue
        if asked.compile and not default.compile and not KINDS[kind].compiles:
            raise ConfigError(
                f"stages that train, encode or sample can be compiled, but a {kind} does none of "
                "these; set evaluation.extraction.compile",
                path=f"resources.{kind}.compile",
            )
        for name in ("activation_checkpointing", "shard"):
            if getattr(asked, name) and not getattr(default, name) and kind != "generator":
                raise ConfigError(
                    f"is for trainings of generators, but got true for {kind}; leave it out",
                    path=f"resources.{kind}.{name}",
                )
        if KINDS[kind].shares_work:
            continue
        for name in ("workers", "gpus", "slices"):
            value = getattr(asked, name)
            if value != getattr(default, name) and value != "auto" and value > 1:
                raise ConfigError(
                    "must be at most 1, because the work of this kind is not divided, but got "
                    f"{value:g}; use 1",
                    path=f"resources.{kind}.{name}",
                )
