"""The story of a search: trials until enough are finished, then repeated settings and a report."""

import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import optuna

from analysis.tuning.figures import write_tuning_figures
from harness.commands.exit_codes import EXIT_DONE, EXIT_ROWS_FAILED
from harness.commands.options import RunOptions
from harness.commands.planning import check_machine, check_networks, check_start, print_plan
from harness.commands.run_stages import begin_start, repeat_while_damaged, run_graph
from harness.execution.stage_run import Outcome
from harness.plan.graph import stages_to_run
from harness.plan.requests import request_of
from harness.plan.requirements import say_missing
from harness.reporting.live_view import ProgressView
from harness.reporting.saying import saying
from harness.results.event_file import FILE as EVENTS
from harness.results.events import EventLog
from harness.schema.reading import ConfigError
from harness.stages.registry import kinds_of_sweeps
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.durable import make_folder
from harness.storage.lease import StageBusy, hold
from harness.storage.stage_log import user_stream
from harness.tuning.goals import Verdict
from harness.tuning.outputs import TrialsWritten, trials_text, write_recommendation, write_trials
from harness.tuning.repetition import repeat_settings
from harness.tuning.search_status import write_tune_file
from harness.tuning.study import JOURNAL, LEASE, Asked, TuningStudy, count_finished, open_study
from harness.tuning.trial_feed import TrialFeed, judge_from_store
from harness.tuning.tune_file import MAX_CORNERS, Tuning, load_tune


