"""How workers of a gang find and reach each other."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.execution.stage_run import Outcome
from harness.executors import ray_gang
from harness.executors.ray_gang import INTERFACES, free_address, keep_to_loopback
from harness.machine import world
from harness.machine.world import to_own_device

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
import torch
from harness.machine.world import join
rank, size, rendezvous = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with join(rank, size, rendezvous, patience_s=60.0) as world:
    print(world.gather((rank, torch.full((2,), rank))))
    print(world.patient_group._get_backend(torch.device("cpu")).options._timeout.days)
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
    values = "[(0, tensor([0, 0])), (1, tensor([1, 1]))]"
    assert said == [f"{values}\n7", "[]\n7"]


def test_tensors_of_another_workers_gpu_come_to_this_ones(monkeypatch):
    class Storage:
        def cuda(self):
            return "on this worker's"

    storage = Storage()
    assert to_own_device(storage, "cuda:3") == "on this worker's"
    assert to_own_device(storage, "cpu") is storage


def test_a_lack_of_memory_in_an_exchange_is_no_lost_worker():
    with pytest.raises(torch.OutOfMemoryError), world._losses_told():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(world.WorkerLost), world._losses_told():
        raise RuntimeError("NCCL communicator was aborted")


def test_a_worker_that_fails_tells_the_outcome_of_its_gang():
    failed = Outcome(
        key="k", status="failed", error="no memory", failure="device_memory", again=True
    )
    raised = pickle.loads(pickle.dumps(ray_gang.WorkerFailed(failed)))  # noqa: S301
    ended: Any = RuntimeError("training failed")
    ended.worker_failures = {0: world.WorkerLost("another one has ended"), 1: raised}
    assert ray_gang._failed("k", ended) == failed
    assert ray_gang._failed("k", RuntimeError("gone")).error == "RuntimeError: gone"


def test_an_address_of_ipv6_is_told_apart_from_its_port():
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        address = free_address("::1")
    except OSError:
        pytest.skip("needs an IPv6 loopback address")
    assert address.startswith("tcp://[::1]:")
