"""Refuses files that change between being opened and being read.

Labels and places are learnt when a file is opened. A file that is written anew later would give
images of one content under labels of another.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, final


@final
class OpenedFiles:
    """Remembers size and time of change of files, and compares them around every reading."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._states = [_state(_status(path)) for path in self.paths]

    def check(self, numbers: Iterable[int] | None = None) -> None:
        """Refuse files that are gone or not what they were."""
        for number in range(len(self.paths)) if numbers is None else numbers:
            self._check_status(number, _status(self.paths[number]))

    @contextmanager
    def open(self, number: int) -> Iterator[BinaryIO]:
        """Open a file for a block that reads it; refuse one that changed before or meanwhile."""
        try:
            with self.paths[number].open("rb") as file:
                # The status of the handle: the path may lead to another file by now.
                self._check_status(number, os.fstat(file.fileno()))
                yield file
                self._check_status(number, os.fstat(file.fileno()))
        except OSError as error:
            raise _gone(self.paths[number], error) from error

    def _check_status(self, number: int, status: os.stat_result) -> None:
        if _state(status) != self._states[number]:
            raise ValueError(
                f"{str(self.paths[number])!r} must stay as it is while it is in use, but its size "
                "or time of change is another than when it was opened; put the file back and run "
                "the command again"
            )


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _gone(path, error) from error


def _gone(path: Path, error: OSError) -> ValueError:
    return ValueError(
        f"{str(path)!r} must stay readable, but is not ({error}); put the file back and run the "
        "command again"
    )


# Not a hash: two looks at a file's status cost microseconds a batch. Other content under the same
# size and time goes unseen.
def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
