"""Removes what killed processes left in a store, where nobody can need it.

Work in progress (`<key>.partial` of a stage that is not finished) is never touched: the next run
goes on from it.
"""

import contextlib
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from harness.storage.durable import storage_errors
from harness.storage.lease import StageBusy, has_process, hold, is_held
from harness.storage.stop_requests import FOLDER as DRIVERS

OLD_S = 3600.0
"""Age beyond which a file that lives for moments only is a leftover, in seconds of the disk."""
MOMENTARY = re.compile(r"\.lease\.[0-9a-f]{16,32}(\.dead|\.now)?$")
"""Names of a lease on its way in or out, and of the probe of a file system's clock."""
GONE = re.compile(r"^\..+\.gone$")
"""Names of folders whose removal has begun."""
GANGS = ".gangs"
"""Folder of the store with Ray Train's notes, a folder a gang: `<start of its key>-<digits>`."""
KEY_DIGITS = 16
"""Digits of a stage's key in the name of its gang's notes."""


def discard(folder: Path) -> None:
    """Remove a folder; a kill halfway leaves nothing that looks like work in progress."""
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.gone")
    with contextlib.suppress(FileNotFoundError), storage_errors(folder):
        # One rename takes it away whole; deleting file by file takes time.
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
    shutil.rmtree(gone, ignore_errors=True)


def clear_leftovers(root: Path, old_s: float = OLD_S) -> int:
    """Remove what killed processes left in a store; returns how many files and folders.

    Args:
        root: Root of a store; an absent one has no leftovers.
        old_s: Age of files that normally live for moments.
    """
    removed = 0
    now = _disk_time(root)
    for path in _entries(root):
        if GONE.match(path.name):
            shutil.rmtree(path, ignore_errors=True)
        # Old ones only: a living process may be about to link or remove it.
        elif MOMENTARY.search(path.name) and now - _modified(path) > old_s:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        elif path.suffix not in (".partial", ".lease") or not _clear_finished(path):
            continue
        removed += 1
    return removed + _clear_drivers(root / DRIVERS) + _clear_gangs(root, now - old_s)


def remove_temporary(folder: Path, old_s: float = OLD_S) -> None:
    """Remove files below a folder that were being written when their writer died, long ago."""
    now = _disk_time(folder)
    for path in folder.rglob("*.tmp"):
        if path.is_file() and now - _modified(path) > old_s:
            path.unlink(missing_ok=True)


def _clear_finished(path: Path) -> bool:
    """Remove work folder or dead lease of a finished stage: its process died while it tidied up."""
    finished = path.with_suffix("")
    if not (finished / "artifact.json").is_file():
        return False
    try:
        # A living process holds it until its own work folder is removed.
        with hold(finished.with_name(f"{finished.name}.lease")):
            if path.suffix == ".partial":
                discard(path)
    except (StageBusy, OSError):
        return False
    return True


def _clear_drivers(folder: Path) -> int:
    """Remove the stop requests of this machine's drivers that were killed."""
    removed = 0
    for path in folder.glob("*-*-*"):
        # Of other machines' drivers nothing can be known from here.
        host, pid, _ = path.name.rsplit("-", 2)
        if host == socket.gethostname() and pid.isdigit() and not has_process(int(pid)):
            path.unlink(missing_ok=True)
            removed += 1
    _remove_empty(folder)
    return removed


def _clear_gangs(root: Path, before: float) -> int:
    """Remove the notes of gangs that began before this time and don't hold their stage any more."""
    removed = 0
    for path in (root / GANGS).glob("*-*"):
        leases = root.glob(f"*/{path.name[:KEY_DIGITS]}*.lease")
        if _modified(path) < before and not any(is_held(lease) for lease in leases):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    _remove_empty(root / GANGS)
    return removed


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _entries(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for kind in sorted(root.iterdir()):
            if kind.is_dir() and kind.name not in (DRIVERS, GANGS):
                yield from sorted(kind.iterdir())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")


def _disk_time(root: Path) -> float:
    """Now, by the clock of the disk; 0, before every file, where the disk cannot be asked."""
    probe = root / f".{secrets.token_hex(6)}.now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
