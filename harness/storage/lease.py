"""Leases: they let one process at a time work on a stage, and take a dead one's work over.

A lease is a file that its holder touches while it lives. Where holder and observer share a process
table (one boot of one kernel, one pid namespace) the table says whether the holder lives, even
while it is suspended. From elsewhere the age of the file does, measured against a file touched
just now on the same file system, so that clocks need not agree; before a lease is taken over for
its age it is watched for a few heartbeats, so that a clock that jumps kills nobody.

A holder that slept too long finds its lease taken over: it asks before it writes what matters
(`Lease.require`) and gives up.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.storage.durable import disk_time, storage_errors

HEARTBEAT_S = 10.0
"""Seconds between two touches of a lease by its holder."""
EXPIRES_S = 120.0
"""A lease of another machine that was not touched for this long is taken over."""
WATCHED_HEARTBEATS = 3
"""Heartbeats for which an old lease must stay untouched before an observer's eyes."""
ALIVE = "alive"
"""Start of a process that runs, where the start itself cannot be read."""
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""Errors of file systems without hard links."""


class StageBusy(RuntimeError):
    """Another process holds the lease of this stage."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lease that this process took."""

    path: Path
    token: str
    """Random text that tells this holding from every other."""

    def is_ours(self) -> bool:
        """Whether this process still has the lease; True while the disk does not answer."""
        try:
            return _read(self.path).get("token") == self.token
        except FileNotFoundError:
            return False
        except OSError:
            # A disk that fails for a moment does not mean that another process has it.
            return True

    def require(self) -> None:
        """Refuse to go on where another process has taken the lease over."""
        if not self.is_ours():
            raise StageBusy(f"{self.path} was taken over by another process")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A lease as an observer finds it."""

    holder: Mapping[str, Any]
    modified_ns: int


@contextlib.contextmanager
def hold(path: Path) -> Iterator[Lease]:
    """Hold a lease, touching it until the block ends."""
    with storage_errors(path):
        lease = _take(path)
    stop = threading.Event()
    # A thread, because a stage may compile or load for longer than a lease lives.
    heart = threading.Thread(target=_beat, args=(lease, stop), daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        stop.set()
        heart.join()
        # Whoever has taken it over meanwhile keeps it.
        if lease.is_ours():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def wait_and_hold(path: Path, poll_s: float = 0.2) -> Iterator[Lease]:
    """Hold a lease as soon as whoever has it gives it back or dies."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(hold(path))
                break
            except StageBusy:
                time.sleep(poll_s)
        yield lease


def is_held(path: Path) -> bool:
    """Whether a living process seems to hold this lease; a holder of unknown state counts."""
    seen = _look(path)
    return seen is not None and _lives(path, seen) is not False


def surely_lives(path: Path) -> bool:
    """Whether this lease has a holder that is known to live; False where nothing is known."""
    with contextlib.suppress(OSError):
        seen = _look(path)
        return seen is not None and _lives(path, seen) is True
    return False


def has_process(pid: int) -> bool:
    """Whether a process of this number runs in this process table."""
    return _process_start(pid) is not None


def describe_holder(path: Path) -> str:
    """Host and process number of a lease's holder, in words."""
    try:
        holder = _read(path)
    except OSError:
        return "an unknown process"
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"


def _take(path: Path) -> Lease:
    lease = Lease(path=path, token=secrets.token_hex(16))
    pid = os.getpid()
    holder = {
        "host": socket.gethostname(),
        "table": process_table(),
        "pid": pid,
        "started": _process_start(pid),
        "token": lease.token,
    }
    # Written aside and linked into place, so that a lease is never seen half written.
    ready = path.with_name(f"{path.name}.{lease.token}")
    try:
        ready.write_text(json.dumps(holder), encoding="utf-8")
        # Several looks, because another observer may remove the same dead lease.
        for _ in range(3):
            if _place(ready, lease):
                return lease
            seen = _look(path)
            if seen is None:
                continue
            if not _is_dead(path, seen):
                raise StageBusy(f"{path} is held by another process, {describe_holder(path)}")
            _discard(path, seen)
    finally:
        ready.unlink(missing_ok=True)
    raise StageBusy(f"{path} is contended by other processes")