def run_search(options: RunOptions, *, promote: bool, allow_changed_space: bool) -> int:
    """Run what a search lacks, and repeat what it recommends; returns the exit code.

    Args:
        promote: Run the Pareto set at full budget afterwards.
        allow_changed_space: Go on with a study whose search space was another one.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tuning = load_tune(options.sweep, options.settings)
    store, results = Store(options.store), options.results / tuning.file.name
    to_run = _possible_stages(tuning, store, promote=promote)
    check_networks(to_run, tuning.source)
    check_machine(options, to_run, tuning.file.resources, tuning.source)
    if options.dry_run:
        missing = say_missing(to_run)
        _print_plan(options, tuning, missing, results)
        check_start(options, to_run, missing, results, tuning.source)
        return EXIT_DONE
    begin_start(options, to_run, results, tuning.source)
    make_folder(results)
    try:
        with hold(results / LEASE):
            study = open_study(
                results,
                tuning,
                allow_changed_space=allow_changed_space,
                judge=lambda point: judge_from_store(point, tuning, store),
            )
            return _search_and_report(options, study, store, results, promote=promote)
    except StageBusy as error:
        raise ConfigError(
            f"one process at a time may work on a study, but another one works on "
            f"{results / JOURNAL}; wait for it, or use another --set name=..."
        ) from error


def _search_and_report(
    options: RunOptions, study: TuningStudy, store: Store, results: Path, *, promote: bool
) -> int:
    started, tuning = time.monotonic(), study.tuning
    # What is asked stands in the folder from the start, so that harness.status knows it.
    write_tune_file(tuning, results)
    outcomes: Mapping[str, Outcome] = {}
    try:
        # Trials that met a damaged artifact, which was set aside, are run once more.
        outcomes = repeat_while_damaged(lambda: _search(options, study, store, results))
    finally:
        written = write_trials(study, store, outcomes, results, time.monotonic() - started)
    _draw(results)
    try:
        code = repeat_settings(options, tuning, written, results, promote=promote)
        if promote:
            _draw(results)
    finally:
        words = write_recommendation(written, study, results)
    _print_report(options, study, written, words, results, time.monotonic() - started)
    all_good = not (code or study.remaining() or written.bad_rows)
    return EXIT_DONE if all_good else EXIT_ROWS_FAILED


@saying("drawing figures of the search")
def _draw(results: Path) -> None:
    """Write the figures; what they lack is told and stops nothing."""
    try:
        write_tuning_figures(results)
    except ValueError as error:
        print(f"no figures: {error}", file=sys.stderr)


@saying("planning the search")
def _possible_stages(tuning: Tuning, store: Store, *, promote: bool) -> list[Stage]:
    """Stages that the search may need, and with `promote` those at full budget."""
    stages: dict[str, Stage] = {}
    for budget in (tuning, tuning.at_full_budget()) if promote else (tuning,):
        # First trials and corners of the space together need all that the search may need.
        extremes = itertools.chain(budget.file.first.values(), budget.space.corners())
        points = [budget.point(dict(axes)) for axes in itertools.islice(extremes, MAX_CORNERS)]
        plan = budget.plan(points)
        stages |= {s.key: s for s in stages_to_run(plan.stages, plan.read_keys, store)}
    return list(stages.values())


def _search(
    options: RunOptions, study: TuningStudy, store: Store, results: Path
) -> Mapping[str, Outcome]:
    tuning = study.tuning

    log, verdicts = EventLog(results / EVENTS), Counter[str]()

    def announce(asked: Asked, verdict: Verdict) -> None:
        verdicts[verdict.status] += 1
        log.write(
            "trial_ended",
            number=asked.number,
            trial_id=asked.point.trial_id,
            status=verdict.status,
            words=verdict.words,
        )
        view.note(f"{asked.words} {verdict.status}: {verdict.words}")

    trials = TrialFeed(study, store, results, announce)
    if not trials.todo:
        return {}
    resources = {kind: request_of(kind, tuning.base.resources) for kind in kinds_of_sweeps()}
    count = len(trials.todo)
    log.start(tuning.file.name, store=store.root, executor=options.executor, trials_to_run=count)
    with (
        user_stream() as stream,
        ProgressView([], store, stream, resources=resources, ahead=trials.ahead) as view,
    ):

        def feed(outcomes: Mapping[str, Outcome], capacity: int) -> Sequence[Stage]:
            new = trials.feed(outcomes, capacity)
            view.add(new)
            return new

        try:
            outcomes = run_graph(options, [], store, resources, tuning.source, view, log, feed)
        except BaseException as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            log.end(ended, {}, verdicts)
            raise
    log.end("rows_failed" if study.remaining() else "done", outcomes, verdicts)
    return outcomes


def _print_plan(options: RunOptions, tuning: Tuning, missing: Iterable[str], results: Path) -> None:
    """The plan of the first trials, or of one corner, stands for what a trial costs."""
    named = list(tuning.file.first.values())
    shown = named or list(itertools.islice(tuning.space.corners(), 1))
    plan = tuning.plan(tuning.point(dict(axes)) for axes in shown)
    finished = count_finished(results)
    what = f"its {len(named)} first trials" if named else "one trial"
    print_plan(
        options,
        plan,
        stages_to_run(plan.stages, plan.read_keys, Store(options.store)),
        missing,
        {"num_trials": tuning.file.num_trials, "num_finished": finished},
        f"\n\nsearch of {tuning.file.num_trials} trials, {finished} of them finished; the plan is "
        f"that of {what}. {tuning.file.sampler.kind} searches "
        f"{', '.join(p.name for p in tuning.space.parameters)}",
    )


def _print_report(
    options: RunOptions,
    study: TuningStudy,
    written: TrialsWritten,
    words: str,
    results: Path,
    wall_s: float,
) -> None:
    infeasible = study.infeasible()
    if options.json:
        report = {
            "trials": json.loads(written.trials.table.to_json(orient="records")),
            "rows": written.rows,
            "recommendation": words,
            "infeasible": infeasible,
            "wall_s": wall_s,
        }
        print(json.dumps(report, indent=1))
        return
    print(f"\n{trials_text(written)}\n\n{words}".rstrip())
    if infeasible:
        print(
            f"{len(infeasible)} proposals make no trial, and others were drawn in their place; the "
            f"last is {infeasible[-1]}"
        )
    print(f"\ntable: {results / 'table.csv'} (and .parquet), trials: {results / 'trials.csv'}")
    print(f"figures: {results / 'figures'}; study: {results / JOURNAL}; {wall_s:.0f} s wall")
    pages = [results / kind / "report.html" for kind in ("promoted", "confirmed")]
    there = [str(page) for page in pages if page.is_file()]
    print(f"report: {', '.join(there) or 'none, since no setting was run again'}")
