"""How workers of a gang find and reach each other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.executors.ray_gang import INTERFACES, free_address, keep_to_loopback

ROOT = Path(__file__).parents[3]


@pytest.fixture
def no_interface(monkeypatch):
    for name in INTERFACES:
        # Set first, so that it is put back to absent.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_workers_of_one_machine_speak_over_its_loopback_interface(no_interface):
    keep_to_loopback()
    named = {os.environ[name] for name in INTERFACES}
    assert named <= {name for _, name in socket.if_nameindex()}
    assert len(named) == 1


def test_an_interface_that_the_user_names_is_kept(no_interface, monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    keep_to_loopback()
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"


RANK = """
import sys
from harness.machine.world import join
rank, size, rendezvous = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with join(rank, size, rendezvous, patience_s=60.0) as world:
    print(world.gather(rank))
"""


def test_workers_of_a_cluster_meet_at_a_port_of_the_first_ones_machine():
    address = free_address("127.0.0.1")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), "2", address],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=90)[0].strip() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert said == ["[0, 1]", "[]"]


def test_an_address_of_ipv6_is_told_apart_from_its_port():
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        address = free_address("::1")
    except OSError:
        pytest.skip("needs an IPv6 loopback address")
    assert address.startswith("tcp://[::1]:")
