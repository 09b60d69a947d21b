"""Live progress: what runs, what waits, and when it will end.

Running stages write their progress into the store; this view reads it from there, so it shows
the same for work in this process, in another one, and on another machine.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.executors.interface import StageEvent
from harness.plan import Stage
from harness.stage_log import UserStream
from harness.store import Store

LINE_EVERY_S = 10.0
"""Seconds between two progress lines where there is no terminal."""
REDRAW_EVERY_S = 0.5
"""Seconds between two drawings on a terminal."""


class ProgressView:
    """Shows a run until it ends; use as a context manager and as the executor's listener."""

    def __init__(
        self, stages: Sequence[Stage], store: Store, stream: UserStream = sys.stderr
    ) -> None:
        self.stages, self.store, self.stream = list(stages), store, stream
        self.started = time.monotonic()
        self.running: dict[str, tuple[Stage, float]] = {}
        self.ended: dict[str, str] = {}
        self._last_said: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._console = Console(file=cast(Any, stream))
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "ProgressView":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def add(self, stages: Sequence[Stage]) -> None:
        """Count further stages of a run that grows."""
        with self._lock:
            self.stages += [stage for stage in stages if stage not in self.stages]

    def note(self, text: str) -> None:
        """Say something beside the stages."""
        if self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False)
        else:
            self._say(text)

    def __call__(self, event: StageEvent) -> None:
        """Take note of a stage that began or ended."""
        stage = event.stage
        news = event.what == "ended" or self._last_said.get(stage.key) != "waiting"
        self._last_said[stage.key] = "waiting" if not news else event.what
        with self._lock:
            if event.what == "ended" and event.outcome:
                self.running.pop(stage.key, None)
                self.ended[stage.key] = event.outcome.status
            else:
                self.running.setdefault(stage.key, (stage, time.monotonic()))
        if news and not self._console.is_terminal:
            self._say(_event_text(event))

    def _show(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not self._stop.wait(REDRAW_EVERY_S):
                    live.update(self._table(), refresh=True)
        else:
            while not self._stop.wait(LINE_EVERY_S):
                for line in self.lines():
                    self._say(line)

    def lines(self) -> list[str]:
        """The state of the run in words: one line a running stage and one for the whole."""
        running = self._running()
        texts = [f"  {s.kind} {s.label}: {_progress_text(p, since)}" for s, since, p in running]
        return [self._whole(), *texts]

    def _running(self) -> list[tuple[Stage, float, dict[str, Any]]]:
        with self._lock:
            running = list(self.running.values())
        return [(s, since, self.store.progress(s.kind, s.key)) for s, since in running]

    def _whole(self) -> str:
        with self._lock:
            ended, running, stages = dict(self.ended), set(self.running), list(self.stages)
        waiting = [s for s in stages if s.key not in ended and s.key not in running]
        ready = [
            s for s in waiting if all(i.key in ended or i not in stages for i in s.inputs.values())
        ]
        counts = [f"{len(running)} running", f"{len(ready)} ready"]
        counts.append(f"{len(waiting) - len(ready)} waiting")
        for status in ("done", "reused", "failed", "diverged", "blocked"):
            number = sum(value == status for value in ended.values())
            if number or status == "done":
                counts.append(f"{number} {status}")
        return f"{len(ended)}/{len(stages)} stages: {', '.join(counts)}"

    def _table(self) -> Table:
        table = Table(title=self._whole(), title_justify="left", expand=True)
        for column in ("stage", "what", "progress"):
            table.add_column(column)
        for stage, since, progress in self._running():
            table.add_row(stage.kind, stage.label, _progress_text(progress, since))
        return table

    def _say(self, text: str) -> None:
        elapsed = int(time.monotonic() - self.started)
        print(
            f"[{elapsed // 60:02d}:{elapsed % 60:02d}] {text}",
            file=cast(Any, self.stream),
            flush=True,
        )


def _event_text(event: StageEvent) -> str:
    name = f"{event.stage.kind} {event.stage.label}"
    if event.outcome is None:
        return f"{event.what} {name}"
    outcome = event.outcome
    tail = f": {outcome.error}" if outcome.error else f" in {outcome.wall_s:.1f} s"
    return f"{outcome.status} {name}{'' if outcome.status == 'reused' else tail}"


def _progress_text(progress: Mapping[str, Any], since: float) -> str:
    if "step" not in progress:
        return f"starting, {time.monotonic() - since:.0f} s"
    step, total = progress["step"], progress["total"]
    numbers = [
        f"{name} {value:.4g}"
        for name, value in progress.items()
        if name not in ("step", "total", "time", "eta_s")
    ]
    eta = f"ETA {progress['eta_s']:.0f} s" if "eta_s" in progress else ""
    return ", ".join(filter(None, [f"step {step}/{total}", *numbers, eta]))
