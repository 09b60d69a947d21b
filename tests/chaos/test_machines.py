"""Machines and ranks that are lost in the middle of a stage; what a run listens on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from chaos_evidence import Counts, Watch, assert_same_results, table
from chaos_processes import ROOT, Command
from chaos_sweeps import SMALL, give_sweeps, long_only, run_undisturbed


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of a head and two machines with a core each, all of them processes here."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@long_only
def test_a_machine_lost_in_the_middle_costs_time_and_nothing_else(
    cluster, folder, small_undisturbed
):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    with Watch(folder) as watch:
        command = Command(folder, ["small.yaml", "--address", cluster.address])
        command.wait_until_working(120)
        # The machine that works on a training when it has its first checkpoint.
        while not list(folder.glob("artifacts/*/*.partial/checkpoints/step-*.json")):
            assert not command.has_ended, command.err.read_text()
            time.sleep(0.02)
        cluster.remove_node(nodes[_busy(nodes)], allow_graceful=False)
        assert command.process.wait(timeout=400) == 0, command.err.read_text()[-3000:]
    counts = Counts.of(folder, 1, watch)
    print(counts)
    assert (counts.repeated, counts.lost) == (0, 0)
    assert counts.attempts > counts.stages
    assert_same_results(folder, small_undisturbed)


def _busy(nodes) -> int:
    """Which machine runs a stage: one of its workers is called by it."""
    for number, node in enumerate(nodes):
        (raylet,) = [p.process.pid for p in node.all_processes["raylet"]]
        children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
        titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children]
        if any(title.startswith(("ray::tokenizer", "ray::encoder")) for title in titles):
            return number
    return 0


@long_only
def test_a_gang_that_loses_a_rank_goes_on_from_its_checkpoint(folder, tmp_path_factory):
    gang = ["small.yaml", "--set", "resources.generator={workers: 2}"]
    undisturbed = run_undisturbed(give_sweeps(tmp_path_factory.mktemp("gang")), gang)
    with Watch(folder) as watch:
        command = Command(folder, gang)
        while not list(folder.glob("artifacts/generator/*.partial/checkpoints/step-*.json")):
            assert not command.has_ended, command.err.read_text()[-3000:]
            time.sleep(0.02)
        assert command.kill([command.ranks()[-1]]) == 1
        assert command.process.wait(timeout=600) == 0, command.err.read_text()[-3000:]
        command.end()
    counts = Counts.of(folder, 1, watch)
    print(counts)
    assert (counts.repeated, counts.lost) == (0, 0)
    assert counts.resumes >= 1
    assert_same_results(folder, undisturbed)


@long_only
@pytest.mark.parametrize("own", [False, True], ids=["of a cluster", "of a Ray of our own"])
def test_a_lost_head_is_told_and_the_next_run_goes_on(cluster, folder, small_undisturbed, own):
    if not own:
        cluster.add_node(num_cpus=2)
    where = [] if own else ["--address", cluster.address]
    command = Command(folder, ["small.yaml", *where])
    while not list(folder.glob("artifacts/*/*.partial/checkpoints/step-*.json")):
        assert not command.has_ended, command.err.read_text()
        time.sleep(0.02)
    (gcs,) = (
        command.servers("gcs_server")
        if own
        else [p.process.pid for p in cluster.head_node.all_processes["gcs_server"]]
    )
    os.kill(gcs, signal.SIGKILL)
    killed = time.monotonic()
    assert command.process.wait(timeout=120) == 1
    # Ray itself ends the process after a minute, without a word of ours.
    assert time.monotonic() - killed < 50
    command.end()
    said = command.err.read_text()
    assert "the head of Ray" in said
    assert "has not for 20 s" in said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert set(table(folder)["status"]) <= {"pending", "done"}
    (path,) = folder.glob("results/*/events.jsonl")
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["event"], last["status"]) == ("sweep_ended", "error")
    again = Command(folder, SMALL)
    assert again.process.wait(timeout=300) == 0, again.err.read_text()[-3000:]
    assert_same_results(folder, small_undisturbed)


@long_only
@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "gang"])
def test_a_run_listens_on_the_loopback_interface_only(folder, workers):
    request = ["--set", f"resources.generator={{workers: {workers}}}"]
    command = Command(folder, ["small.yaml", *request])
    heard: set[str] = set()
    ranks: set[str] = set()
    try:
        while not command.has_ended:
            heard |= _listening(command.members())
            ranks |= _listening(command.workers("RayTrainWorker"))
            time.sleep(0.1)
    finally:
        command.end()
    assert command.process.returncode == 0, command.err.read_text()[-3000:]
    assert heard
    assert bool(ranks) == (workers > 1)
    assert {address for address in heard if not address.startswith("127.")} == set()


def _listening(pids: list[int]) -> set[str]:
    """IPv4 and IPv6 addresses that processes accept TCP connections on."""
    inodes = {_socket(link) for pid in pids for link in _links(pid)}
    found = set()
    for sockets in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(sockets).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(_address(fields[1].partition(":")[0]))
    return found


def _links(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _socket(link: Path) -> str:
    try:
        return str(link.readlink()).removeprefix("socket:[").removesuffix("]")
    except OSError:
        return ""


def _address(text: str) -> str:
    """Of the kernel's hexadecimal words in the machine's own order of bytes."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    raw = b"".join(words)
    if len(raw) == 4 or raw[:12] == bytes(10) + b"\xff\xff":
        return ".".join(map(str, raw[-4:]))
    return "127.0.0.1 as ::1" if raw == bytes(15) + b"\x01" else raw.hex()
