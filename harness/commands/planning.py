"""Before anything starts: networks that cannot be built are refused, and a dry run is printed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.commands.options import RunOptions
from harness.config.resources import Resources
from harness.plan.cost import estimate
from harness.plan.plan import Plan
from harness.plan.requests import request_of
from harness.plan.requirements import key_paths
from harness.reporting.plan_text import describe_plan, plan_text
from harness.schema.reading import ConfigError
from harness.stages.registry import KINDS
from harness.stages.stage import Stage
from harness.storage.artifacts import Store


def check_networks(stages: Sequence[Stage], source: str) -> None:
    """Build every network once without memory, so that a wrong one is told before anything starts.

    Raises:
        ConfigError: A network cannot be built from its configuration, or given weights are of
            another one.
    """
    paths = key_paths(stages)
    for stage in stages:
        try:
            estimate(stage)
        # Networks are timm's and the user's too, which raise anything.
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            message = f"the networks of {stage.kind} {stage.label!r} cannot be built: {kind}{error}"
            raise ConfigError(message, path=f"trial.{paths[stage.key]}", source=source) from error
        try:
            KINDS[stage.kind].check_given(stage.config)
        except ConfigError as error:
            path = error.path.replace(stage.kind, paths[stage.key], 1)
            raise ConfigError(error.message, path=path, source=source) from error


def check_machine(
    options: RunOptions, stages: Sequence[Stage], resources: Mapping[str, Resources], source: str
) -> None:
    """Refuse what one process on this machine cannot give, where stages are to run in it."""
    if options.executor != "inline":
        return
    # After the check: an executor takes a second to import, and other plans need none.
    from harness.executors.inline import refuse_impossible

    try:
        refuse_impossible({stage.kind: request_of(stage.kind, resources) for stage in stages})
    except ConfigError as error:
        raise error.within(source=source) from error


def print_plan(
    options: RunOptions,
    plan: Plan,
    to_run: Sequence[Stage],
    missing: Sequence[str],
    more: Mapping[str, Any] | None = None,
    remark: str = "",
) -> None:
    """Print what a dry run says: the plan, what is missing, and what it costs."""
    described = {
        **describe_plan(plan, Store(options.store), to_run, missing, options.assume_device),
        **(more or {}),
    }
    print(json.dumps(described, indent=1) if options.json else plan_text(described) + remark)
