"""`python -m harness.tune TUNE_FILE`: search settings of a trial with Optuna, or go on doing so."""

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna

from analysis.tuning.figures import write_tuning_figures
from harness.commands.options import add_options, check_options
from harness.commands.running import (
    EXIT_DONE,
    EXIT_ROWS_FAILED,
    check_networks,
    check_start,
    exit_code,
    repeat_while_damaged,
    run_graph,
)
from harness.config.sweep import Point, Sweep
from harness.execution.stage_run import Outcome
from harness.executors import StageEvent
from harness.plan.plan import make_plan, stages_to_run
from harness.plan.requests import request_of
from harness.plan.requirements import missing_items
from harness.reporting.live_view import ProgressView
from harness.reporting.texts import describe_plan, plan_text
from harness.results import events
from harness.results.events import EventLog
from harness.schema.reading import ConfigError
from harness.stages.registry import kinds_of_sweeps
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.lease import StageBusy, hold
from harness.storage.stage_log import user_stream
from harness.tuning.goals import Verdict
from harness.tuning.outputs import (
    TrialsWritten,
    trials_text,
    write_recommendation,
    write_trials,
)
from harness.tuning.repetition import Kind, Place, repeat
from harness.tuning.search import Search, judge_from_store
from harness.tuning.search_status import write_tune_file
from harness.tuning.study import JOURNAL, LEASE, Asked, TuningStudy, count_finished, open_study
from harness.tuning.tune_file import MAX_CORNERS, Repetition, Tuning, load_tune


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: the asked number of trials is finished. 1: some failed, each is named. 2: the request is
    wrong.
    """
    options = _parse(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return exit_code(lambda: _run(options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.tune",
        description="Search settings of a trial with Optuna: every proposal is a row of the table, "
        "shared stages are made once. Running the same command again goes on to the asked number "
        "of finished trials.",
        epilog="exit codes: 0 all trials finished, 1 some failed, 2 the request is wrong, "
        "130 stopped by Ctrl-C",
    )
    parser.add_argument("sweep", type=Path, help="a tune file: sweeps/tune_alignment.yaml")
    add_options(
        parser,
        "num_trials=100, sampler.kind=gp or "
        "search.tokenizer.alignment.cos_margin='{uniform: [0, 0.5]}'",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    parser.add_argument(
        "--promote",
        action="store_true",
        help="after the search, run the Pareto set at full budget over several seeds, and say "
        "whether the order held",
    )
    parser.add_argument(
        "--allow-changed-space",
        action="store_true",
        help="where search space, first trials, objectives or caps have changed, go on with the "
        "trials that lie in both",
    )
    options = parser.parse_args(arguments)
    check_options(parser, options)
    return options


def _run(options: argparse.Namespace) -> int:
    tuning = load_tune(options.sweep, options.settings)
    store, results = Store(options.store), options.results / tuning.file.name
    to_run = _possible_stages(tuning, store, promote=options.promote)
    check_networks(to_run, tuning.source)
    if options.dry_run:
        missing = [str(item) for item in missing_items(to_run)]
        _print_plan(tuning, store, results, missing, as_json=options.json)
        return EXIT_DONE
    check_start(options, to_run, results, tuning.source)
    try:
        with hold(results / LEASE):
            return _search_and_report(options, tuning, store, results)
    except StageBusy as error:
        raise ConfigError(
            f"one process at a time may work on a study, but another one works on "
            f"{results / JOURNAL}; wait for it, or use another --set name=..."
        ) from error


def _search_and_report(
    options: argparse.Namespace, tuning: Tuning, store: Store, results: Path
) -> int:
    started = time.monotonic()
    try:
        study = open_study(
            results,
            tuning,
            allow_changed_space=options.allow_changed_space,
            judge=lambda point: judge_from_store(point, tuning, store),
        )
    except ConfigError as error:
        raise error.within(source=tuning.source) from error
    # What is asked stands in the folder from the start, so that harness.status knows it.
    write_tune_file(tuning, results)
    outcomes: Mapping[str, Outcome] = {}
    try:
        outcomes = _execute(options, study, store, results)
    finally:
        written = write_trials(study, store, outcomes, results, time.monotonic() - started)
    _draw(results)
    try:
        code = _repeat(options, tuning, written, results)
        if options.promote:
            _draw(results)
    finally:
        words = write_recommendation(written, study, results)
    _print_report(options, written, words, results, time.monotonic() - started)
    all_good = not (code or study.remaining() or written.bad_rows)
    return EXIT_DONE if all_good else EXIT_ROWS_FAILED


def _draw(results: Path) -> None:
    """Write the figures; what they lack is told and stops nothing."""
    try:
        write_tuning_figures(results)
    except ValueError as error:
        print(f"no figures: {error}", file=sys.stderr)


def _possible_stages(tuning: Tuning, store: Store, *, promote: bool) -> list[Stage]:
    """Stages that the search may need, and with `promote` those at full budget."""
    budgets = (tuning, tuning.at_full_budget()) if promote else (tuning,)
    try:
        plans = [make_plan(_corners(budget)) for budget in budgets]
    except ConfigError as error:
        raise error.within(source=tuning.source) from error
    stages = {stage.key: stage for plan in plans for stage in stages_to_run(plan, store)}
    return list(stages.values())


def _corners(tuning: Tuning) -> Sweep:
    """First trials and corners of the space: together they need all that the search may need."""
    points: dict[str, Point] = {}
    for axes in itertools.islice(
        itertools.chain(tuning.file.first.values(), tuning.space.corners()), MAX_CORNERS
    ):
        point = tuning.point(dict(axes))
        points.setdefault(point.trial_id, point)
    return tuning.sweep(list(points.values()))


def _execute(
    options: argparse.Namespace, study: TuningStudy, store: Store, results: Path
) -> Mapping[str, Outcome]:
    """Run the trials that are missing; those that met a damaged artifact, which was set aside,
    once more."""
    return repeat_while_damaged(lambda: _search(options, study, store, results))


def _search(
    options: argparse.Namespace, study: TuningStudy, store: Store, results: Path
) -> Mapping[str, Outcome]:
    tuning = study.tuning

    log, verdicts = EventLog(results / events.FILE), Counter[str]()

    def announce(asked: Asked, verdict: Verdict) -> None:
        verdicts[verdict.status] += 1
        log.write(
            "trial_ended",
            number=asked.number,
            trial_id=asked.point.trial_id,
            status=verdict.status,
            words=verdict.words,
        )
        name = f" ({asked.name})" if asked.name else ""
        view.note(f"trial {asked.number}{name} {verdict.status}: {verdict.words}")

    search = Search(study, store, results, announce)
    if not search.todo:
        return {}
    resources = {kind: request_of(kind, tuning.base.resources) for kind in kinds_of_sweeps()}
    log.start(
        tuning.file.name,
        store=store.root,
        executor=options.executor,
        trials_to_run=len(search.todo),
    )
    with user_stream() as stream, ProgressView([], store, stream, resources=resources) as view:

        def feed(outcomes: Mapping[str, Outcome], capacity: int) -> Sequence[Stage]:
            new = search.feed(outcomes, capacity)
            view.add(new)
            return new

        def listen(event: StageEvent) -> None:
            view(event)
            log(event)

        try:
            outcomes = run_graph(
                options, [], store, resources, tuning.source, listen, feed, view.tell
            )
        except BaseException as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            log.end(ended, {}, verdicts)
            raise
    log.end("rows_failed" if study.remaining() else "done", outcomes, verdicts)
    return outcomes


def _repeat(
    options: argparse.Namespace, tuning: Tuning, written: TrialsWritten, results: Path
) -> int:
    """Run the recommended setting again and, if asked for, promote the Pareto set."""
    place = Place(
        results=results,
        store=options.store,
        executor=options.executor,
        address=options.address,
        download=options.download,
        wait_for_nodes=options.wait_for_nodes,
        max_failures=options.max_failures,
    )
    kinds: list[tuple[Kind, Repetition]] = [("confirmed", tuning.file.confirmation)]
    if options.promote:
        kinds.append(("promoted", tuning.file.promotion))
    code = 0
    for kind, repetition in kinds:
        settings = written.settings(front=kind == "promoted", references=repetition.references)
        if settings and repetition.seeds:
            code = max(code, repeat(kind, tuning, settings, repetition.seeds, place))
    return code


def _print_plan(
    tuning: Tuning, store: Store, results: Path, missing: Sequence[str], *, as_json: bool
) -> None:
    """The plan of the first trials, or of one corner, stands for what a trial costs."""
    named = list(tuning.file.first.values())
    shown = named or list(itertools.islice(tuning.space.corners(), 1))
    plan = make_plan(tuning.sweep([tuning.point(dict(axes)) for axes in shown]))
    described = describe_plan(plan, store, stages_to_run(plan, store), missing)
    finished = count_finished(results)
    described |= {"num_trials": tuning.file.num_trials, "num_finished": finished}
    if as_json:
        print(json.dumps(described, indent=1))
        return
    what = f"its {len(named)} first trials" if named else "one trial"
    print(plan_text(described))
    print(
        f"\nsearch of {tuning.file.num_trials} trials, {finished} of them finished; the plan is "
        f"that of {what}. {tuning.file.sampler.kind} searches "
        f"{', '.join(p.name for p in tuning.space.parameters)}"
    )


def _print_report(
    options: argparse.Namespace, written: TrialsWritten, words: str, results: Path, wall_s: float
) -> None:
    if options.json:
        report = {
            "trials": json.loads(written.trials.table.to_json(orient="records")),
            "rows": written.rows,
            "recommendation": words,
            "wall_s": wall_s,
        }
        print(json.dumps(report, indent=1))
        return
    print(f"\n{trials_text(written)}\n\n{words}".rstrip())
    print(f"\ntable: {results / 'table.csv'} (and .parquet), trials: {results / 'trials.csv'}")
    print(f"figures: {results / 'figures'}; study: {results / JOURNAL}; {wall_s:.0f} s wall")


if __name__ == "__main__":
    sys.exit(main())
