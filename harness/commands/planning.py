"""Before anything starts: what cannot run is refused, and a dry run is printed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.commands.options import RunOptions
from harness.config.resources import Resources
from harness.data.missing import MissingItem
from harness.metrics.frechet import self_test
from harness.plan.cost import estimate
from harness.plan.plan import Plan
from harness.plan.requests import request_of
from harness.plan.requirements import key_paths, writable_error
from harness.reporting.plan_text import describe_plan, plan_text
from harness.schema.reading import ConfigError
from harness.stages.registry import KINDS
from harness.stages.stage import Stage
from harness.storage.artifacts import Store

FOLDERS = ("rows", "grids", "figures", "earlier")
"""Folders of results; a file in the place of one is told before anything starts."""


def check_networks(stages: Sequence[Stage], source: str) -> None:
    """Build every network once without memory, to tell a wrong one before anything starts."""
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
            KINDS[stage.kind].check_given(stage)
        except ConfigError as error:
            path = error.path.replace(stage.kind, paths[stage.key], 1)
            raise ConfigError(error.message, path=path, source=source) from error


def check_machine(
    options: RunOptions, stages: Sequence[Stage], resources: Mapping[str, Resources], source: str
) -> None:
    """Refuse what this machine cannot give, or a cluster that cannot be reached from it."""
    if options.assume_device:
        return
    # After the check: an executor takes a second to import, and other plans need none.
    from harness.executors import inline, ray_environment, requests

    if options.address:
        ray_environment.require_open(options.address)
        return

    asked = {stage.kind: request_of(stage.kind, resources) for stage in stages}
    here = inline.this_machine()
    try:
        if options.executor == "inline":
            inline.refuse_impossible(asked)
        else:
            demands = {kind: requests.demand_of(r, here["GPU"]) for kind, r in asked.items()}
            kinds = {f"accelerator_type:{r.accelerator_type}": here["GPU"] for r in asked.values()}
            requests.refuse_impossible(asked, demands, [{**here, **kinds}], shared=False)
    except ConfigError as error:
        raise error.within(source=source) from error


def check_start(
    options: RunOptions,
    stages: Sequence[Stage],
    missing: Mapping[str, MissingItem],
    results: Path,
    source: str,
) -> None:
    """Refuse to start where files are missing, nothing can be written, or numbers come out wrong.

    A dry run asks this too, so that it ends as the run would; one under `--assume-device` is for
    another machine, of which nothing is known here. Nothing is written. ConfigError lists all that
    is missing, each with its remedy.
    """
    if options.assume_device:
        return
    self_test()
    told = [text for text, item in missing.items() if not (options.download and item.fetch)]
    if told:
        items = "".join(f"\n  - {text}" for text in told)
        wrong = any(item.wrong for item in missing.values())
        why = "missing or not as declared" if wrong else "missing"
        raise ConfigError(f"nothing was started, because this is {why}:{items}", source=source)
    if error := writable_error(results):
        raise ConfigError(error)
    kinds = sorted({stage.kind for stage in stages})
    # A store in which nothing is to be made need not be written.
    written = [options.store, *(options.store / kind for kind in kinds)] if kinds else []
    written += [path for path in results.glob("*") if path.is_dir() or path.name in FOLDERS]
    for folder in written:
        if error := writable_error(folder):
            raise ConfigError(error)


def print_plan(
    options: RunOptions,
    plan: Plan,
    to_run: Sequence[Stage],
    missing: Iterable[str],
    more: Mapping[str, Any] | None = None,
    remark: str = "",
) -> None:
    """Print what a dry run says: the plan, what is missing, and what it costs."""
    described = {
        **describe_plan(plan, Store(options.store), to_run, list(missing), options.assume_device),
        **(more or {}),
    }
    print(json.dumps(described, indent=1) if options.json else plan_text(described) + remark)
