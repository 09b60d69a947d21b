"""`python -m harness.status RESULTS`: how a sweep or search stands, from results and store alone.

It reads what running, finished and killed processes have left, so it works while another process
runs the sweep, after a crash, on another machine that sees the folders, and without Ray.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.outputs import path_at
from harness.commands.exit_codes import EXIT_DONE, EXIT_ROWS_FAILED, EXIT_UNFINISHED, exit_code
from harness.reporting.overview import headline, progress_text
from harness.reporting.plan_record import PlanRecord, read_record
from harness.reporting.stage_states import StageState, State
from harness.reporting.status import SweepStatus, events_of, look
from harness.reporting.words import duration
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Store, store_of

WATCH_EVERY_S = 2.0
"""Seconds between two looks with `--watch`."""
DETAILED: tuple[State, ...] = (
    "running", "failed", "diverged", "interrupted", "stopped", "blocked",
)  # fmt: skip
"""States whose stages are named one by one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all rows are done. 1: something has failed, and nothing is left to run. 2: the request is
    wrong. 3: not finished: something runs, or the sweep's command goes on with what is left.
    """
    options = _parse(arguments)
    return exit_code(lambda: _show(options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.status",
        description="Say how a sweep stands: what runs, is done, failed and remains. Reads results "
        "and store only, so it also works after a crash and while another process runs the sweep.",
        epilog="exit codes: 0 all rows are done, 1 something failed and nothing is left to run, "
        "2 the request is wrong, 3 not finished (running, or to be gone on with)",
    )
    parser.add_argument("results", type=path_at, help="a folder of results: results/frontier")
    parser.add_argument(
        "--store",
        type=path_at,
        metavar="DIR",
        help="folder of the artifacts (default: the one that the sweep was run with)",
    )
    parser.add_argument("--json", action="store_true", help="print for machines")
    parser.add_argument(
        "--watch", action="store_true", help="show it anew every 2 s until nothing is left to run"
    )
    return parser.parse_args(arguments)


def _show(options: argparse.Namespace) -> int:
    look_now = _open(options)
    if options.watch:
        return _watch(options, look_now)
    status = look_now()
    print(json.dumps(status.as_json(), indent=1) if options.json else status_text(status))
    return _code(status)


def _code(status: SweepStatus) -> int:
    if status.is_open:
        return EXIT_UNFINISHED
    return EXIT_ROWS_FAILED if status.has_failed else EXIT_DONE


def _watch(options: argparse.Namespace, look_now: Callable[[], SweepStatus]) -> int:
    # Only a watch draws; one look prints lines.
    from rich.console import Console
    from rich.live import Live

    from harness.reporting.drawing import drawing

    # Drawn with sequences that a command's standard output would write out.
    console = Console(file=getattr(sys.stdout, "stream", sys.stdout))
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            status = look_now()
            if not status.is_open:
                break
            if options.json:
                print(json.dumps(status.as_json()), flush=True)
            elif console.is_terminal:
                live.update(drawing(status.overview, console), refresh=True)
            else:
                print(headline(status.overview), flush=True)
            time.sleep(WATCH_EVERY_S)
    print(json.dumps(status.as_json()) if options.json else status_text(status))
    return _code(status)


def _open(options: argparse.Namespace) -> Callable[[], SweepStatus]:
    """Looks at the sweep or the search that the folder is of; ConfigError where the folder holds
    neither, or the store is not there."""
    results: Path = options.results
    is_search = (results / "tune.yaml").is_file()
    if not is_search and not (results / "sweep.yaml").is_file():
        raise ConfigError(_no_sweep(results))
    root = options.store or _store_of(results)
    if not root.is_dir():
        raise ConfigError(
            f"the store must be a folder of artifacts, but {root} is none; give --store DIR",
            path="--store",
        )
    if is_search:
        return lambda: _look_at_search(Store(root), results)
    plan = read_record(results) or _plan_anew(Store(root), results)
    return lambda: look(plan, Store(root), results)


def _plan_anew(store: Store, results: Path) -> PlanRecord:
    """The plan of a folder without its record, as earlier versions of the program left it."""
    # Planning imports PyTorch and timm, which takes seconds.
    from harness.config.sweep import load_sweep
    from harness.plan.plan import make_plan
    from harness.reporting.recording import record_of

    return record_of(make_plan(load_sweep(results / "sweep.yaml")), store)


def _look_at_search(store: Store, results: Path) -> SweepStatus:
    # Optuna takes a second to import, and sweeps need none of it.
    from harness.reporting.recording import record_of
    from harness.tuning.search_status import look_at_search

    plan, unfinished, trials = look_at_search(results)
    left = {stage.key for stage in unfinished.stages}
    return look(record_of(plan, store), store, results, left, trials)


def _no_sweep(results: Path) -> str:
    """Why a folder is none of results, and which is near it."""
    near = _below(results)
    if near:
        folders = ", ".join(str(path) for path in near[:5])
        return f"{results} must be the folder of one sweep, but holds several; give one: {folders}"
    if not results.exists():
        siblings = _below(results.parent)
        near = ", ".join(str(path) for path in siblings[:5])
        there = f"there are: {near}" if near else "run a sweep first"
        return f"{results} must be a folder of results, but is not there; {there}"
    if results.is_file():
        return f"{results} must be a folder of results, but is a file; give its folder"
    return (
        f"{results} must hold the sweep.yaml or tune.yaml that a run leaves, but does not; give "
        "results/<name of the sweep>"
    )


def _below(folder: Path) -> list[Path]:
    """Folders of sweeps and searches in a folder."""
    return sorted(p.parent for n in ("sweep", "tune") for p in folder.glob(f"*/{n}.yaml"))


def _store_of(results: Path) -> Path:
    """The store of the last run, as its events or its manifest say; `artifacts` otherwise."""
    started = [event for event in events_of(results) if event["event"] == "sweep_started"]
    if started and Path(started[-1]["store"]).is_dir():
        return Path(started[-1]["store"])
    return store_of(results)


def status_text(status: SweepStatus) -> str:
    """A status for people."""
    overview = status.overview
    rows = ", ".join(f"{number} {name}" for name, number in sorted(status.rows.items()))
    lines = [f"{status.sweep}: {headline(overview)}"]
    lines += [f"trials: {status.trials}"] if status.trials else []
    lines += [f"rows: {rows or 'none'}"]
    if status.driver:
        lines.append(f"last command: {status.driver}")
    for state in DETAILED:
        for stage in overview.stages:
            if stage.state == state:
                lines.append(f"  {state} {stage.kind} {stage.label}: {_detail(stage)}")
    left = [stage for stage in overview.stages if stage.state in ("ready", "waiting")]
    if left:
        kinds = Counter(stage.kind for stage in left)
        remains = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        lines.append(f"remains: {remains}")
    if status.is_open and not overview.counts()["running"]:
        eta = "" if overview.eta_s is None else f", which takes about {duration(overview.eta_s)}"
        what = "search" if status.trials else "sweep"
        lines.append(f"nothing runs; the {what}'s command goes on with what is left{eta}")
    return "\n".join(lines)


def _detail(stage: StageState) -> str:
    if stage.state == "running":
        return f"{progress_text(stage)} ({stage.remark})"
    return stage.remark


if __name__ == "__main__":
    sys.exit(main())
