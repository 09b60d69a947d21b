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

from harness.storage.durable import disk_time, storage_errors
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
    with storage_errors(folder), contextlib.suppress(FileNotFoundError):
        # One rename takes it away whole; deleting file by file takes time.
        folder.rename(gone)
    _remove(gone)


def _remove(path: Path) -> None:
    """Remove a folder, or a link in its place; what it leads to is not the store's."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def clear_leftovers(root: Path, old_s: float = OLD_S) -> None:
    """Remove what killed processes left in the store at `root`, if there is one; files that
    normally live for moments are left over once they are older than `old_s`."""
    now = _disk_time(root)
    for path in _entries(root):
        if GONE.match(path.name):
            _remove(path)
        # Old ones only: a living process may be about to link or remove it.
        elif MOMENTARY.search(path.name) and now - _modified(path) > old_s:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        elif path.suffix in (".partial", ".lease"):
            _clear_finished(path)
    _clear_drivers(root / DRIVERS)
    _clear_gangs(root, now - old_s)


def remove_temporary(folder: Path, old_s: float = OLD_S) -> None:
    """Remove files below a folder that were being written when their writer died, long ago."""
    now = _disk_time(folder)
    for path in folder.rglob("*.tmp"):
        if path.is_file() and now - _modified(path) > old_s:
            path.unlink(missing_ok=True)


def _clear_finished(path: Path) -> None:
    """Remove work folder or dead lease of a finished stage: its process died while it tidied up."""
    finished = path.with_suffix("")
    if not (finished / "artifact.json").is_file():
        return
    # A living process holds it until its own work folder is removed.
    lease = finished.with_name(f"{finished.name}.lease")
    with contextlib.suppress(StageBusy, OSError), hold(lease):
        if path.suffix == ".partial":
            discard(path)


def _clear_drivers(folder: Path) -> None:
    """Remove the stop requests of this machine's drivers that were killed."""
    if folder.is_symlink():
        return
    for path in folder.glob("*-*-*"):
        # Of other machines' drivers nothing can be known from here.
        host, pid, _ = path.name.rsplit("-", 2)
        if host == socket.gethostname() and pid.isdigit() and not has_process(int(pid)):
            path.unlink(missing_ok=True)
    _remove_empty(folder)


def _clear_gangs(root: Path, before: float) -> None:
    """Remove the notes of gangs that began before this time and don't hold their stage any more."""
    for path in (root / GANGS).glob("*-*"):
        leases = root.glob(f"*/{path.name[:KEY_DIGITS]}*.lease")
        if _modified(path) < before and not any(is_held(lease) for lease in leases):
            shutil.rmtree(path, ignore_errors=True)
    _remove_empty(root / GANGS)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _entries(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for kind in sorted(root.iterdir()):
            # A kind may be linked to another disk; what lies there is cleared by hand.
            if kind.is_dir() and not kind.is_symlink() and not kind.name.startswith("."):
                # Of finished artifacts, whose names have no dot, there may be very many.
                yield from sorted(kind.glob("*.*"))


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")


def _disk_time(root: Path) -> float:
    """Now, by the clock of the disk; 0, before every file, where the disk cannot be asked."""
    return disk_time(root / f".{secrets.token_hex(6)}.now", otherwise=0.0)
