"""The story of a run: plan, checks, stages, rows as they end, table and figures, closing words."""

import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from harness.commands.exit_codes import EXIT_DONE, EXIT_ROWS_FAILED, Interrupted
from harness.commands.options import RunOptions
from harness.commands.planning import check_machine, check_networks, check_start, print_plan
from harness.config.sweep import Sweep, resolved_tree
from harness.execution.stage_run import Outcome
from harness.executors import StageEvent
from harness.plan.cost import estimated_flops
from harness.plan.graph import stages_to_run
from harness.plan.plan import Plan, make_plan, rows_first
from harness.plan.requirements import say_missing
from harness.reporting.plan_record import read_record, write_record
from harness.reporting.plan_text import forecast_plan
from harness.reporting.recording import code_behind, record_of
from harness.reporting.saying import saying
from harness.results.event_file import FILE as EVENTS
from harness.results.events import EventLog
from harness.schema.reading import ConfigError, read_yaml
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.durable import make_folder


def run_sweep(options: RunOptions, sweep: Sweep) -> int:
    """Run what a sweep lacks and write its results; returns the exit code."""
    started = time.monotonic()
    with saying("planning"):
        plan, store = make_plan(sweep), Store(options.store)
        wanted = plan.restricted_to(options.only) if options.only else plan
        to_run = stages_to_run(wanted.stages, wanted.read_keys, store)
        check_networks(to_run, sweep.source)
        check_machine(options, to_run, sweep.file.resources, sweep.source)
    results = options.results / sweep.file.name
    for name in _changed_code(plan, results):
        print(
            f"note: the code of {name} has changed since the last run into {results}; what uses it "
            "is made anew, and what was made with the earlier code is kept",
            file=sys.stderr,
        )
    if options.dry_run:
        missing = say_missing(to_run, plan)
        print_plan(options, wanted, to_run, missing)
        check_start(options, to_run, missing, results, sweep.source)
        return EXIT_DONE
    # Executors, pandas and the progress view take a second to import, and a dry run needs none.
    from harness.commands.run_stages import begin_start, execute
    from harness.reporting.bill import settle
    from harness.reporting.closing_text import closing_text
    from harness.results.folder import keep_earlier, write_results, write_yaml
    from harness.results.names import link_log, stage_names
    from harness.results.refreshing import Refresher

    if options.write_only:
        finished = tuple(stage for stage in wanted.stages if stage not in to_run)
        wanted, to_run = replace(wanted, stages=finished), []
    begin_start(options, to_run, results, sweep.source, plan)
    keeps_earlier = not options.replace and _is_of_other_settings(results, sweep)
    if keeps_earlier:
        print(
            f"note: {results} holds the table of other settings of this sweep; it is kept below "
            "earlier/ there (--replace writes over it, another --set name=... keeps both in place)",
            file=sys.stderr,
        )
    if options.write_only:
        make_folder(results)
        if keeps_earlier:
            keep_earlier(results)
        with saying("writing table, figures and report"):
            written = write_results(plan, store, {}, results, time.monotonic() - started)
        bill = settle(plan, store, {}, {}, [])
        told = json.dumps({**written.as_json(), "cost": bill.as_json()}, indent=1)
        print(told if options.json else closing_text(wanted, written, {}, results, bill))
        return EXIT_DONE
    log = EventLog(results / EVENTS)
    refresher = Refresher(sweep, store, results)

    def begin() -> None:
        """Say in the folder what is asked, so that harness.status knows it while it runs."""
        if log.events:
            return
        make_folder(results)
        if keeps_earlier:
            keep_earlier(results)
        write_yaml(results / "sweep.yaml", resolved_tree(sweep))
        write_record(record_of(plan, store), results)
        log.start(
            sweep.file.name,
            store=store.root,
            executor=options.executor,
            stages_to_run=len(to_run),
            stages_in_plan=len(wanted.stages),
            rows=len(plan.rows),
        )

    expected = forecast_plan(to_run, sweep.file, store)
    ended: dict[str, Outcome] = {}
    names = stage_names(plan)

    def listen(event: StageEvent) -> None:
        # Not before: until the first event an executor may refuse, and what lies in the folder is
        # then left as it is.
        begin()
        log(event)
        if event.what == "ended" and event.outcome is not None:
            ended[event.stage.key] = event.outcome
            link_log(event.stage, names[event.stage.key], store, results)
            if _write_finished_rows(plan, event.stage, store, results, log):
                refresher.row_written()
        refresher.look()

    try:
        ordered = rows_first(to_run, plan.rows, estimated_flops)
        outcomes = execute(options, ordered, store, sweep, listen)
        begin()
    except BaseException as error:
        refresher.stop()
        if not log.events:
            raise
        # The stages have written their checkpoints, or machines were lost and the store was not:
        # what has ended is told.
        told = ended if isinstance(error, Interrupted | ConnectionError) else None
        log.end("interrupted" if isinstance(error, KeyboardInterrupt) else "error", told or {}, {})
        if told is not None:
            write_results(plan, store, told, results, time.monotonic() - started)
        raise
    refresher.stop()
    with saying("writing table, figures and report"):
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
) -> bool:
    """Write each row as soon as its last stage has ended, so that a crash loses none."""
    from harness.results.rows import make_row, write_row  # pandas; see `run_sweep`.

    is_any = False
    for row in plan.rows:
        if ended in row.stages:
            values = make_row(row, plan.sweep, store, {})
            if values["status"] == "done":
                write_row(values, results)
                log.row(values)
                is_any = True
    return is_any


def _changed_code(plan: Plan, results: Path) -> list[str]:
    """The user's own modules and weights that are others than in the last run."""
    before = read_record(results)
    known = {} if before is None else before.code
    return [name for name, found in code_behind(plan).items() if known.get(name, found) != found]


def _is_of_other_settings(results: Path, sweep: Sweep) -> bool:
    """Whether a folder holds a table of other settings than a sweep's, resources apart."""
    if not (results / "table.csv").is_file():
        return False
    try:
        before, now = read_yaml(results / "sweep.yaml"), resolved_tree(sweep)
        return {**before, "resources": None} != {**now, "resources": None}
    except (ConfigError, TypeError):
        return True
