"""Live progress: what runs, what waits, and when it will end.

Running stages write their progress into the store; this view reads it from there, so it shows
the same for work in this process, in another one, and on another machine. It never ends a run: what
goes wrong in it is told in one line, and the run goes on without it.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live

from harness.config.resources import Resources
from harness.executors.interface import Capacity, StageEvent
from harness.reporting.forecast import History, capacity_of, remaining_s
from harness.reporting.overview import OPEN, Overview, StageState, drawing, headline, stage_line
from harness.stages.stage import Stage
from harness.storage.artifacts import Store
from harness.storage.stage_log import UserStream, say

LINE_EVERY_S = 10.0
"""Seconds between two progress lines where there is no terminal."""
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
        stream: UserStream | None = None,
        *,
        resources: Mapping[str, Resources] | None = None,
    ) -> None:
        """Args:
        stages: What will run, inputs first.
        store: Where running stages report.
        stream: Where to show it; standard error unless given.
        resources: Stage kind -> what a stage holds, for the ETA; one CPU unless given.
        """
        self.stages, self.store = list(stages), store
        self.stream: Any = sys.stderr if stream is None else stream
        self.resources = resources or {}
        self.started = time.monotonic()
        self.running: dict[str, tuple[Stage, float]] = {}
        self.ended: dict[str, str] = {}
        self.interrupted: dict[str, str] = {}
        """Stages that are to be run again -> how their last attempt ended."""
        self.held: dict[str, Capacity] = {}
        self.total: Capacity | None = None
        self._known: set[str] = {stage.key for stage in self.stages}
        self._last_said: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._broken = False
        self._told: deque[str] = deque()
        self._console = Console(file=self.stream)
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._eta = _Eta(self)

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
        """Say something as it is, from any thread or signal handler.

        On a terminal the next drawing shows it above the table, which would cover it otherwise.
        """
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
            self.interrupted.pop(stage.key, None)
            if event.what in ("waiting", "again"):
                # Another process works on it, with what is its own, or nobody does.
                self.held.pop(stage.key, None)
            if event.what == "ended" and event.outcome:
                self.running.pop(stage.key, None)
                self.ended[stage.key] = event.outcome.status
            elif event.what == "again" and event.outcome:
                self.running.pop(stage.key, None)
                self.interrupted[stage.key] = event.outcome.error
            else:
                self.running.setdefault(stage.key, (stage, time.monotonic()))
        if news and (not self._console.is_terminal or _went_wrong(event)):
            self.note(_event_text(event))

    def overview(self) -> Overview:
        """The run at this moment."""
        with self._lock:
            ended, running, stages = dict(self.ended), dict(self.running), list(self.stages)
            interrupted = dict(self.interrupted)
            held = [self.held.get(key, Capacity()) for key in running]
            total = self.total
        used = Capacity(cpus=sum(h.cpus for h in held), gpus=sum(h.gpus for h in held))
        open_keys = {stage.key for stage in stages} - set(ended)
        now = time.monotonic()
        states: list[StageState] = []
        for stage in stages:
            if stage.key in ended:
                states.append(_state(stage, ended[stage.key]))
            elif stage.key in running:
                progress = self.store.progress(stage.kind, stage.key)
                since = now - running[stage.key][1]
                states.append(_state(stage, "running", progress=progress, running_s=since))
            elif stage.key in interrupted:
                progress = self.store.progress(stage.kind, stage.key)
                remark = f"to be run again after {interrupted[stage.key]}"
                states.append(_state(stage, "interrupted", progress=progress, remark=remark))
            else:
                ready = not any(i.key in open_keys for i in stage.inputs.values())
                states.append(_state(stage, "ready" if ready else "waiting"))
        eta_s = self._eta.seconds(stages, states, total)
        return Overview(stages=states, used=used, total=total, eta_s=eta_s)

    def lines(self) -> list[str]:
        """The state of the run in words: one line for the whole and one a running stage."""
        overview = self.overview()
        running = [stage for stage in overview.stages if stage.state == "running"]
        return [headline(overview), *(f"  {stage_line(stage)}" for stage in running)]

    def _show(self) -> None:
        with self._tolerant():
            if self._console.is_terminal:
                # Standard output is for results, and the executor redirects it where that is due.
                with Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                ) as live:
                    while not self._stop.wait(REDRAW_EVERY_S):
                        while self._told:
                            live.console.print(self._told.popleft(), highlight=False, markup=False)
                        shown = drawing(self.overview(), self._console)
                        # Ends on an empty line: ^C, echoed on a full one, would move it all down.
                        live.update(Group(shown, ""), refresh=True)
            else:
                while not self._stop.wait(LINE_EVERY_S):
                    for line in self.lines():
                        self._say(line)

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


def _state(stage: Stage, state: Any, **known: Any) -> StageState:
    return StageState(key=stage.key, kind=stage.kind, label=stage.label, state=state, **known)


class _Eta:
    """When the sweep will end; looked at anew every few seconds, since it reads the store."""

    def __init__(self, view: ProgressView) -> None:
        self.view = view
        self._history: History | None = None
        self._counted: set[str] = set()
        self._at = 0.0
        self._last: float | None = None

    def seconds(
        self, stages: Sequence[Stage], states: Sequence[StageState], total: Capacity | None
    ) -> float | None:
        """Seconds from now; None where a stage's length is not known."""
        now = time.monotonic()
        if self._at and now - self._at < FORECAST_EVERY_S:
            return None if self._last is None else max(0.0, self._last - (now - self._at))
        self._at, self._last = now, self._look(stages, states, total)
        return self._last

    def _look(
        self, stages: Sequence[Stage], states: Sequence[StageState], total: Capacity | None
    ) -> float | None:
        history = self._read(stages, states)
        open_pairs = [
            (stage, state)
            for stage, state in zip(stages, states, strict=True)
            if state.state in OPEN
        ]
        seconds: dict[str, float] = {}
        for stage, state in open_pairs:
            left = seconds_left(stage, state, history, self._held(stage))
            if left is None:
                return None
            seconds[stage.key] = left
        return remaining_s([stage for stage, _ in open_pairs], seconds, self._held, total)

    def _read(self, stages: Sequence[Stage], states: Sequence[StageState]) -> History:
        if self._history is None:
            self._history = History.of(self.view.store)
            self._counted = {s.key for s in states if s.state in ("done", "reused")}
        for stage, state in zip(stages, states, strict=True):
            if state.state == "done" and stage.key not in self._counted:
                self._counted.add(stage.key)
                folder = self.view.store.folder(stage.kind, stage.key)
                self._history.add(folder / "artifact.json")
        return self._history

    def _held(self, stage: Stage) -> Capacity:
        known = self.view.held.get(stage.key)
        request = self.view.resources.get(stage.kind, Resources())
        return known or capacity_of(request, torch.cuda.device_count())


def seconds_left(stage: Stage, state: StageState, history: History, held: Capacity) -> float | None:
    """Seconds that a stage needs yet: as it says itself, else as expected; None if unknown."""
    if state.state in ("running", "interrupted") and "eta_s" in state.progress:
        return float(state.progress["eta_s"])
    expected = history.forecast(stage, held).wall_s
    if expected is None:
        return None
    return max(0.0, expected - (state.running_s or 0.0))


def _went_wrong(event: StageEvent) -> bool:
    return event.outcome is not None and event.outcome.status in ("failed", "diverged")


def _event_text(event: StageEvent) -> str:
    name = f"{event.stage.kind} {event.stage.label}"
    if event.outcome is None:
        return f"{event.what} {name}"
    outcome = event.outcome
    if event.what != "ended":
        return f"{event.what} {name}: {outcome.error}"
    tail = f": {outcome.error}" if outcome.error else f" in {outcome.wall_s:.1f} s"
    return f"{outcome.status} {name}{'' if outcome.status == 'reused' else tail}"
