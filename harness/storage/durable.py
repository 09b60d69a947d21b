"""Writes files that are whole or absent, and words the errors of the file system.

A file is written beside its place, flushed to the disk and then renamed. The folder is flushed too,
so that a power cut cannot take a rename back after a later one has reached the disk.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_UNSUPPORTED = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP)


class StorageError(OSError):
    """The file system failed: a full or read-only disk, a folder that vanished, a broken device."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is pickled with its message alone.
        return type(self), (self.errno, self.message)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path; its file replaces `path` when the block ends without an error. Of two
    processes that write it, one wins; a StorageError leaves `path` as it was, nothing beside it."""
    # A random name, because two processes may write the same file at once; absolute, because some
    # libraries take a path such as `s3:x/table` for an address.
    temporary = path.absolute().with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with storage_errors(path):
        try:
            yield temporary
            # Before the rename: a file system may write the name first, and a power cut would then
            # leave an empty file under it.
            if durable:
                flush_file(temporary)
            # Some libraries make their files 0600, whatever the umask says.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            flush_folder(path.parent)


@cache
def _umask() -> int:
    """The umask of this process."""
    # Linux tells it; elsewhere it can only be read by setting it, for all threads.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; the group's where the folder above is the group's."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    shared = stat.S_ISGID | stat.S_IWGRP
    if folder.parent.stat().st_mode & shared == shared:
        # A group works here, whatever the umask of this user says.
        folder.chmod(folder.stat().st_mode | stat.S_IWGRP)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that was still being written, by `replacing` or by safetensors."""
    return path.name.endswith(".tmp") or path.name.startswith(".tmp")


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a UTF-8 file that is whole or absent."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; empty where it is absent, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a JSON file that is whole or absent; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", durable=durable)


def flush_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk; file systems that cannot are left alone."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def disk_time(probe: Path, *, otherwise: float) -> float:
    """Now, by the clock of the disk that `probe` lies on; `otherwise` where it cannot be asked."""
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return otherwise
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """sha256 of a file's bytes; a process reads it once while size, time and inode stay."""
    status = path.stat()
    return _known_sha256(path, status.st_size, status.st_mtime_ns, status.st_ino)


def difference(path: Path, recorded: str) -> str:
    """How a file differs from its recorded sha256, in words; empty where it does not."""
    try:
        found = known_sha256(path)
    except FileNotFoundError:
        found = "absent"
    return "" if found == recorded else f"must have sha256 {recorded}, but is {found}"


# Without a limit: a folder is hashed in order, and a cache that is smaller than the folder would
# have forgotten each file when it comes again.
@cache
def _known_sha256(path: Path, _size: int, _modified_ns: int, _inode: int) -> str:
    return file_sha256(path)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refused while `path` was written (an `OSError`, or safetensors'
    error that stands for one) into a `StorageError`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(path, error.errno or errno.EIO, error.strerror or str(error)) from error
    # safetensors is written in Rust and gives the system's error number in its text only.
    except SafetensorError as error:
        if found := _RUST_ERROR.search(str(error)):
            raise storage_error(path, int(found[1]), os.strerror(int(found[1]))) from error
        raise


def storage_error(path: Path, number: int, reason: str) -> StorageError:
    """The error of a write to `path`, with its cause, the free space and the remedy."""
    if number in _FULL:
        reason += f" ({_free_space(path)})"
        remedy = "free space there, or give a --store and --results on another disk"
    elif number == errno.EFBIG:
        remedy = "raise the limit of file sizes (ulimit -f)"
    elif number in _FORBIDDEN:
        remedy = "make the folder writable, or give another --store and --results"
    else:
        remedy = "check the disk or the mount"
    return StorageError(
        number,
        f"{path} must be written, but the file system says: {reason}; {remedy}, and run the same "
        "command again: what is finished and the last checkpoint are kept",
    )


def _free_space(path: Path) -> str:
    for folder in path.parents:
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            return f"{usage.free / 2**20:,.1f} of {usage.total / 2**20:,.0f} MiB free"
    return "free space unknown"
