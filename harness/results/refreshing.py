"""Results while they come: table, figures and report are written anew while a sweep runs."""

import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from harness.config.sweep import Sweep
from harness.executors.parcel import Parcel
from harness.plan.plan import make_plan
from harness.results.folder import write_results
from harness.storage.artifacts import Store

EVERY_S = 60.0
"""The shortest time between two of them, and before the first."""


class Refresher:
    """Writes the results of a sweep anew in a process of its own, of the lowest priority.

    The process is handed the sweep itself: its file may change meanwhile, and what
    `harness.evaluate` runs is in no file.
    """

    def __init__(self, sweep: Sweep, store: Store, results: Path) -> None:
        """Args:
        results: Folder of the results; what the process says goes into a file there.
        """
        self._sweep, self._store, self._results = sweep, store, results
        self._process: subprocess.Popen[bytes] | None = None
        self._last, self._is_due = time.monotonic(), False

    def row_written(self) -> None:
        """Note that there is something new."""
        self._is_due = True

    def look(self) -> None:
        """Start the process where something is new, a minute has passed and none is running."""
        is_running = self._process is not None and self._process.poll() is None
        if is_running or not self._is_due or time.monotonic() - self._last < EVERY_S:
            return
        self._last, self._is_due = time.monotonic(), False
        # A file and no pipe, which would hold the run up until the process has begun to read.
        with tempfile.TemporaryFile() as given, (self._results / "refresh.log").open("wb") as log:
            pickle.dump((Parcel.of(self._sweep), self._store.root, self._results), given)
            given.seek(0)
            try:
                self._process = subprocess.Popen(
                    self._words(),
                    stdin=given,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the run.
                )
            except OSError as error:
                log.write(f"{error}\n".encode())

    def stop(self) -> None:
        """End a process that is running; the results are about to be written whole."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _words(self) -> list[str]:
        # Packages are found as here: a folder of the user's may have ones of our names.
        code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import write_from; "
        code += "write_from(sys.stdin.buffer)"
        # Linux groups processes by session, and `nice` counts within a group alone. The first one
        # is waited for: in a group of the lowest priority, busy cores would hardly let it begin.
        group = "echo 19 2>/dev/null > /proc/$$/autogroup; " if self._process else ""
        run = group + 'exec nice -n 19 "$@"'
        return ["sh", "-c", run, "sh", sys.executable, "-P", "-c", code]


def write_from(given: BinaryIO) -> None:
    """Write the results of the sweep that a `Refresher` has put into a file."""
    # It comes from our own driver, by a file that nobody else can open.
    parcel, root, results = pickle.load(given)  # noqa: S301
    write_results(make_plan(parcel.open()), Store(root), {}, results, 0.0)
