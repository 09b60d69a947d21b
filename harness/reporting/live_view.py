"""Live progress: what runs, what waits, and when it will end.

Running stages write their progress into the store; this view reads it from there, so it shows
the same for work in this process, in another one, and on another machine. It never ends a run: what
goes wrong in it is told in one line, and the run goes on without it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console, Group
from rich.live import Live

from harness.config.resources import Capacity, Resources, capacity_of
from harness.executors.interface import StageEvent
from harness.plan.graph import Node
from harness.reporting.drawing import drawing
from harness.reporting.forecast import History, seconds_to_end
from harness.reporting.overview import Overview, headline, progress_text
from harness.reporting.plan_record import StageRecord
from harness.reporting.recording import record_of_stage, this_machine
from harness.reporting.stage_states import OPEN, StageState, State, Witness, stage_states
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.durable import read_object
from harness.storage.stage_log import UserStream, say

LINE_EVERY_S = 10.0
"""Seconds between two progress lines where there is no terminal, after the first ten minutes."""
FIRST_LINES_EVERY_S = 2.5
"""Seconds between two of them before: who looks on is to see that something happens."""
REDRAW_EVERY_S = 0.5
"""Seconds between two drawings on a terminal."""
FORECAST_EVERY_S = 5.0
"""Seconds between two forecasts of when the sweep ends."""
JOIN_S = 5.0
"""Seconds that the end of a run waits for a view that hangs on a slow file system."""


class ProgressView:
    """Shows a run until it ends; use as a context manager and as the executor's listener."""

    def __init__(
        self,
        stages: Sequence[Stage],
        store: Store,
        stream: UserStream,
        *,
        resources: Mapping[str, Resources] | None = None,
        ahead: Callable[[], Sequence[StageRecord]] = tuple,
    ) -> None:
        """Shows `stages`, inputs first, of which the running ones report in `store`; `resources`
        are what each kind holds, and `ahead` gives what is to be added yet, for the time that is
        left (one CPU and nothing unless given)."""
        self.stages, self.store = list(stages), store
        self.stream: Any = stream
        self.resources, self._ahead = resources or {}, ahead
        self.started = time.monotonic()
        self.held: dict[str, Capacity] = {}
        self.total: Capacity | None = None
        self._seen: dict[str, _Seen] = {}
        self._known: set[str] = {stage.key for stage in self.stages}
        self._last_said: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._broken = False
        self._told: deque[str] = deque()
        self._console = Console(file=self.stream)
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._history: History | None = None
        self._made: deque[Path] = deque()
        """Artifacts of this run that the history lacks."""
        self._forecast_at = 0.0
        self._ends_at: float | None = None

    def __enter__(self) -> "ProgressView":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)
        while self._told:
            say(self.stream, self._told.popleft())

    def add(self, stages: Sequence[Stage]) -> None:
        """Count further stages of a run that grows."""
        with self._lock:
            self.stages += [stage for stage in stages if stage.key not in self._known]
            self._known |= {stage.key for stage in stages}

    def note(self, text: str) -> None:
        """Say something beside the stages."""
        with self._tolerant():
            if self._console.is_terminal:
                self._console.print(text, highlight=False, markup=False)
            else:
                self._say(text)

    def tell(self, text: str) -> None:
        """Say something as it is, from any thread or signal handler; on a terminal the next
        drawing, which would cover it, shows it above the table."""
        if self._console.is_terminal and self._thread.is_alive():
            self._told.append(text)
        else:
            say(self.stream, text)

    def __call__(self, event: StageEvent) -> None:
        """Take note of a stage that began or ended."""
        stage = event.stage
        news = event.outcome is not None or self._last_said.get(stage.key) != "waiting"
        self._last_said[stage.key] = "waiting" if not news else event.what
        with self._lock:
            self.total = event.total or self.total
            if event.held:
                self.held[stage.key] = event.held
            if event.what in ("waiting", "again"):
                # Another process works on it, with what is its own, or nobody does.
                self.held.pop(stage.key, None)
            seen = self._seen.get(stage.key)
            if event.what == "ended" and event.outcome:
                # `busy` is told as `waiting`, every other status of an outcome is a state.
                self._seen[stage.key] = _Seen(cast(State, event.outcome.status))
                if event.outcome.status == "done":
                    self._made.append(self.store.folder(stage.kind, stage.key) / "artifact.json")
            elif event.what == "again" and event.outcome:
                remark = f"to be run again after {event.outcome.error}"
                self._seen[stage.key] = _Seen("interrupted", remark)
            elif seen is None or seen.state != "running":
                self._seen[stage.key] = _Seen("running", since=time.monotonic())
        went_wrong = event.outcome is not None and event.outcome.status in ("failed", "diverged")
        if news and (went_wrong or not self._console.is_terminal):
            self.note(_event_text(event))

    def overview(self) -> Overview:
        """The run at this moment."""
        with self._lock:
            stages, seen, held = list(self.stages), dict(self._seen), dict(self.held)
            total = self.total
        states = stage_states(stages, self._witness(seen))
        running = [held.get(k, Capacity()) for k, s in states.items() if s.state == "running"]
        return Overview(
            stages=list(states.values()),
            used=Capacity(cpus=sum(h.cpus for h in running), gpus=sum(h.gpus for h in running)),
            total=total,
            eta_s=self._eta_s(stages, states, held, total),
        )

    def _witness(self, seen: Mapping[str, "_Seen"]) -> Witness:
        """Knows what the executor has told, and reads reports of what runs in the store."""
        now = time.monotonic()

        def witness(stage: Node) -> StageState | None:
            if stage.key not in seen:
                return None
            told = seen[stage.key]
            begun = told.state in ("running", "interrupted")
            return StageState.of(
                stage,
                told.state,
                remark=told.remark,
                progress=self.store.progress(stage.kind, stage.key) if begun else {},
                running_s=now - told.since if told.state == "running" else None,
            )

        return witness

    def _eta_s(
        self,
        stages: Sequence[Stage],
        states: Mapping[str, StageState],
        held: Mapping[str, Capacity],
        total: Capacity | None,
    ) -> float | None:
        """Seconds until the run ends; forecast anew every few seconds, as that reads the store."""
        now = time.monotonic()
        if not self._forecast_at or now - self._forecast_at >= FORECAST_EVERY_S:

            def holds(stage: Node) -> Capacity:
                request = self.resources.get(stage.kind, Resources())
                return held.get(stage.key) or capacity_of(request, torch.cuda.device_count())

            made = [self._made.popleft() for _ in range(len(self._made))]
            if self._history is None:
                machine = this_machine(self.resources.values())
                self._history = History.of(self.store, machine)
            else:
                for path in made:
                    self._history.add(read_object(path))
            left = [record_of_stage(s) for s in stages if states[s.key].state in OPEN]
            ahead = self._ahead()
            states = {**states, **{s.key: StageState.of(s, "waiting") for s in ahead}}
            seconds = seconds_to_end([*left, *ahead], states, self._history, holds, total)
            self._forecast_at, self._ends_at = now, None if seconds is None else now + seconds
        return None if self._ends_at is None else max(0.0, self._ends_at - now)

    def lines(self) -> list[str]:
        """The state of the run in words: one line for the whole and one a running stage."""
        overview = self.overview()
        running = [stage for stage in overview.stages if stage.state == "running"]
        lines = [f"  {stage.kind} {stage.label}: {progress_text(stage)}" for stage in running]
        return [headline(overview), *lines]

    def _show(self) -> None:
        with self._tolerant():
            if self._console.is_terminal:
                # Standard output is for results, and the executor redirects it where that is due.
                with Live(
                    console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
                ) as live:
                    while not self._stop.wait(REDRAW_EVERY_S):
                        while self._told:
                            live.console.print(self._told.popleft(), highlight=False, markup=False)
                        shown = drawing(self.overview(), self._console)
                        # Ends on an empty line: ^C, echoed on a full one, would move it all down.
                        live.update(Group(shown, ""), refresh=True)
            else:
                while not self._stop.wait(self._pause_s()):
                    for line in self.lines():
                        self._say(line)

    def _pause_s(self) -> float:
        is_new = time.monotonic() - self.started < 600
        return min(FIRST_LINES_EVERY_S, LINE_EVERY_S) if is_new else LINE_EVERY_S

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Whatever goes wrong in the view is told once; the run must not end of it."""
        try:
            yield
        except Exception as error:
            if self._broken:
                return
            self._broken = True
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            try:
                self._say(f"the live view has stopped ({cause}); the run goes on")
            except (OSError, ValueError):
                # Nobody reads there any more.
                return

    def _say(self, text: str) -> None:
        elapsed = int(time.monotonic() - self.started)
        print(f"[{elapsed // 60:02d}:{elapsed % 60:02d}] {text}", file=self.stream, flush=True)


@dataclass(frozen=True)
class _Seen:
    """The last news that the executor gave of a stage."""

    state: State
    remark: str = ""
    since: float = 0.0
    """When it started, by the monotonic clock."""


def _event_text(event: StageEvent) -> str:
    name = f"{event.stage.kind} {event.stage.label}"
    if event.outcome is None:
        return f"{event.what} {name}"
    outcome = event.outcome
    if event.what != "ended":
        return f"{event.what} {name}: {outcome.error}"
    tail = f": {outcome.error}" if outcome.error else f" in {outcome.wall_s:.1f} s"
    return f"{outcome.status} {name}{'' if outcome.status == 'reused' else tail}"
