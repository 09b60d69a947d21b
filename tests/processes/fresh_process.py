"""Commands in a process of their own that knows nothing of the tests, without seconds of imports.

Each is forked from a server that has imported what every command does and nothing of the tests.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from analysis import report
from analysis.figures import saving
from analysis.figures.column import COLUMN_INCH

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["harness.commands.run_sweep", "harness.results.folder", "analysis.report", "seaborn", "timm"]
)


class Forked:
    """A command that runs by itself; has of `subprocess.Popen` what tests need."""

    def __init__(
        self,
        folder: Path,
        streams: tuple[Path, Path],
        module: str,
        *arguments: str,
        paths: Sequence[Path] = (ROOT,),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Does what `python -m MODULE ARGUMENTS` does in a folder, in a session of its own.

        Args:
            folder: Where it runs.
            streams: Files for what it prints and what it says; they may be one.
            module: What runs.
            arguments: Of the command.
            paths: What modules are looked up in first, here and in processes that it starts.
            environment: Variables that it has beside the usual ones.
        """
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        variables["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        call = (folder, streams, module, arguments, paths, variables)
        self._process = SERVER.Process(target=_become, args=call)
        # The server starts with the first process, and takes its path from here.
        with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"):
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            while os.getsid(self.pid) != self.pid:
                time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        """Code that it ended with; a signal's negative number; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Like `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, for some seconds at most; returns the code."""
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired("a forked command", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


def run_command(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Does what `python -m MODULE ARGUMENTS` does in a folder, with this checkout on its path."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        code = Forked(folder, (out, err), module, *arguments).wait()
        said = (out.read_text(), err.read_text())
    return subprocess.CompletedProcess([module, *arguments], code, *said)


def _become(
    folder: Path,
    streams: tuple[Path, Path],
    module: str,
    arguments: tuple[str, ...],
    paths: Sequence[Path],
    environment: dict[str, str],
) -> None:
    os.setsid()
    # Tests that run in the background or under nohup would hand down that these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # The tests' own path has folders of this checkout that no user has.
    ours = tuple(str(ROOT / name) for name in ("tests", "sweeps"))
    others = (path for path in sys.path if path and not path.startswith(ours))
    sys.path[:] = [str(folder), *map(str, paths), *others]
    sys.argv = [module, *arguments]
    # One file a figure: the others take most of a small run.
    saving.__dict__.update(FILES={COLUMN_INCH: (".png",)})
    report.__dict__.update(ENDS=(".png",))
    # An interpreter does so when it starts.
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A forked process ends without them; Ray's are among them.
        atexit._run_exitfuncs()
