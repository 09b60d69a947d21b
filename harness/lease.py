"""Leases: one process at a time works on a stage, and a dead one's work is taken over.

A lease is a file that its holder touches while it lives. On the holder's own machine the process
table says whether it lives; from elsewhere the age of the file does, measured against a file
touched just now on the same file system, so that clocks need not agree.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEARTBEAT_S = 10.0
"""Seconds between two touches of a lease by its holder."""
EXPIRES_S = 120.0
"""A lease of another machine that was not touched for this long is taken over."""


class StageBusy(RuntimeError):
    """Another process holds the lease of this stage."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lease that this process took."""

    path: Path
    token: str
    """Random text that tells this holding from every other."""

    def is_ours(self) -> bool:
        """Whether nobody has taken the lease over."""
        return _read(self.path).get("token") == self.token


@contextlib.contextmanager
def hold(path: Path) -> Iterator[Lease]:
    """Hold a lease, touching it until the block ends.

    Raises:
        StageBusy: A living process holds it.
    """
    lease = _take(path)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(lease, stop), daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        stop.set()
        heart.join()
        if lease.is_ours():
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process holds this lease."""
    try:
        modified = path.stat().st_mtime
    except FileNotFoundError:
        return False
    holder = _read(path)
    if holder.get("host") == socket.gethostname() and "pid" in holder:
        return _process_start(int(holder["pid"])) == holder.get("started")
    return _now_on_file_system_of(path) - modified <= EXPIRES_S


def _take(path: Path) -> Lease:
    lease = Lease(path=path, token=secrets.token_hex(16))
    pid = os.getpid()
    holder = {"host": socket.gethostname(), "pid": pid, "started": _process_start(pid)}
    # Written aside and linked into place, so that a lease is never seen half written.
    ready = path.with_name(f"{path.name}.{lease.token}")
    ready.write_text(json.dumps({**holder, "token": lease.token}), encoding="utf-8")
    try:
        for _ in range(3):
            with contextlib.suppress(FileExistsError):
                os.link(ready, path)
                return lease
            if is_held(path):
                raise StageBusy(f"{path} is held by another process")
            _discard(path)
    finally:
        ready.unlink()
    raise StageBusy(f"{path} is contended by other processes")


def _beat(lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        # A file system that fails for a moment must not end the heart.
        with contextlib.suppress(OSError):
            if lease.is_ours():
                os.utime(lease.path)


def _discard(path: Path) -> None:
    """Remove a dead lease; one that another process has just renewed is put back."""
    grave = path.with_name(f"{path.name}.{secrets.token_hex(8)}.dead")
    with contextlib.suppress(FileNotFoundError):
        path.rename(grave)
        if is_held(grave):
            with contextlib.suppress(FileExistsError):
                os.link(grave, path)
        grave.unlink()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _process_start(pid: int) -> str | None:
    """What tells a process from another that has its number later; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return _start_without_proc(pid)
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"


def _start_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"
    return "alive"


def _now_on_file_system_of(path: Path) -> float:
    probe = path.with_name(f"{path.name}.{secrets.token_hex(8)}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)
