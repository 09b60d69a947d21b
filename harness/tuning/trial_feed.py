"""Keeps trials of a search in flight on a running graph of stages, and tells the study their ends.

Trials are told in the order in which they were proposed, and a proposal is made as soon as the
oldest in flight was told: so the study does not depend on which stage happens to end first, and is
the same under every executor, while no stage waits for a whole batch.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.config.sweep import Point
from harness.execution.stage_run import Outcome
from harness.execution.stage_run import Status as RowStatus
from harness.plan.graph import stages_to_run
from harness.plan.plan import Plan, PlannedRow, with_inputs
from harness.reporting.plan_record import StageRecord
from harness.reporting.recording import record_of_stage
from harness.results.rows import make_row, write_row
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.tuning.goals import Verdict, judge
from harness.tuning.study import Asked, Told, TuningStudy
from harness.tuning.tune_file import Tuning

Announce = Callable[[Asked, Verdict], None]
"""Called when a trial was told."""
_GOOD = ("done", "reused")
_ROW_STATUS: Mapping[str, RowStatus] = {
    "capped": "blocked", "pruned": "blocked", "diverged": "diverged", "failed": "failed",
}  # fmt: skip
"""Error of a row without numbers, by the trial's status."""


@dataclass
class _Flight:
    asked: Asked
    plan: Plan
    parts: list[Plan]
    """Parts of the plan that are not judged yet, the whole last: the reconstruction, where a cap is
    to be looked at before the generator is started, and the rungs."""
    sees: int
    """Last proposal that its own has seen finished."""
    running: list[Stage] = field(default_factory=list)
    """Stages of the first part that were not in the store."""
    verdict: Verdict | None = None


