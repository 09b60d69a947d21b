"""`python -m harness.run SWEEP`: run a sweep, or finish it, and draw its frontier."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.commands.options import add_options, check_options
from harness.commands.running import (
    EXIT_DONE,
    EXIT_ROWS_FAILED,
    Interrupted,
    check_networks,
    check_start,
    execute,
    exit_code,
)
from harness.config.sweep import Sweep, load_sweep, resolved_tree
from harness.execution.stage_run import Outcome
from harness.executors import StageEvent
from harness.plan.plan import Plan, make_plan, stages_to_run
from harness.plan.requirements import missing_items
from harness.reporting.bill import forecast_plan, settle
from harness.reporting.forecast import History
from harness.reporting.texts import closing_text, describe_plan, plan_text
from harness.results import events
from harness.results.events import EventLog
from harness.results.folder import write_results, write_yaml
from harness.results.rows import make_row, write_row
from harness.schema.reading import ConfigError, read_yaml
from harness.stages.registry import kinds_of_sweeps
from harness.stages.stage import Stage
from harness.storage.artifacts import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all rows are done. 1: some rows failed, each is named. 2: the request is wrong.
    """
    options = _parse(arguments)
    return exit_code(lambda: run_sweep(options, load_sweep(options.sweep, options.settings)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.run",
        description="Run a sweep: every stage once, a table row for every trial, and the frontier. "
        "Running the same command again finishes what is missing and repeats nothing.",
        epilog="exit codes: 0 all rows done, 1 some rows failed, 2 the request is wrong, "
        "130 stopped by Ctrl-C",
    )
    parser.add_argument("sweep", type=Path, help="a sweep file, for example sweeps/frontier.yaml")
    add_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    parser.add_argument(
        "--only",
        choices=kinds_of_sweeps(),
        metavar="KIND",
        help=f"run stages of one kind and what they need: {', '.join(kinds_of_sweeps())}",
    )
    options = parser.parse_args(arguments)
    check_options(parser, options)
    return options


def run_sweep(options: argparse.Namespace, sweep: Sweep) -> int:
    """Run what a sweep lacks and write its results; returns the exit code."""
    started = time.monotonic()
    plan, store = make_plan(sweep), Store(options.store)
    wanted = plan.restricted_to(options.only) if options.only else plan
    to_run = stages_to_run(wanted, store)
    check_networks(to_run, sweep.source)
    if options.dry_run:
        missing = [str(item) for item in missing_items(to_run)]
        described = describe_plan(wanted, store, to_run, missing)
        print(json.dumps(described, indent=1) if options.json else plan_text(described))
        return EXIT_DONE
    results = options.results / sweep.file.name
    check_start(options, to_run, results, sweep.source)
    if note := _replaced_note(results, sweep):
        print(note, file=sys.stderr)
    # What is asked stands in the folder from the start, so that harness.status knows it.
    results.mkdir(parents=True, exist_ok=True)
    write_yaml(results / "sweep.yaml", resolved_tree(sweep))
    log = EventLog(results / events.FILE)
    log.start(
        sweep.file.name,
        store=store.root,
        executor=options.executor,
        stages_to_run=len(to_run),
        stages_in_plan=len(wanted.stages),
        rows=len(plan.rows),
    )
    expected = forecast_plan(to_run, sweep.file, History.of(store))
    ended: dict[str, Outcome] = {}

    def listen(event: StageEvent) -> None:
        log(event)
        if event.what == "ended" and event.outcome is not None:
            ended[event.stage.key] = event.outcome

    try:
        outcomes = execute(
            options,
            to_run,
            store,
            sweep.file,
            sweep.source,
            lambda stage: _write_finished_rows(plan, stage, store, results, log),
            listen,
        )
    except Interrupted as interrupted:
        write_results(plan, store, interrupted.outcomes, results, time.monotonic() - started)
        log.end("interrupted", interrupted.outcomes, {})
        raise
    except ConnectionError:
        # Machines were lost, but the store was not: what has ended is told.
        log.end("error", ended, {})
        write_results(plan, store, ended, results, time.monotonic() - started)
        raise
    except BaseException as error:
        log.end("interrupted" if isinstance(error, KeyboardInterrupt) else "error", {}, {})
        raise
    written = write_results(plan, store, outcomes, results, time.monotonic() - started)
    good = ("done", "pending") if options.only else ("done",)
    all_good = all(row["status"] in good for row in written.rows)
    rows = Counter(str(row["status"]) for row in written.rows)
    log.end("done" if all_good else "rows_failed", outcomes, rows)
    bill = settle(plan, store, outcomes, expected, log.events)
    if options.json:
        print(json.dumps({**written.as_json(), "cost": bill.as_json()}, indent=1))
    else:
        print(closing_text(wanted, written, outcomes, results, bill))
    return EXIT_DONE if all_good else EXIT_ROWS_FAILED


def _write_finished_rows(
    plan: Plan, ended: Stage, store: Store, results: Path, log: EventLog
) -> None:
    """Write each row as soon as its last stage has ended, so that a crash loses none."""
    for row in plan.rows:
        if ended in row.stages:
            values = make_row(row, plan.sweep.file.name, store, {})
            if values["status"] == "done":
                write_row(values, results)
                log.row(values)


def _replaced_note(results: Path, sweep: Sweep) -> str:
    """A line for a folder that holds the results of another version of the sweep."""
    path = results / "sweep.yaml"
    try:
        if not path.is_file() or read_yaml(path) == resolved_tree(sweep):
            return ""
    except ConfigError as error:
        return f"note: {error}; it is written anew"
    return (
        f"note: {results} holds another version of this sweep; its table and figures are replaced "
        "(artifacts are kept, another --set name=... keeps both)"
    )


if __name__ == "__main__":
    sys.exit(main())
