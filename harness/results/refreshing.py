"""Results while they come: table, figures and report are written anew while a sweep runs."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import harness

EVERY_S = 60.0
"""The shortest time between two of them, and before the first."""


class Refresher:
    """Writes the results anew in a process of its own, of the lowest priority."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """Args:
        command: What follows `python -m`; it writes the results and ends.
        folder: The results; what the process says goes into a file there.
        """
        self._command, self._folder = command, folder
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
        # Not the working directory first: a folder of the user's may have our packages' names.
        words = ["nice", "-n", "19", sys.executable, "-P", "-m", *self._command]
        root, given = str(Path(harness.__file__).parents[1]), os.environ.get("PYTHONPATH")
        path = root if not given else f"{root}{os.pathsep}{given}"
        with (self._folder / "refresh.log").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": path},
                    start_new_session=True,  # Ctrl-C is for the run.
                )
            except OSError as error:
                log.write(f"{error}\n".encode())

    def stop(self) -> None:
        """End a process that is running; the results are about to be written whole."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
