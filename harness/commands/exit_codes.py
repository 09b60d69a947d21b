"""Exit codes of the commands; what ends a command early is told in words."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.reporting.words import printable
from harness.schema.reading import ConfigError

EXIT_DONE, EXIT_ROWS_FAILED, EXIT_WRONG_REQUEST, EXIT_UNFINISHED = 0, 1, 2, 3
EXIT_TIME_LIMIT = 124
"""As of the command `timeout`."""
EXIT_INTERRUPTED = 130


class Interrupted(KeyboardInterrupt):
    """A run was ended by a signal, after its stages had written their checkpoints."""


class TimeUp(Interrupted):
    """A run was ended so by its `--time-limit`."""


def exit_code(work: Callable[[], int]) -> int:
    """The exit code of a command; a wrong request and an interruption are told in words."""
    with _lasting_streams():
        return _told(work)


def _told(work: Callable[[], int]) -> int:
    try:
        return work()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    except OSError as error:
        print(
            f"error: {error}; what is finished is kept: run the same command again to continue",
            file=sys.stderr,
        )
        return EXIT_ROWS_FAILED
    except KeyboardInterrupt as error:
        is_late = isinstance(error, TimeUp)
        why = "the time limit has passed" if is_late else "interrupted"
        print(
            f"\n{why}: finished stages are kept, training goes on from its last checkpoint; "
            "run the same command again to continue",
            file=sys.stderr,
        )
        return EXIT_TIME_LIMIT if is_late else EXIT_INTERRUPTED


class Lasting:
    """Standard output or error: takes any text, and goes on when nobody reads it any more."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if reconfigure := getattr(stream, "reconfigure", None):
            # Not every terminal is UTF-8; what it lacks is written out.
            reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text; names in it move no cursor."""
        self._lasting(self.stream.write, printable(text))
        return len(text)

    def flush(self) -> None:
        """Show what was written."""
        self._lasting(self.stream.flush)

    def _lasting(self, call: Callable[..., object], *given: str) -> None:
        try:
            call(*given)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):
                raise
            # The terminal was closed. What is still in the buffer must go somewhere too, or the
            # interpreter would end with an error of its own.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


@contextlib.contextmanager
def _lasting_streams() -> Iterator[None]:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The next file that is opened would be standard output.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = (Lasting(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
