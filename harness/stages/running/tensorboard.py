"""Training curves as TensorBoard event files, beside the curve of the table.

Written synchronously: the usual writer hands events to a thread, which dies on a full disk and
leaves whoever flushes it waiting for ever.
"""

import contextlib
import importlib
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

FOLDER = "tensorboard"
"""Folder of the event files in an artifact. They hold times, so they are no part of its content."""


@final
class ScalarLog:
    """Named numbers over steps for `tensorboard --logdir`, one file an attempt.

    The curve in `curve.jsonl` is what counts: where these files cannot be written it is told once,
    and the training goes on without them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        self._failed = False

    def start(self, first_step: int) -> None:
        """Begin a file; what earlier attempts wrote from `first_step` on is no longer shown."""
        with self._tolerant():
            self.folder.mkdir(parents=True, exist_ok=True)
            if first_step == 0:
                for old in self.folder.glob("*.tfevents.*"):
                    old.unlink()
            self._open(first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of one step; they are shown after `flush`."""
        if self._writer is None:
            return
        event_pb2, summary_pb2 = _messages("event"), _messages("summary")
        scalars = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        summary = summary_pb2.Summary(value=scalars)
        with self._tolerant():
            self._writer.write_event(
                event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
            )

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.close()
            self._writer = None

    def _open(self, first_step: int) -> None:
        # Importing it takes a moment, and few stages train.
        from tensorboardX.event_file_writer import EventsWriter

        event_pb2 = _messages("event")
        # Two attempts may begin within one second, on one machine or on two with one name.
        suffix = f".{os.getpid()}.{secrets.token_hex(4)}"
        self._writer = EventsWriter(str(self.folder / "events"), suffix)
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(
            event_pb2.Event(wall_time=time.time(), step=first_step, session_log=session)
        )
        self._writer.flush()

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            if not self._failed:
                self._failed = True
                print(
                    f"warning: no further TensorBoard logs in {self.folder} ({error}); the "
                    "training goes on, and its curve is kept in curve.jsonl",
                    file=sys.stderr,
                )


def _messages(name: str) -> Any:
    """Message classes of the event format; they are made when their module is imported."""
    return importlib.import_module(f"tensorboardX.proto.{name}_pb2")
