"""Leases: held while the holder lives, taken over when it is dead."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.storage.durable import StorageError
from harness.storage.lease import (
    EXPIRES_S,
    StageBusy,
    hold,
    is_held,
    process_table,
    surely_lives,
    wait_and_hold,
)


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("harness.storage.lease.HEARTBEAT_S", 0.1)
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
        "import os, sys; from pathlib import Path; from harness.storage.lease import hold; "
        "held = hold(Path(sys.argv[1])); held.__enter__(); os._exit(0)"
    )
    root = str(Path(__file__).parents[3])
    subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": root},
        check=True,
    )
    assert path.exists()
    with hold(path) as lease:
        assert lease.is_ours()


def test_another_process_with_a_dead_holders_number_holds_nothing(path):
    write(path, table=process_table(), pid=os.getpid(), started="1")
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


def test_of_a_lease_only_a_holder_that_is_known_to_live_is_sure(path, monkeypatch):
    assert not surely_lives(path)
    with hold(path):
        assert surely_lives(path)
        monkeypatch.setattr(Path, "open", _fails)
        assert not surely_lives(path)
    monkeypatch.undo()
    path.write_text('{"table": "elsewhere"}')
    long_ago = time.time() - 2 * EXPIRES_S
    os.utime(path, (long_ago, long_ago))
    assert is_held(path)
    assert not surely_lives(path)


def _fails(*_, **__):
    raise OSError(errno.EIO, "input/output error")


def test_a_lease_is_touched_while_it_is_held(path, monkeypatch):
    monkeypatch.setattr("harness.storage.lease.HEARTBEAT_S", 0.02)
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


def test_the_same_host_name_in_another_pid_namespace_is_another_machine(path):
    boot = process_table().partition(" ")[0]
    write(path, table=f"{boot} pid:[1]", pid=2**22, started="7")
    with pytest.raises(StageBusy), hold(path):
        pass


def test_a_suspended_holder_of_this_machine_holds_however_old_its_lease_is(path):
    program = (
        "import os, signal, sys; from pathlib import Path; from harness.storage.lease import hold; "
        "held = hold(Path(sys.argv[1])); held.__enter__(); print('held', flush=True); "
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        age(path, 10 * EXPIRES_S)
        with pytest.raises(StageBusy, match=f"process {holder.pid} on"), hold(path):
            pass
        holder.kill()


@pytest.mark.parametrize("jump_s", [-1e6, 1e6], ids=["back", "forward"])
def test_a_clock_that_jumps_takes_no_lease_from_a_living_holder(path, jump_s):
    with hold(path):
        # To an observer elsewhere: a lease touched long ago or in the future, and touched again.
        write(path, host="elsewhere", table="another", pid=1, started="there")
        age(path, jump_s)
        touch = threading.Timer(0.15, lambda: os.utime(path))
        touch.start()
        with pytest.raises(StageBusy), hold(path):
            pass
        touch.join()


def test_a_dead_holders_lease_from_the_future_is_taken_over(path):
    write(path, host="elsewhere", table="another", pid=1, started="there")
    age(path, -1e6)
    with hold(path) as lease:
        assert lease.is_ours()


def test_leases_need_no_hard_links(path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    with hold(path) as lease:
        assert lease.is_ours()
        with pytest.raises(StageBusy), hold(path):
            pass
    write(path, table=process_table(), pid=os.getpid(), started="1")
    with hold(path) as lease:
        assert lease.is_ours()
    assert list(path.parent.iterdir()) == []


def test_a_link_whose_answer_was_lost_is_ours(path, monkeypatch):
    link = os.link

    def repeat(source, target) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr("os.link", repeat)
    with hold(path) as lease:
        assert lease.is_ours()


def test_a_full_disk_leaves_no_half_lease(path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(StorageError, match=r"key.lease must be written.*free space"), hold(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_lease_that_another_took_over_is_not_gone_on_with(path):
    with hold(path) as lease:
        lease.require()
        write(path, host="elsewhere", table="another", pid=1, started="there")
        with pytest.raises(StageBusy, match="taken over"):
            lease.require()


def test_who_waits_for_a_lease_gets_it_when_it_is_given_back(path):
    order = []

    def wait() -> None:
        with wait_and_hold(path, poll_s=0.01):
            order.append("second")

    with hold(path):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_of_many_processes_that_find_a_dead_lease_one_at_a_time_holds_it(path):
    write(path, table=process_table(), pid=os.getpid(), started="1")
    program = (
        "import sys; from pathlib import Path\n"
        "from harness.storage.lease import StageBusy, wait_and_hold\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(10):\n"
        "    with wait_and_hold(path, poll_s=0.001):\n"
        "        inside = path.with_name('inside'); inside.touch(exist_ok=False); inside.unlink()\n"
        "        with path.with_name('count').open('a') as file: file.write('.')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", program, str(path)]
    racers = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [racer.wait(timeout=60) for racer in racers] == [0] * 3
    assert len(path.with_name("count").read_text()) == 30
