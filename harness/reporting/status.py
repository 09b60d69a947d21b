"""How a sweep stands, found in its results and its store: no driver and no Ray is asked."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from harness.executors.interface import Capacity
from harness.plan.plan import Plan, stages_to_run
from harness.plan.requests import request_of
from harness.reporting.forecast import History, capacity_of, remaining_s
from harness.reporting.live_view import seconds_left
from harness.reporting.overview import OPEN, Overview, StageState, State
from harness.results.events import FILE, read_events
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.lease import describe_holder, is_held

BAD: tuple[State, ...] = ("failed", "diverged", "blocked")
"""States of stages that will not run again by themselves."""


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
    """What is known of the command that ran last."""
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
    plan: Plan,
    store: Store,
    results: Path,
    unfinished: Plan | None = None,
    trials: Trials | None = None,
) -> SweepStatus:
    """How a sweep, or a search, stands at this moment.

    Args:
        plan: Of the sweep, or of all trials that a search has begun.
        store: Where the artifacts lie.
        results: The folder of results.
        unfinished: What of the plan may be run yet; all of it unless given. A trial that was
            capped or diverged is finished without its generator.
        trials: Of a search.
    """
    states = stage_states(plan, store)
    if unfinished is not None:
        left = {stage.key for stage in unfinished.stages}
        states = {k: s for k, s in states.items() if k in left or s.state not in (*OPEN, "blocked")}
    stages = [stage for stage in plan.stages if stage.key in states]
    events = events_of(results)
    total = _capacity(events)
    held = {
        stage.key: capacity_of(request_of(stage.kind, plan.sweep.file.resources), int(total.gpus))
        for stage in stages
    }
    running = [held[key] for key, state in states.items() if state.state == "running"]
    overview = Overview(
        stages=[states[stage.key] for stage in stages],
        used=Capacity(cpus=sum(h.cpus for h in running), gpus=sum(h.gpus for h in running)),
        total=total if total.cpus else None,
        eta_s=_eta(stages, states, held, total, store),
    )
    return SweepStatus(
        sweep=plan.sweep.file.name,
        store=str(store.root),
        overview=overview,
        rows=_rows(plan, results),
        driver=_driver(events),
        trials=trials,
    )


def stage_states(plan: Plan, store: Store) -> dict[str, StageState]:
    """Key -> state of every stage that is done or wanted."""
    wanted = {stage.key for stage in stages_to_run(plan, store)}
    states: dict[str, StageState] = {}
    for stage in plan.stages:
        artifact = store.find(stage.kind, stage.key)
        if artifact is not None:
            states[stage.key] = _state(stage, "done")
        elif stage.key in wanted:
            states[stage.key] = _unfinished(stage, store, states)
    return states


def _unfinished(stage: Stage, store: Store, states: Mapping[str, StageState]) -> StageState:
    folder = store.folder(stage.kind, stage.key)
    partial = folder.with_name(f"{folder.name}.partial")
    lease = store.lease(stage.kind, stage.key)
    progress = store.progress(stage.kind, stage.key)
    sources = [states[i.key] for i in stage.inputs.values() if i.key in states]
    if is_held(lease):
        since = _seconds_since(partial)
        return _state(stage, "running", describe_holder(lease), progress, since)
    if any(source.state in BAD for source in sources):
        culprit = next(source for source in sources if source.state in BAD)
        return _state(stage, "blocked", f"needs {culprit.kind} {culprit.label}")
    if _has_failed(partial):
        error = _last_line(partial / "error.txt")
        state: State = "diverged" if "Diverged:" in error else "failed"
        return _state(stage, state, f"{error}; see {_where_to_look(partial)}", progress)
    if partial.is_dir():
        return _state(stage, "interrupted", _interrupted(partial), progress)
    ready = all(source.state == "done" for source in sources)
    return _state(stage, "ready" if ready else "waiting")


def _has_failed(partial: Path) -> bool:
    """Whether the last attempt ended with an error; one that was killed leaves an older one's."""
    try:
        failed_at = (partial / "error.txt").stat().st_mtime
    except OSError:
        return False
    started = [each["at"] for each in _history(partial) if each.get("what") == "started"]
    return not started or started[-1] <= failed_at + 1.0


def _history(partial: Path) -> list[dict[str, Any]]:
    try:
        lines = (partial / "history.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _state(
    stage: Stage,
    state: State,
    remark: str = "",
    progress: Mapping[str, Any] | None = None,
    running_s: float | None = None,
) -> StageState:
    return StageState(
        key=stage.key,
        kind=stage.kind,
        label=stage.label,
        state=state,
        progress=progress or {},
        running_s=running_s,
        remark=remark,
    )


def _interrupted(partial: Path) -> str:
    """From where work goes on that a process left which is gone."""
    steps = sorted((partial / "checkpoints").glob("step-*.json"))
    if not steps:
        return "its process is gone and left no checkpoint: it starts anew"
    step = int(steps[-1].stem.partition("-")[2])
    return f"its process is gone: it goes on after step {step}"


def _where_to_look(partial: Path) -> str:
    names = [name for name in ("error.txt", "log.txt") if (partial / name).is_file()]
    return " and ".join(str(partial / name) for name in names)


def _last_line(path: Path) -> str:
    """The line of a traceback that says what went wrong."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"its error cannot be read ({error})"
    told = [line for line in lines if line and not line.startswith(" ")]
    return told[-1][:500] if told else "no error was told"


def _seconds_since(partial: Path) -> float | None:
    """Seconds of the present attempt, by this machine's clock; None where that is not known."""
    started = [each["at"] for each in _history(partial) if each.get("what") == "started"]
    return max(0.0, time.time() - started[-1]) if started else None


def _capacity(events: Sequence[Mapping[str, Any]]) -> Capacity:
    """What the machine or cluster of the last run had, as far as its events say."""
    totals = [event["total"] for event in events if "total" in event]
    if not totals:
        return Capacity()
    return Capacity(cpus=float(totals[-1]["cpus"]), gpus=float(totals[-1]["gpus"]))


def _eta(
    stages: Sequence[Stage],
    states: Mapping[str, StageState],
    held: Mapping[str, Capacity],
    total: Capacity,
    store: Store,
) -> float | None:
    """Seconds that what is left takes on the machines of the last run; None where unknown."""
    left = [stage for stage in stages if states[stage.key].state in OPEN]
    if not left:
        return None
    history = History.of(store)
    seconds: dict[str, float] = {}
    for stage in left:
        expected = seconds_left(stage, states[stage.key], history, held[stage.key])
        if expected is None:
            return None
        seconds[stage.key] = expected
    return remaining_s(left, seconds, lambda s: held[s.key], total if total.cpus else None)


def _rows(plan: Plan, results: Path) -> dict[str, int]:
    """Status -> number of the plan's rows."""
    counts: Counter[str] = Counter()
    for row in plan.rows:
        try:
            text = (results / "rows" / f"{row.row_id}.json").read_text(encoding="utf-8")
            counts[str(json.loads(text)["status"])] += 1
        except (OSError, ValueError, KeyError, TypeError):
            counts["pending"] += 1
    return dict(counts)


def _driver(events: Sequence[Mapping[str, Any]]) -> str:
    """The command that ran last, and whether it said that it ended."""
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