class TrialFeed:
    """Feeds an executor with the trials of a study."""

    def __init__(self, study: TuningStudy, store: Store, results: Path, announce: Announce) -> None:
        self.study, self.store, self.results, self.announce = study, store, results, announce
        self.tuning = study.tuning
        self.todo = study.remaining()
        self.flights: list[_Flight] = []
        self.outcomes: Mapping[str, Outcome] = {}
        self.plans: dict[str, Plan] = {}
        """Trial -> what it has been given to run."""
        self.window = self.capacity = 1

    def feed(self, outcomes: Mapping[str, Outcome], capacity: int) -> Sequence[Stage]:
        """Further stages, given how all others have ended; see `executors.Feed`."""
        self.outcomes, self.capacity = outcomes, max(1, capacity)
        parallel = self.tuning.file.parallel
        self.window = self.capacity if parallel == "auto" else parallel
        new: list[Stage] = []
        while True:
            while self.todo and len(self.flights) < self.window:
                self.flights.append(self._launch(self.todo.pop(0), new))
            for flight in self.flights:
                self._advance(flight, new)
            if not self.flights or self.flights[0].verdict is None:
                return new
            # One at a time: the next proposal is to know of this trial and of no later one.
            self._tell(self.flights.pop(0))

    def ahead(self) -> list[StageRecord]:
        """Stages like those of trials that are not proposed yet, and of the confirmation.

        Trials of this run stand in for them in turn, each with what it shares with no other, in
        chains of which as many run side by side as may. Keys are made up.
        """
        plans, again = list(self.plans.values()), self.tuning.file.confirmation
        counts = Counter(stage.key for plan in plans for stage in plan.stages)
        own = [[stage for stage in plan.stages if counts[stage.key] == 1] for plan in plans]
        references = self.tuning.file.first if again.references is None else again.references
        repeated = (1 + len(references)) * len(again.seeds)
        found: list[StageRecord] = []
        ends: tuple[str, ...] = ()
        for count, width in ((len(self.todo), self.window), (repeated, self.capacity)):
            lanes: list[tuple[str, ...]] = [ends] * width
            for number in range(count if own else 0):
                lane = number % width
                for record in map(record_of_stage, own[number % len(own)]):
                    key = f"{len(found)} {record.key}"
                    found.append(replace(record, key=key, input_keys=lanes[lane]))
                    lanes[lane] = (key,)
            ends = tuple({key for lane in lanes for key in lane})
        return found

    def _launch(self, number: int, new: list[Stage]) -> _Flight:
        asked = self.study.ask(number)
        plan = self.tuning.plan([asked.point])
        parts = [plan.restricted_to("reconstruction")] if self.tuning.goals.gated else []
        parts += [*map(plan.at_step, self.tuning.rungs), plan]
        flight = _Flight(asked=asked, plan=plan, parts=parts, sees=number - self.window)
        self._start(flight, new)
        return flight

    def _start(self, flight: _Flight, new: list[Stage]) -> None:
        plan = self.plans[flight.asked.point.trial_id] = flight.parts[0]
        flight.running = stages_to_run(plan.stages, plan.read_keys, self.store)
        new += flight.running

    def _advance(self, flight: _Flight, new: list[Stage]) -> None:
        goals = self.tuning.goals
        while flight.verdict is None:
            if any(stage.key not in self.outcomes for stage in flight.running):
                return
            part = flight.parts.pop(0)
            judged = judged_row(part)
            row = make_row(judged, part.sweep, self.store, self.outcomes)
            bad = any(self.outcomes[s.key].status not in _GOOD for s in flight.running)
            stages = with_inputs(judged.stages)
            ended = [self.outcomes[s.key] for s in stages if s.key in self.outcomes]
            diverged = any(outcome.status == "diverged" for outcome in ended)
            verdict = judge(row, goals, diverged=diverged, capped=False)
            if bad or not flight.parts:
                flight.verdict = verdict
            elif part.rows is not flight.plan.rows and judged.generator:
                step = judged.generator.step
                if self.study.should_prune(flight.asked, step, verdict, flight.sees):
                    error = f"pruned after step {step}"
                    flight.verdict = replace(verdict, status="pruned", error=error)
            elif goals.broken_caps(row):
                flight.verdict = judge(row, goals, diverged=False, capped=True)
            if flight.verdict is None:
                self._start(flight, new)

    def _tell(self, flight: _Flight) -> None:
        verdict, rows = flight.verdict, flight.plan.rows
        assert verdict is not None
        self.study.tell(flight.asked, verdict)
        self.announce(flight.asked, verdict)
        outcomes = _as_outcomes(rows, verdict.status, verdict.error)
        for row in rows:
            values = make_row(row, flight.plan.sweep, self.store, outcomes)
            write_row(values, self.results)


def judged_row(plan: Plan) -> PlannedRow:
    """The row of a trial that the search looks at: last snapshot, first guidance setting."""
    return max(plan.rows, key=lambda row: row.generator.step if row.generator else 0)


def judge_from_store(point: Point, tuning: Tuning, store: Store) -> Verdict | None:
    """The verdict on a trial whose artifacts are all in the store, None on others."""
    plan = tuning.plan([point])
    row = make_row(judged_row(plan), plan.sweep, store, {})
    if row["status"] != "done":
        return None
    return judge(row, tuning.goals, diverged=False, capped=False)


def recorded_outcomes(told: Sequence[Told], plan: Plan) -> dict[str, Outcome]:
    """Outcomes of the stages of trials without numbers, as the study recorded them."""
    outcomes: dict[str, Outcome] = {}
    for one in told:
        rows = [row for row in plan.rows if row.trial_id == one.point.trial_id]
        outcomes |= _as_outcomes(rows, one.status, one.frozen.user_attrs.get("error", ""))
    return outcomes


def _as_outcomes(rows: Sequence[PlannedRow], status: str, error: str) -> dict[str, Outcome]:
    if status not in _ROW_STATUS:
        return {}
    return {
        stage.key: Outcome(key=stage.key, status=_ROW_STATUS[status], error=error)
        for row in rows
        for stage in (row.generator.generations if row.generator else row.stages[-1:])
    }