def _place(ready: Path, lease: Lease) -> bool:
    """Put a lease where none is; whether it is ours now."""
    try:
        os.link(ready, lease.path)
        return True
    except FileExistsError:
        # NFS repeats a request whose answer was lost: the lease may be there because we put it.
        return lease.is_ours()
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    content = ready.read_bytes()
    try:
        # Seen empty for a moment, which reads as held by an unknown process.
        with lease.path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _beat(lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        # A file system that fails for a moment must not end the heart.
        with contextlib.suppress(OSError):
            if lease.is_ours():
                os.utime(lease.path)


def _lives(path: Path, seen: _Seen) -> bool | None:
    """Whether a holder lives; None where its last touch is too old, or in the future, to tell."""
    holder = seen.holder
    # The process table is sure even of a suspended holder. Host names would not do: containers
    # share them.
    if holder.get("table") == process_table() and isinstance(holder.get("pid"), int):
        started = _process_start(holder["pid"])
        if started != ALIVE:
            # The number may belong to a later process, which started at another time.
            return started == holder.get("started")
    # Both times are the disk's: clocks of machines disagree and jump.
    probe = path.with_name(f"{path.name}.{secrets.token_hex(8)}.now")
    age_s = disk_time(probe, otherwise=time.time()) - seen.modified_ns / 1e9
    return True if abs(age_s) <= EXPIRES_S else None


def _is_dead(path: Path, seen: _Seen) -> bool:
    """Whether a holder is dead; where only the age of its lease says so, watch for a while."""
    if (lives := _lives(path, seen)) is not None:
        return not lives
    # A living holder touches its lease within a heartbeat; only a dead one's stays as it is.
    until = time.monotonic() + WATCHED_HEARTBEATS * HEARTBEAT_S
    while time.monotonic() < until:
        time.sleep(HEARTBEAT_S / 5)
        if _look(path) != seen:
            return False
    return True


def _discard(path: Path, dead: _Seen) -> None:
    """Remove a dead lease; one that another process has put there meanwhile is put back."""
    # Renamed before it is read: between the look and the removal another process may have taken it,
    # and of a rename only one process wins.
    grave = path.with_name(f"{path.name}.{secrets.token_hex(8)}.dead")
    with contextlib.suppress(FileNotFoundError):
        path.rename(grave)
        holder = _read(grave)
        if holder.get("token") != dead.holder.get("token"):
            _place(grave, Lease(path=path, token=str(holder.get("token"))))
        grave.unlink()


def _look(path: Path) -> _Seen | None:
    """A lease's content and last touch; None where there is none."""
    try:
        # Opened first: over NFS that asks the server for the time of the last touch.
        with path.open("rb") as file:
            modified_ns = os.fstat(file.fileno()).st_mtime_ns
            return _Seen(holder=_parse(file.read()), modified_ns=modified_ns)
    except FileNotFoundError:
        return None


def _read(path: Path) -> Mapping[str, Any]:
    return _parse(path.read_bytes())


def _parse(text: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@lru_cache(maxsize=1)
def process_table() -> str:
    """Name this process table apart from all others: boot of the kernel and pid namespace, or the
    host name where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"host {socket.gethostname()}"


def _process_start(pid: int) -> str | None:
    """Start time of a process in the kernel's ticks; None where none has this number, `ALIVE` where
    one has it and its start cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return _start_without_proc(pid)
    # State and start time, fields 3 and 22 of proc(5); the name before them may hold spaces. A
    # zombie has ended and waits for its parent only.
    return None if fields[0] == "Z" else fields[19]


def _start_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ALIVE
    return ALIVE
