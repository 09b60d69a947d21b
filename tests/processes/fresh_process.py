"""Commands in a process of their own that knows nothing of the tests, without seconds of imports.

Each is forked from a server that has imported what every command does and nothing of the tests.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.results import folder as results_folder

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["harness.commands.run_sweep", "harness.results.folder", "torch._dynamo", "timm"]
)


def run_command(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Does what `python -m MODULE ARGUMENTS` does in a folder, with this checkout on its path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as streams:
        call = (folder, module, arguments, environment, streams)
        process = SERVER.Process(target=_become, args=call)
        before = dict(os.environ)
        # The server starts with the first process, and takes its path from here.
        os.environ.update(environment)
        try:
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        process.join()
        out, err = (Path(streams, name).read_text() for name in ("out", "err"))
    assert process.exitcode is not None
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)


def _become(
    folder: Path, module: str, arguments: tuple[str, ...], environment: dict[str, str], streams: str
) -> None:
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(Path(streams, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # The tests' own path has folders of this checkout that no user has.
    ours = tuple(str(ROOT / name) for name in ("tests", "sweeps"))
    sys.path[:] = [str(folder), str(ROOT), *(p for p in sys.path if p and not p.startswith(ours))]
    sys.argv = [module, *arguments]
    # Reports take most of a small run, and nobody looks at these.
    results_folder.__dict__.update(_analyse=lambda results: ([], "no report"))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A forked process ends without them; Ray's are among them.
        atexit._run_exitfuncs()
