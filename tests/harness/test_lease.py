"""Leases: held while the holder lives, taken over when it is dead."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.lease import EXPIRES_S, StageBusy, hold, is_held


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "key.lease"


def write(path: Path, **holder) -> None:
    path.write_text(json.dumps({"host": socket.gethostname(), "token": "theirs", **holder}))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_lease_is_held_until_the_block_ends(path):
    with hold(path) as lease:
        assert is_held(path)
        assert lease.is_ours()
        with pytest.raises(StageBusy, match="held by another process"), hold(path):
            pass
    assert not is_held(path)
    assert list(path.parent.iterdir()) == []


def test_an_error_in_the_block_gives_the_lease_back(path):
    with pytest.raises(KeyboardInterrupt), hold(path):
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_process_that_died_holds_nothing(path):
    program = (
        "import os, sys; from pathlib import Path; from harness.lease import hold; "
        "held = hold(Path(sys.argv[1])); held.__enter__(); os._exit(0)"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
    )
    assert path.exists()
    with hold(path) as lease:
        assert lease.is_ours()


def test_another_process_with_a_dead_holders_number_holds_nothing(path):
    write(path, pid=os.getpid(), started="another boot 1")
    with hold(path) as lease:
        assert lease.is_ours()


def test_another_machines_lease_holds_until_its_heartbeat_is_old(path):
    write(path, host="elsewhere", pid=1, started="there")
    age(path, EXPIRES_S - 20)
    with pytest.raises(StageBusy), hold(path):
        pass
    age(path, EXPIRES_S + 1)
    with hold(path) as lease:
        assert lease.is_ours()


def test_a_lease_that_cannot_be_read_holds_until_it_is_old(path):
    path.write_text("")
    with pytest.raises(StageBusy), hold(path):
        pass
    age(path, EXPIRES_S + 1)
    with hold(path):
        pass


def test_a_lease_is_touched_while_it_is_held(path, monkeypatch):
    monkeypatch.setattr("harness.lease.HEARTBEAT_S", 0.02)
    with hold(path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 0


def test_a_holder_that_lost_its_lease_leaves_the_new_holders_alone(path):
    with hold(path) as lease:
        write(path, host="elsewhere", pid=1, started="there")
        assert not lease.is_ours()
    assert is_held(path)
