"""Run stages for a command: checks before any starts, the executor, and signals."""

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.commands.exit_codes import Interrupted, TimeUp
from harness.commands.options import RunOptions
from harness.commands.planning import check_start
from harness.config.resources import Resources
from harness.config.sweep import Sweep
from harness.execution.stage_run import Outcome
from harness.executors import Executor, Feed, Listener, StageEvent
from harness.executors.interface import fixed
from harness.executors.ray_environment import prepare
from harness.plan.plan import Plan, still_missing
from harness.plan.requests import request_of
from harness.plan.requirements import fetch_missing, say_missing
from harness.reporting.live_view import ProgressView
from harness.schema.reading import ConfigError
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.costs import keep_costs
from harness.storage.leftovers import clear_leftovers
from harness.storage.stage_log import user_stream
from harness.storage.stop_requests import INTERRUPTED, TIME_UP, StopRequest, on_signals

MAX_ROUNDS = 8
"""How often damaged inputs are made anew before a command gives up on its disk."""


def begin_start(
    options: RunOptions,
    stages: Sequence[Stage],
    results: Path,
    source: str,
    plan: Plan | None = None,
) -> None:
    """Fetch what may be fetched, refuse what `check_start` refuses, and tidy up the store."""
    if options.download:
        fetch_missing(stages)
    check_start(options, stages, say_missing(stages, plan), results, source)
    if stages:
        clear_leftovers(options.store)
        keep_costs(options.store)


def execute(
    options: RunOptions, stages: Sequence[Stage], store: Store, sweep: Sweep, listen: Listener
) -> dict[str, Outcome]:
    """Run stages in the chosen executor under a progress view, once more what is missing where a
    stage met a damaged input, which was set aside. Raises Interrupted by a signal."""
    rounds = itertools.count()

    def run_missing() -> Mapping[str, Outcome]:
        missing = still_missing(stages, store) if next(rounds) else stages
        if not missing:
            return {}
        resources = {stage.kind: request_of(stage.kind, sweep.file.resources) for stage in missing}
        with (
            user_stream() as stream,
            ProgressView(missing, store, stream, resources=resources) as view,
        ):
            return run_graph(options, missing, store, resources, sweep.source, view, listen, fixed)

    return repeat_while_damaged(run_missing)


def repeat_while_damaged(run_missing: Callable[[], Mapping[str, Outcome]]) -> dict[str, Outcome]:
    """Run what is missing, and once more where a stage met a damaged input, which was set aside."""
    outcomes: dict[str, Outcome] = {}
    for _ in range(MAX_ROUNDS):
        round_ = run_missing()
        outcomes |= round_
        aside = [outcome.set_aside for outcome in round_.values() if outcome.set_aside]
        if not aside:
            break
        for text in dict.fromkeys(aside):
            print(f"warning: {text}", file=sys.stderr)
    return outcomes


def run_graph(
    options: RunOptions,
    stages: Sequence[Stage],
    store: Store,
    resources: Mapping[str, Resources],
    source: str,
    view: ProgressView,
    listen: Listener,
    feed: Feed,
) -> Mapping[str, Outcome]:
    """Run a graph in the chosen executor until it ends, a signal comes or too much has failed.

    Raises Interrupted by a signal or the time limit, after running stages have written their
    checkpoints, and KeyboardInterrupt by a second signal.
    """
    stop, has_failed, share = StopRequest(store.root), dict[str, bool](), options.max_failures

    def show_and_count(event: StageEvent) -> None:
        view(event)
        listen(event)
        if event.what != "ended" or not event.outcome:
            return
        has_failed[event.stage.key] = event.outcome.status in ("failed", "diverged")
        failed, total = sum(has_failed.values()), max(len(stages), len(has_failed))
        if share is not None and not stop.is_requested and failed > share * total:
            stop.request("too much has failed")
            view.tell(
                f"stopping: {failed} of {total} stages have failed, more than the share of "
                f"{share:g} that is allowed; running ones write a checkpoint and end. Run the same "
                "command again to go on"
            )

    try:
        executor = _make_executor(options, view.tell)
        root = store.root.resolve()
        with on_signals(stop, view.tell), _time_limit(options.deadline, stop, view.tell):
            outcomes = executor.run(stages, root, resources, show_and_count, feed, stop)
    except ConfigError as error:
        in_file = error.path.startswith("resources.")
        raise error.within(source=source if in_file else "") from error
    if stop.reason in (INTERRUPTED, TIME_UP):
        raise Interrupted if stop.reason == INTERRUPTED else TimeUp
    return outcomes


@contextlib.contextmanager
def _time_limit(
    deadline: float | None, stop: StopRequest, tell: Callable[[str], None]
) -> Iterator[None]:
    if deadline is None:
        yield
        return

    def end() -> None:
        stop.request(TIME_UP)
        tell("stopping: the time limit has passed; running stages write a checkpoint and end")

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _make_executor(options: RunOptions, tell: Callable[[str], None]) -> Executor:
    if options.executor == "inline":
        from harness.executors.inline import InlineExecutor

        return InlineExecutor()
    prepare(options.address)
    try:
        from harness.executors.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the ray executor needs Ray, but {error.name} is not installed; run with "
            "--executor inline, or `pip install 'ray[train]'`",
            path="--executor",
        ) from error
    return RayExecutor(options.address, wait_for_nodes=options.wait_for_nodes, say=tell)
