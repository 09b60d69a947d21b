"""Ray that cannot be reached or started: the cause and the remedy, within half a minute."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest

from harness.executors import ray_connection, ray_environment
from harness.executors.ray_connection import connected
from harness.schema.reading import ConfigError

ROOT = Path(__file__).parents[3]


def message(address: str) -> str:
    with pytest.raises(ConfigError) as error, connected(address, print):
        pass
    return str(error.value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says anything."""
    with create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def accept() -> None:
            try:
                while True:
                    accepted.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(2)
        # What it accepts at the last moment is closed too.
        thread.join()
        for connection in accepted:
            connection.close()


def test_a_closed_port_is_told_at_once():
    started = time.monotonic()
    said = message("127.0.0.1:9")
    assert time.monotonic() - started < 5
    assert "Ray at '127.0.0.1:9' must answer, but does not (ConnectionRefusedError" in said
    assert "check the address" in said


@pytest.mark.parametrize("address", ["somewhere", "host:port", ":6379"])
def test_an_address_of_another_form_is_refused(address):
    assert "it is not HOST:PORT" in message(address)


def test_a_port_that_accepts_and_says_nothing_is_given_up(silent_port, monkeypatch):
    monkeypatch.setattr(ray_connection, "ANSWER_S", 3.0)
    started = time.monotonic()
    said = message(f"127.0.0.1:{silent_port}")
    assert time.monotonic() - started < 15
    assert "accepts connections but does not answer as Ray in 3 s" in said


def test_the_time_for_an_answer_keeps_the_promise_of_half_a_minute():
    assert ray_environment.ACCEPT_S + ray_connection.ANSWER_S < 30


HEAD = """
import sys, time, ray
context = ray.init(address="local", include_dashboard=False, num_cpus=1, logging_level="ERROR",
                   object_store_memory=80 * 2**20)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


def test_a_refused_token_is_named_with_both_remedies(monkeypatch):
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    head = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HEAD],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-the-cluster" * 3},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert head.stdout is not None
    try:
        address = head.stdout.readline().strip()
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "of-this-process" * 3)
        started = time.monotonic()
        said = message(address)
    finally:
        head.communicate("")
    assert time.monotonic() - started < 30
    assert "refuses it" in said
    assert "RAY_AUTH_MODE=token with RAY_AUTH_TOKEN" in said
    assert "RAY_AUTH_MODE=disabled" in said


ALONE = """
import os, subprocess
from harness.executors.ray_environment import prepare
prepare(None)
import ray
from harness.executors.ray_connection import connected
with connected(None, print):
    session = ray._private.worker._global_node.get_session_dir_path()
    print("session", session)
    print("mode", oct(os.stat(os.path.dirname(os.path.dirname(session))).st_mode & 0o777)[2:])
    sockets = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True).stdout
    children = ["ps", "-o", "pid=", "--ppid", str(os.getpid())]
    family = subprocess.run(children, capture_output=True, text=True).stdout.split()
    for line in sockets.splitlines():
        if any(f"pid={pid}," in line for pid in family):
            print("listens", line.split()[3])
"""


def test_an_unwritable_home_and_a_long_temporary_path_do_not_keep_ray_from_starting(tmp_path):
    long_path = tmp_path / ("long" * 20)
    long_path.mkdir()
    left_out = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": "/proc/nowhere", "TMPDIR": str(long_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # While Ray is connected, standard output is kept clear of what it prints.
    assert done.stdout == ""
    (session,) = [line.split()[1] for line in done.stderr.splitlines() if "session" in line]
    folder = Path(session).parents[1]
    assert folder.parent == Path("/tmp")
    assert "mode 700" in done.stderr
    # It goes with the Ray whose it was.
    assert not folder.exists()
    listening = [line.split()[1] for line in done.stderr.splitlines() if "listens" in line]
    assert listening
    assert all("127.0.0.1" in address for address in listening), listening


@pytest.mark.parametrize(
    "refusal", [FileNotFoundError(2, "No such file"), OSError(30, "Read-only")]
)
def test_a_temporary_folder_that_cannot_be_used_is_to_be_replaced(monkeypatch, refusal):
    def refuse(*_, **__) -> None:
        raise refusal

    monkeypatch.setattr("ray.init", refuse)
    with (
        pytest.raises(ConfigError, match="set RAY_TMPDIR to a folder of your own"),
        connected(None, print),
    ):
        pass


@pytest.mark.parametrize(
    ("free_mib", "size_mib", "noted"),
    [(25_000, 200, False), (120, 120, False), (75, 75, False), (64, 75, True), (None, 75, True)],
)
def test_rays_object_store_fits_shared_memory_or_the_user_is_told(free_mib, size_mib, noted):
    free = None if free_mib is None else free_mib * 2**20
    size, note = ray_environment.object_store(free)
    assert size == size_mib * 2**20
    assert ("docker run --shm-size=1g" in note) == noted


IN_SMALL_SHARED_MEMORY = """
import sys
from harness.executors.ray_environment import prepare
prepare(None)
import ray
from harness.executors.ray_connection import connected
with connected(None, print):
    content = bytes(2**20)
    assert ray.get(ray.remote(lambda: content).remote()) == content
"""


def test_shared_memory_of_a_container_is_enough_and_is_told():
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    own_mounts = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*own_mounts, mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    done = subprocess.run(
        [*own_mounts, f'{mount} && exec "$@"', "sh", sys.executable, "-c", IN_SMALL_SHARED_MEMORY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "note: /dev/shm has 64 MiB free, less than the 75 MiB" in done.stderr


def test_shared_memory_that_is_absent_is_to_be_mounted(monkeypatch):
    def refuse(*_, **__) -> None:
        raise FileNotFoundError(2, "No such file or directory: '/dev/shm'")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(ConfigError, match="mount a file system in memory at /dev/shm"):
        connected(None, print).__enter__()


TOO_LATE = """
import ray
from harness.executors.ray_connection import connected
with connected(None, print):
    pass
"""


def test_a_ray_that_listens_beyond_loopback_because_it_was_imported_first_is_told():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TOO_LATE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "not on the loopback interface alone" in done.stderr


def test_a_long_temporary_path_without_a_short_one_names_the_variable(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/somewhere/" + "deep/" * 20)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="set RAY_TMPDIR to a short path"):
        ray_environment.session_folder().__enter__()


def test_every_session_has_a_new_folder_of_its_users_own(monkeypatch):
    place = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", place)
    with ray_environment.session_folder() as one, ray_environment.session_folder() as other:
        assert one.parents[1] == other.parents[1] == Path(os.environ["RAY_TMPDIR"])
        assert one != other
        assert one.parent.stat().st_mode & 0o777 == 0o700
    assert not one.parent.exists()
    # Its logs say why a Ray has failed.
    with pytest.raises(OSError), ray_environment.session_folder() as kept:
        raise OSError
    assert kept.parent.is_dir()
    shutil.rmtree(place)


def test_a_cluster_that_runs_on_this_machine_is_mentioned(tmp_path, monkeypatch, silent_port):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_environment.running_cluster() == ""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{silent_port}")
    assert ray_environment.running_cluster() == f"127.0.0.1:{silent_port}"
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:9")
    assert ray_environment.running_cluster() == ""
