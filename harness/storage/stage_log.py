"""Keeps what a stage prints, beside its checkpoints and then in its artifact.

Standard output and error are redirected where the operating system sees them, so that warnings,
C code and the last words of a process that dies are kept too.
"""

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class UserStream(Protocol):
    """A stream that the user reads: standard error, or what stands in for it."""

    def write(self, text: str, /) -> Any:
        """Append a text."""
        ...

    def flush(self) -> Any:
        """Show what was written."""
        ...


def name(rank: int) -> str:
    """Name of one worker's log, in the folder of work and in the artifact."""
    return f"log-worker{rank}.txt" if rank else "log.txt"


def is_log(name: str) -> bool:
    """Whether a file is one of these logs, or the trace of a worker's steps beside them."""
    return re.fullmatch(r"log(-worker\d+)?\.txt|trace-worker\d+\.json\.gz", name) is not None


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Append this process's standard output and error to a file, until the block ends; every
    attempt at a stage begins with a line that names machine and process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    # File descriptors and not `sys.stdout`: compiled libraries and the dying interpreter write to
    # the descriptors.
    before = [os.dup(number) for number in (1, 2)]
    # Appending, so that lines of several processes do not overwrite each other.
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(log, _heading().encode())
        for number in (1, 2):
            os.dup2(log, number)
        yield
    finally:
        _flush()
        for number, saved in zip((1, 2), before, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        os.close(log)


@contextlib.contextmanager
def user_stream() -> Iterator[UserStream]:
    """A stream to the user that stays one while a stage of this process has its output kept."""
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        # Something in Python stands in for the stream, and is not redirected.
        yield sys.stderr
        return
    stream = os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8", errors="replace")
    try:
        yield stream
    finally:
        # What a terminal that was closed has not taken is dropped.
        with contextlib.suppress(OSError):
            stream.close()


def say(stream: UserStream, text: str) -> None:
    """Write a line to a stream, also from a signal handler that interrupts another write to it;
    where the terminal was closed, nobody reads it."""
    line = f"{text}\n"
    # Python's streams refuse to be entered again by a signal handler; the system's call does not.
    try:
        os.write(getattr(stream, "fileno")(), line.encode(errors="replace"))  # noqa: B009
    except (AttributeError, ValueError):
        stream.write(line)
    except OSError:
        return


def _heading() -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"--- {now} attempt on {socket.gethostname()}, process {os.getpid()}\n"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
