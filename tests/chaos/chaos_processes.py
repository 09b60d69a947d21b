"""Real processes of one command: started in a session of their own, found there, and killed.

A session holds the driver, Ray's servers and every worker, and nothing of anybody else. Processes
are found by the session's number in /proc, never by their names across the machine.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults")
IDLE_TITLES = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""What Ray's workers are called while they run nothing, and its helpers."""


class Command:
    """`python -m harness.run` in a session of its own, its output kept beside the results."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            folder: Where it runs.
            arguments: Of the command.
            within: A command that runs it in other surroundings: `prlimit --fsize=20000`.
            environment: Variables that it has beside the usual ones.
        """
        self.folder = folder
        number = len(list(folder.glob("driver-*.err")))
        self.out, self.err = folder / f"driver-{number}.out", folder / f"driver-{number}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "harness.run", *arguments],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(FAULTS), str(ROOT)]),
                    "RAY_AUTH_MODE": "disabled",
                    "OMP_NUM_THREADS": "1",
                    **(environment or {}),
                },
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether the driver has ended."""
        return self.process.poll() is not None

    def members(self) -> list[int]:
        """All living processes of the session, the driver first."""
        found = [pid for pid in _processes() if _session(pid) == self.process.pid]
        return sorted(found, key=lambda pid: (pid != self.process.pid, pid))

    def workers(self, stage: str = "") -> list[int]:
        """Processes that run a stage or a rank of one; `stage` begins with its kind and label."""
        titles = {pid: _title(pid) for pid in self.members()}
        return [
            pid
            for pid, title in titles.items()
            if title.startswith(f"ray::{stage}") and not title.startswith(IDLE_TITLES)
        ]

    def ranks(self) -> list[int]:
        """Processes of the gangs that are at work, the first of each gang first.

        Found by their logs: beside them, Ray Train has processes that come and go with the gang.
        """
        members, found = set(self.members()), []
        for second in self.folder.glob("artifacts/*/*.partial/log-worker1.txt"):
            logs = [second.with_name("log.txt"), *sorted(second.parent.glob("log-worker*.txt"))]
            found += [_last_process(log) for log in logs]
        return [pid for pid in found if pid in members]

    def servers(self, name: str) -> list[int]:
        """Ray's own processes: `raylet`, `gcs_server`."""
        return [pid for pid in self.members() if Path(_title(pid).split(" ")[0]).name == name]

    def wait_until_working(self, timeout_s: float) -> None:
        """Wait until a stage has begun, or the driver has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self.has_ended:
            if "started" in self.err.read_text():
                return
            time.sleep(0.05)

    def kill(self, pids: Sequence[int]) -> int:
        """SIGKILL processes of this session; returns how many were still there."""
        killed = 0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                if _session(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        if self.process.pid in pids:
            self.process.wait()
        return killed

    def end(self) -> None:
        """Kill whatever is left of the session."""
        while members := self.members():
            self.kill(members)
            time.sleep(0.05)
        self.process.wait()


def _last_process(log: Path) -> int:
    """Process that wrote a stage's log; 0 where none has begun."""
    with contextlib.suppress(FileNotFoundError):
        if written := re.findall(r"attempt on \S+, process (\d+)", log.read_text()):
            return int(written[-1])
    return 0


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _session(pid: int) -> int | None:
    """Session of a process; None for one that has ended, waited for or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    state, _, _, session = text.rpartition(")")[2].split()[:4]
    return None if state == "Z" else int(session)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ").strip()
    except OSError:
        return ""
