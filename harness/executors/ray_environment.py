"""Prepares what Ray needs of this machine, before Ray is imported.

Imports no Ray itself, because Ray reads some of these variables when it is imported.
"""

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.schema.reading import ConfigError

ACCEPT_S = 3.0
"""Seconds that a cluster has to accept a connection."""
MAX_SOCKET_BYTES = 107
"""Length of a Unix socket's path that Linux allows."""
SESSION_BYTES = 70
"""Length that Ray adds to that folder: `/session_<time>_<process>/sockets/plasma_store`."""

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray puts its object store, and NCCL the buffers between the GPUs of one machine."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Size of Ray's object store where there is room; only configurations and outcomes go through."""
LEAST_OBJECT_STORE_BYTES = 75 * 2**20
"""The smallest object store that Ray accepts."""


def prepare(address: str | None) -> None:
    """Set what Ray reads on import; call it before the first import of Ray.

    A Ray of our own listens on the loopback interface only and has a random token of its own, so
    that it writes none into the home folder: there it would be taken up later by every cluster that
    is started on this machine, and the folder need not be writable. `address` is that of a running
    cluster; None where Ray is started here.
    """
    # With `uv run`, Ray would build the environment anew for every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The name is of its first use; in fact it keeps Ray on 127.0.0.1 everywhere.
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def session_folder() -> Iterator[Path]:
    """Give a new folder of this user alone for Ray's session: its sockets take orders. It is
    removed when the block ends, and stays for its logs where that ends by an error.

    ValueError or OSError where the usual place is too long or cannot be written."""
    usual = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    short = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
    limit = MAX_SOCKET_BYTES - SESSION_BYTES - len("/ray-12345678/r")
    places = [usual, *(place for place in short if os.access(place, os.W_OK | os.X_OK))]
    place = next((place for place in places if len(os.fsencode(place)) <= limit), None)
    if place is None:
        raise ValueError(
            f"Ray's temporary folder must be at most {limit} bytes long, but {str(usual)!r} is "
            "longer and /tmp, /var/tmp and /dev/shm cannot be written; set RAY_TMPDIR to a short "
            "path"
        )
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=place))
    # Ray opens its own folder to everybody, so it gets one inside of ours.
    yield folder / "r"
    shutil.rmtree(folder, ignore_errors=True)


def object_store(free_bytes: int | None) -> tuple[int, str]:
    """Size of Ray's object store, and a note to the user where it does not fit shared memory, which
    has `free_bytes` (None: there is none). Ray then takes its temporary folder and tells nobody who
    has not asked for warnings."""
    if free_bytes is not None and free_bytes >= LEAST_OBJECT_STORE_BYTES:
        return min(free_bytes, OBJECT_STORE_BYTES), ""
    has = "is not there" if free_bytes is None else f"has {free_bytes / 2**20:.0f} MiB free"
    return LEAST_OBJECT_STORE_BYTES, (
        f"note: {SHARED_MEMORY} {has}, less than the {LEAST_OBJECT_STORE_BYTES / 2**20:.0f} MiB of "
        "Ray's object store, which goes to Ray's temporary folder instead and costs nothing there. "
        "NCCL needs it too: for stages of several GPUs give a container more "
        "(docker run --shm-size=1g)"
    )


def free_shared_memory() -> int | None:
    """Bytes that shared memory has free; None where there is none."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def require_open(address: str) -> None:
    """Refuse, in seconds and in the words of a run that connects, an address where nothing listens
    (`HOST:PORT`), or `auto` where no cluster runs."""
    try:
        place = os.environ.get("RAY_ADDRESS") or running_cluster() if address == "auto" else address
        if place in ("", "auto"):
            # Elsewhere than on Linux, Ray itself says so.
            running = list(Path("/proc").glob("[0-9]*/cmdline"))
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if running and not any(b"gcs_server" in path.read_bytes() for path in running):
                    raise ConnectionError("no cluster runs on this machine")
            return
        host, _, port = place.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("it is not HOST:PORT")
        with socket.create_connection((host, int(port)), timeout=ACCEPT_S):
            pass
    except (OSError, ValueError, OverflowError) as error:
        told = unanswered(address, f"({type(error).__name__}: {error})")
        raise ConfigError(told, path="--address") from error


def unanswered(address: str, told: str) -> str:
    """What to do where a cluster does not answer."""
    return (
        f"Ray at {address!r} must answer, but does not {told}; check the address (`ray status` "
        "on the head shows it), that the port is open from here, and that both sides have the "
        "same version of Ray, or leave --address out to start Ray on this machine"
    )


def running_cluster() -> str:
    """Address of a cluster that `ray start` has begun on this machine and that answers, or ''."""
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray/ray_current_cluster")
    try:
        if note.stat().st_uid not in (os.getuid(), 0):
            # Anybody may have written there where to connect to.
            return ""
        address = note.read_text(encoding="utf-8").strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=1.0):
            return address
    except (OSError, ValueError):
        return ""
