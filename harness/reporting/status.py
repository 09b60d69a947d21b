"""How a sweep stands, found in its results and its store: no driver and no Ray is asked."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from harness.config.resources import Capacity, capacity_of
from harness.plan.graph import stages_to_run
from harness.reporting.forecast import History, seconds_to_end
from harness.reporting.overview import Overview
from harness.reporting.plan_record import PlanRecord, StageRecord
from harness.reporting.stage_states import BAD, OPEN, stage_states, witness_of
from harness.results.event_file import FILE, read_events
from harness.storage.artifacts import Store
from harness.storage.durable import read_object


@final
@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of a search at one moment."""

    asked: int
    """Trials that are to be finished in total."""
    counts: Mapping[str, int]
    """Status -> number of proposals; `running` and `interrupted` are not told yet."""
    finished: int
    """Proposals that count."""
    is_running: bool
    """Whether a living process holds the study."""

    @property
    def is_open(self) -> bool:
        """Whether something runs, or the search's command has more to do than to retry."""
        failed = self.counts.get("failed", 0)
        return self.is_running or self.finished + failed < self.asked

    @property
    def has_failed(self) -> bool:
        """Whether a trial ended with an error."""
        return self.counts.get("failed", 0) > 0

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self.counts.items()))
        return f"{self.finished}/{self.asked} finished: {counts or 'none was begun'}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"asked": self.asked, "finished": self.finished, "counts": dict(self.counts)}


@final
@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """How a sweep stands."""

    sweep: str
    store: str
    overview: Overview
    rows: Mapping[str, int]
    """Status -> number of rows; `pending` are not written yet."""
    driver: str
    """Start and end of the command that ran last, as far as they are known."""
    trials: Trials | None = None
    """Those of a search by harness.tune; None of a sweep."""

    @property
    def is_open(self) -> bool:
        """Whether something runs or is left to run."""
        if self.trials is not None:
            return self.trials.is_open
        return any(stage.state in OPEN for stage in self.overview.stages)

    @property
    def has_failed(self) -> bool:
        """Whether something ended badly, or a row is not done although nothing is left to run."""
        if self.trials is not None:
            return self.trials.has_failed
        bad = any(stage.state in BAD for stage in self.overview.stages)
        return bad or (not self.is_open and any(name != "done" for name in self.rows))

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "sweep": self.sweep,
            "store": self.store,
            "is_open": self.is_open,
            "has_failed": self.has_failed,
            "counts": self.overview.counts(),
            "eta_s": self.overview.eta_s,
            "rows": dict(self.rows),
            "driver": self.driver,
            **({"trials": self.trials.as_json()} if self.trials else {}),
            "stages": [asdict(stage) for stage in self.overview.stages],
        }


def events_of(results: Path) -> list[dict[str, Any]]:
    """Events of all runs into a folder of results; empty where there are none."""
    try:
        return list(read_events(results / FILE))
    except OSError:
        return []


def look(
    plan: PlanRecord,
    store: Store,
    results: Path,
    left: Collection[str] | None = None,
    trials: Trials | None = None,
) -> SweepStatus:
    """How a sweep, or a search's trials so far, stands now. `left` are the stages that may be run
    yet, all unless given: a trial that was capped or diverged is finished without its generator."""
    wanted = set(stages_to_run(plan.stages, plan.read_keys, store))
    stages = [s for s in plan.stages if s in wanted or store.find(s.kind, s.key)]
    states = stage_states(stages, witness_of(store))
    if left is not None:
        states = {k: s for k, s in states.items() if k in left or s.state not in (*OPEN, "blocked")}
        stages = [stage for stage in stages if stage.key in states]
    events = events_of(results)
    # What the machine or cluster of the last run had, as far as its events say.
    totals = [event["total"] for event in events if "total" in event] or [{"cpus": 0, "gpus": 0}]
    total = Capacity(cpus=float(totals[-1]["cpus"]), gpus=float(totals[-1]["gpus"]))

    def held(stage: StageRecord) -> Capacity:
        return capacity_of(plan.resources[stage.kind], int(total.gpus))

    running = [held(stage) for stage in stages if states[stage.key].state == "running"]
    is_open = any(state.state in OPEN for state in states.values())
    known_total = total if total.cpus else None
    eta_s: float | None = None
    if is_open:
        history = History.of(store, plan.machine)
        eta_s = seconds_to_end(stages, states, history, held, known_total)
    overview = Overview(
        stages=list(states.values()),
        used=Capacity(cpus=sum(h.cpus for h in running), gpus=sum(h.gpus for h in running)),
        total=known_total,
        eta_s=eta_s,
    )
    return SweepStatus(
        sweep=plan.sweep,
        store=str(store.root),
        overview=overview,
        rows=_rows(plan, results),
        driver=_driver(events),
        trials=trials,
    )


def _rows(plan: PlanRecord, results: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row_id in plan.rows:
        row = read_object(results / "rows" / f"{row_id}.json")
        counts[str(row.get("status", "pending"))] += 1
    return dict(counts)


def _driver(events: Sequence[Mapping[str, Any]]) -> str:
    started = [event for event in events if event["event"] == "sweep_started"]
    if not started:
        return ""
    last = started[-1]
    ends = [e for e in events if e["event"] == "sweep_ended" and e["run"] == last["run"]]
    ended = f"ended {ends[-1]['time']}: {ends[-1]['status']}" if ends else "has not said it ended"
    return (
        f"{last['command']} (process {last['pid']} on {last['host']}, started {last['time']}; "
        f"{ended})"
    )
