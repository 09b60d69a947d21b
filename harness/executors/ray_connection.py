"""Starts Ray on this machine, or connects to a cluster, and words the failures."""

import contextlib
import errno
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_config import JobConfig

from harness.executors.ray_environment import (
    free_shared_memory,
    object_store,
    prepare,
    require_open,
    running_cluster,
    session_folder,
    unanswered,
)
from harness.schema.imported import own_code
from harness.schema.reading import ConfigError

ANSWER_S = 20.0
"""Seconds that a cluster has to answer as Ray does."""
REFUSED_TOKEN = ("Unauthenticated", "InvalidAuthToken", "AuthenticationError")
"""Words in Ray's errors where tokens differ."""

UNWRITABLE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS)
"""Errors of a temporary folder that cannot be used."""

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this program's packages: a checkout, or that of installed packages."""

PROBE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("connected")
"""

Say = Callable[[str], None]


@contextlib.contextmanager
def connected(address: str | None, say: Say) -> Iterator[None]:
    """Be connected to Ray until the block ends: to `HOST:PORT`, to a running cluster (`auto`), or
    to one started here (None). Raises ConfigError, which says why, within half a minute."""
    # Ray prints what its machines complain of, in spite of `log_to_driver`; ours is JSON there.
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as session:
        _connect(address, say, session)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None, say: Say, session: contextlib.ExitStack) -> None:
    prepare(address)
    if address:
        require_open(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    quiet["job_config"] = _job()
    folder = None
    try:
        if address:
            # Tried in a process that can be ended: in ours Ray would wait for minutes.
            _require_answer(address)
            ray.init(address=address, runtime_env=environment_of_workers(), **quiet)
        else:
            folder = session.enter_context(session_folder())
            _start(say, {**quiet, "_temp_dir": str(folder)})
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(_message(address, error, folder), path="--address") from error


def environment_of_workers() -> dict[str, Any]:
    """What a cluster's machines get of the user's own code, found before anything in their folders.
    What is installed is not sent: `RayMachines.require_code` refuses a machine that lacks it."""
    modules = [str(path) for path in own_code()]
    return {"py_modules": modules} if modules else {}


def _job() -> JobConfig:
    """Have workers look into the working directory first only where this process does: Ray's always
    do, and there may be a `models` or `harness` of the user's own."""
    job = JobConfig()
    if Path(sys.path[0] or ".").resolve() != Path.cwd():
        # Private names of Ray: the working directory is left out, as if it were a client's, and
        # these folders come before all others. So a checkout is found that is not installed.
        # Installed packages are found anyway, after the standard library.
        job._client_job = True
        if ROOT.name not in ("site-packages", "dist-packages"):
            job._py_driver_sys_path = [str(ROOT)]
    return job


def _start(say: Say, quiet: dict[str, Any]) -> None:
    if other := running_cluster():
        say(
            f"note: a Ray cluster runs on this machine ({other}); this run starts a Ray of its own "
            "beside it, on the same CPUs and GPUs. To run on the cluster, give --address auto"
        )
    # Where shared memory is small, as in containers, Ray would take the disk and tell nobody.
    store_bytes, note = object_store(free_shared_memory())
    if note:
        say(note)
    say("starting Ray")
    # `local` starts a Ray of our own even where a cluster runs or RAY_ADDRESS is set.
    with _heedless_of_hangups():
        ray.init(address="local", include_dashboard=False, object_store_memory=store_bytes, **quiet)
    found = ray.nodes()[0]["NodeManagerAddress"]
    if not ip_address(found).is_loopback:
        say(
            f"note: Ray listens on {found}, not on the loopback interface alone: "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER asks for it, or Ray was imported before "
            "harness.executors.ray_environment.prepare was called"
        )


@contextlib.contextmanager
def _heedless_of_hangups() -> Iterator[None]:
    """Start Ray's processes so that a closed terminal ends this process's stages and not them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _require_answer(address: str) -> None:
    """Make sure in seconds that a cluster answers; Ray waits for minutes. Raises OSError where none
    does, PermissionError where the token is refused."""
    said, ended = _probe(address)
    if any(word in said for word in REFUSED_TOKEN):
        raise PermissionError("the cluster refuses this process's token")
    if not ended:
        raise TimeoutError(f"it accepts connections but does not answer as Ray in {ANSWER_S:g} s")
    if "connected" not in said.splitlines():
        lines = [line for line in said.splitlines() if line.strip()]
        raise ConnectionError(lines[-1] if lines else "the connection ended")


def _probe(address: str) -> tuple[str, bool]:
    """Connect in a process that can be ended: what it said, and whether it ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said, until = b"", time.monotonic() + ANSWER_S
    with process, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while time.monotonic() < until:
                if not selector.select(timeout=max(0.0, until - time.monotonic())):
                    continue
                more = os.read(process.stdout.fileno(), 65536)
                said += more
                text = said.decode(errors="replace")
                if not more or any(word in text for word in REFUSED_TOKEN):
                    return text, True
            return said.decode(errors="replace"), False
        finally:
            process.kill()


def _message(address: str | None, error: Exception, folder: Path | None) -> str:
    cause = " ".join(str(error).split())[:300]
    told = f"({type(error).__name__}: {cause})"
    if address and isinstance(error, PermissionError):
        return (
            f"Ray at {address!r} must accept this process's token, but refuses it {told}; a token "
            "in ~/.ray/auth_token turns authentication on for every cluster that is started on its "
            "machine. Give this process the cluster's token: RAY_AUTH_MODE=token with "
            "RAY_AUTH_TOKEN=... or the head's ~/.ray/auth_token; or start every node and this "
            "command with RAY_AUTH_MODE=disabled"
        )
    if address:
        return unanswered(address, told)
    return (
        f"Ray must start on this machine, but does not {told}; {_remedy(cause, folder)}, or run "
        "with --executor inline"
    )


def _remedy(cause: str, folder: Path | None) -> str:
    if "/dev/shm" in cause:
        return "mount a file system in memory at /dev/shm (mount -t tmpfs tmpfs /dev/shm)"
    if "AF_UNIX" in cause or "temporary folder" in cause:
        return "set RAY_TMPDIR to a short path such as /tmp/r"
    if "auth_token" in cause or ".ray" in cause:
        return "the home folder cannot be written: leave RAY_AUTH_MODE unset, or set it to disabled"
    if "Permission" in cause or any(f"Errno {number}]" in cause for number in UNWRITABLE):
        return "set RAY_TMPDIR to a folder of your own that can be written, such as /tmp/r"
    if "No space" in cause or "Errno 28" in cause:
        return "a disk is full: free space, or set RAY_TMPDIR to a folder on another one"
    return f"look into session_*/logs below its temporary folder, {folder}"
