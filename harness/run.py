"""`python -m harness.run SWEEP`: run a sweep, or finish it, and draw its frontier."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.configuration import ConfigError
from harness.cost import estimate
from harness.description import closing_text, describe_plan, plan_text
from harness.execution import Outcome
from harness.executors import Executor, StageEvent
from harness.plan import Plan, Stage, make_plan, stages_to_run
from harness.progress import ProgressView
from harness.requirements import missing_items, writable_error
from harness.results import write_results
from harness.store import Store
from harness.sweep import STAGE_KINDS, Sweep, load_sweep, resolved_tree
from harness.table import make_row, write_row

EXIT_DONE, EXIT_ROWS_FAILED, EXIT_WRONG_REQUEST, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all rows are done. 1: some rows failed, each is named. 2: the request is wrong.
    """
    options = _parse(arguments)
    try:
        return _run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    except KeyboardInterrupt:
        print(
            "\ninterrupted: finished stages are kept, training goes on from its last checkpoint; "
            "run the same command again to continue",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.run",
        description="Run a sweep: every stage once, a table row for every trial, and the frontier. "
        "Running the same command again finishes what is missing and repeats nothing.",
        epilog="exit codes: 0 all rows done, 1 some rows failed, 2 the request is wrong",
    )
    parser.add_argument("sweep", type=Path, help="a sweep file, for example sweeps/frontier.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="override one value of the file, for example generator.training.steps=100 or "
        "grid.tokenizer.latent_dim='[4, 8]'; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print plan or outcome as JSON")
    parser.add_argument(
        "--only",
        choices=STAGE_KINDS,
        metavar="KIND",
        help=f"run stages of one kind and what they need: {', '.join(STAGE_KINDS)}",
    )
    add_run_arguments(parser)
    return checked(parser, arguments)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that runs stages."""
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder that holds one folder of results a sweep (default: results)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("artifacts"),
        metavar="DIR",
        help="folder of the artifacts, shared by sweeps and machines (default: artifacts)",
    )
    parser.add_argument(
        "--executor",
        choices=("ray", "inline"),
        default="ray",
        help="ray: stages in parallel, on this machine or a cluster (default); inline: one after "
        "the other in this process, without Ray",
    )
    parser.add_argument(
        "--address",
        metavar="A",
        help="address of a running Ray cluster (HOST:PORT or auto); default: start Ray here",
    )


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, and refuse arguments that contradict each other."""
    options = parser.parse_args(arguments)
    if options.address and options.executor != "ray":
        parser.error("--address names a Ray cluster; it goes with --executor ray")
    return options


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    sweep = load_sweep(options.sweep, options.settings)
    plan, store = make_plan(sweep), Store(options.store)
    wanted = plan.restricted_to(options.only) if options.only else plan
    to_run = stages_to_run(wanted, store)
    missing = [str(item) for item in missing_items(to_run)]
    check_networks(to_run, sweep.source)
    if options.dry_run:
        described = describe_plan(wanted, store, to_run, missing)
        print(json.dumps(described, indent=1) if options.json else plan_text(described))
        return EXIT_DONE
    results = options.results / sweep.file.name
    require_ready(missing, (results, options.store), sweep.source)
    if note := _replaced_note(results, sweep):
        print(note, file=sys.stderr)
    try:
        outcomes = _execute(options, wanted, to_run, store, results) if to_run else {}
    except KeyboardInterrupt:
        write_results(plan, store, {}, results, time.monotonic() - started)
        raise
    written = write_results(plan, store, outcomes, results, time.monotonic() - started)
    if options.json:
        print(json.dumps(written.as_json(), indent=1))
    else:
        print(closing_text(wanted, written, outcomes, results))
    good = ("done", "pending") if options.only else ("done",)
    all_good = all(row["status"] in good for row in written.rows)
    return EXIT_DONE if all_good else EXIT_ROWS_FAILED


def _execute(
    options: argparse.Namespace, plan: Plan, to_run: list[Stage], store: Store, results: Path
) -> dict[str, Outcome]:
    resources = {kind: plan.sweep.file.resources_of(kind) for kind in STAGE_KINDS}
    executor = make_executor(options)
    try:
        with ProgressView(to_run, store) as view:

            def listen(event: StageEvent) -> None:
                view(event)
                if event.what == "ended":
                    _write_finished_rows(plan, event.stage, store, results)

            return executor.run(to_run, store.root.resolve(), resources, listen)
    except ConfigError as error:
        in_file = error.path.startswith("resources.")
        raise error.within(source=plan.sweep.source if in_file else "") from error


def _write_finished_rows(plan: Plan, ended: Stage, store: Store, results: Path) -> None:
    """Write each row as soon as its last stage has ended, so that a crash loses none."""
    for row in plan.rows:
        if ended in row.stages:
            values = make_row(row, plan.sweep.file.name, store, {})
            if values["status"] == "done":
                write_row(values, results)


def require_ready(missing: Sequence[str], folders: Sequence[Path], source: str) -> None:
    """Refuse to start where something is missing or a folder cannot be written.

    Raises:
        ConfigError: Names everything that is missing.
    """
    if missing:
        items = "".join(f"\n  - {item}" for item in missing)
        raise ConfigError(f"nothing was started, because this is missing:{items}", source=source)
    for folder in folders:
        if error := writable_error(folder):
            raise ConfigError(error)


def check_networks(stages: Sequence[Stage], source: str) -> None:
    """Build every network once without memory, so that a wrong one is told before anything starts.

    Raises:
        ConfigError: A network cannot be built from its configuration.
    """
    for stage in stages:
        try:
            estimate(stage)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            message = f"the networks of {stage.kind} {stage.label!r} cannot be built: {error}"
            raise ConfigError(message, path=f"trial.{stage.kind}", source=source) from error


def _replaced_note(results: Path, sweep: Sweep) -> str:
    """A line for a folder that holds the results of another version of the sweep."""
    path = results / "sweep.yaml"
    if not path.is_file() or yaml.safe_load(path.read_text(encoding="utf-8")) == resolved_tree(
        sweep
    ):
        return ""
    return (
        f"note: {results} holds another version of this sweep; its table and figures are replaced "
        "(artifacts are kept, another --set name=... keeps both)"
    )


def make_executor(options: argparse.Namespace) -> Executor:
    """The executor that the arguments ask for.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if options.executor == "inline":
        from harness.executors.inline import InlineExecutor

        return InlineExecutor()
    try:
        from harness.executors.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the ray executor needs Ray, but {error.name} is not installed; run with "
            "--executor inline, or `pip install ray`",
            path="--executor",
        ) from error
    return RayExecutor(options.address)


if __name__ == "__main__":
    sys.exit(main())
