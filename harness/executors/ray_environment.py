"""Surroundings that Ray needs: set before Ray is imported, and told where they cannot be had.

Imports no Ray itself, because Ray reads some of these variables when it is imported.
"""

import os
import secrets
import socket
import tempfile
from pathlib import Path

MAX_SOCKET_BYTES = 107
"""Length of a Unix socket's path that Linux allows."""
SESSION_BYTES = 70
"""What Ray appends to its temporary folder: `/session_<time>_<process>/sockets/plasma_store`."""


def prepare(address: str | None) -> None:
    """Set what Ray reads on import; call it before the first import of Ray.

    A Ray of our own listens on the loopback interface only and has a random token of its own, so
    that it writes none into the home folder: there it would be taken up later by every cluster that
    is started on this machine, and the folder need not be writable.

    Args:
        address: Of a running cluster; None where Ray is started here.
    """
    # With `uv run`, Ray would build the environment anew for every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The name is of its first use; in fact it keeps Ray on 127.0.0.1 everywhere.
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def temporary_folder() -> str | None:
    """Where Ray's session goes: its own choice (None), or a short path where that is too long.

    Raises:
        ValueError: The usual folder is too long, and no short one can be written.
    """
    usual = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    if len(os.fsencode(usual)) + SESSION_BYTES <= MAX_SOCKET_BYTES:
        return None
    for short in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
        if os.access(short, os.W_OK | os.X_OK):
            # A folder of one's own: another user's Ray may have made /tmp/ray.
            return str(short / f"ray-{os.getuid()}")
    limit = MAX_SOCKET_BYTES - SESSION_BYTES
    raise ValueError(
        f"Ray's temporary folder must be at most {limit} bytes long, but {str(usual)!r} is longer "
        "and /tmp, /var/tmp and /dev/shm cannot be written; set RAY_TMPDIR to a short path"
    )


def running_cluster() -> str:
    """Address of a cluster that `ray start` has begun on this machine and that answers, or ''."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    try:
        address = (folder / "ray_current_cluster").read_text(encoding="utf-8").strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=1.0):
            return address
    except (OSError, ValueError):
        return ""
