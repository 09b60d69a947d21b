"""Writes `events.jsonl`: what happened in a sweep, for machines.

Every line is one write to a file opened for appending, so that the lines of several drivers on one
machine do not mix; the next writer ends a line that a kill tore.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import torch

from harness.execution.stage_run import Outcome
from harness.executors.interface import StageEvent
from harness.machine.environment import command_line, environment
from harness.results.event_file import SCHEMA


@final
class EventLog:
    """Writes one run's events. A file that cannot be written is told once and ends nothing."""

    def __init__(self, path: Path) -> None:
        """Args:
        path: The file; its folder must exist.
        """
        self.path, self.run = path, secrets.token_hex(8)
        self.events: list[dict[str, Any]] = []
        """The events of this run so far, also those that could not be written."""
        self._started = time.monotonic()
        self._lost = 0
        self._torn = _ends_in_the_middle(path)

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the values that belong to it."""
        entry = {
            "schema": SCHEMA,
            "event": event,
            "run": self.run,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "elapsed_s": round(time.monotonic() - self._started, 3),
            **values,
        }
        self.events.append(entry)
        if self._lost:
            entry = {**entry, "lost_before": self._lost}
        # The line before may be torn; an empty line does no harm.
        head = "\n" if self._torn else ""
        line = (head + json.dumps(entry, allow_nan=False) + "\n").encode()
        try:
            self._torn = True
            self._torn = _append(self.path, line) < len(line)
            if self._torn:
                raise OSError("the disk took only a part of the line")
            self._lost = 0
        except OSError as error:
            if not self._lost:
                print(
                    f"warning: {self.path} cannot be written ({error}); the run goes on, and "
                    "events are lost until it can",
                    file=sys.stderr,
                )
            self._lost += 1

    def start(self, sweep: str, *, store: Path, executor: str, **counts: int) -> None:
        """The sweep begins; `counts` are those of its plan."""
        self.write(
            "sweep_started",
            sweep=sweep,
            command=command_line(),
            store=str(store.resolve()),
            executor=executor,
            host=socket.gethostname(),
            pid=os.getpid(),
            environment=environment(torch.device("cpu")),
            **counts,
        )

    def __call__(self, event: StageEvent) -> None:
        """A stage began or ended."""
        values: dict[str, Any] = {
            "key": event.stage.key,
            "kind": event.stage.kind,
            "label": event.stage.label,
        }
        for name, capacity in (("held", event.held), ("total", event.total)):
            if capacity is not None:
                values[name] = {"cpus": capacity.cpus, "gpus": capacity.gpus}
        if event.outcome is not None:
            outcome = event.outcome
            values |= {"status": outcome.status, "error": outcome.error}
            values["wall_s"] = round(outcome.wall_s, 3)
        self.write(f"stage_{event.what}", **values)

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of the table was written."""
        self.write("row_written", **{name: row[name] for name in ("row_id", "trial_id", "status")})

    def end(self, status: str, outcomes: Mapping[str, Outcome], rows: Mapping[str, int]) -> None:
        """The sweep ended: `done`, `rows_failed`, `interrupted` or `error`."""
        stages = Counter(outcome.status for outcome in outcomes.values())
        self.write("sweep_ended", status=status, stages=stages, rows=dict(rows))


def _append(path: Path, line: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        return os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _ends_in_the_middle(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    return False
