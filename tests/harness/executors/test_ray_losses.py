"""Machines and workers that are lost in the middle of a stage: it goes on elsewhere, from its
checkpoint."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config.encoders import InDomainEncoder
from harness.config.resources import Resources
from harness.config.training import TrainingConfig
from harness.data.digits import DigitsConfig
from harness.executors.inline import InlineExecutor
from harness.executors.ray_executor import RayExecutor
from harness.stages.encoder.kind import EncoderStage
from harness.stages.registry import kinds_of_sweeps
from harness.stages.stage import Stage
from harness.storage.artifacts import Store

ROOT = Path(__file__).parents[3]
SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
STEPS = 2000
PATIENCE_S = 180.0

cluster_utils: Any = pytest.importorskip("ray.cluster_utils")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two machines with two each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        head = {"num_cpus": 0, "_system_config": {**health, "health_check_failure_threshold": 4}}
        machines = cluster_utils.Cluster(initialize_head=True, head_node_args={**head, **small})
        for _ in range(2):
            machines.add_node(num_cpus=2, object_store_memory=80 * 2**20)
        yield machines
        machines.shutdown()


def encoder(seed: int) -> Stage:
    network = InDomainEncoder(
        name="vit_tiny_patch16_224",
        model_args=SMALL,
        seed=seed,
        training=TrainingConfig(steps=STEPS, batch_size=8, learning_rate=1e-3),
    )
    config = EncoderStage(encoder=network, data=DigitsConfig(), weights="trained here")
    return Stage(kind="encoder", config=config, inputs={}, label=f"seed {seed}")


def run(stage: Stage, root: Path, address: str, disturb: Callable[[], None], **request):
    """Run a stage on the cluster; `disturb` is called once it has a checkpoint."""
    resources = {
        kind: Resources(gpus=0, checkpoint_every_s=0.2, **request) for kind in kinds_of_sweeps()
    }
    events: list[str] = []
    partial = root / "encoder" / f"{stage.key}.partial"

    def wait_and_disturb() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not list(partial.glob("checkpoints/step-*.json")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        disturb()

    thread = threading.Thread(target=wait_and_disturb)
    thread.start()
    executor = RayExecutor(address)
    outcomes = executor.run([stage], root, resources, lambda event: events.append(event.what))
    thread.join()
    return outcomes[stage.key], events


def process_of(log: Path) -> int:
    """The process that wrote a stage's log last."""
    return int(re.findall(r"attempt on \S+, process (\d+)", log.read_text())[-1])


def parent_of(process: int) -> int:
    status = Path(f"/proc/{process}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def test_a_stage_whose_machine_is_lost_goes_on_on_another_to_the_same_bits(cluster, tmp_path):
    stage, root = encoder(seed=1), tmp_path / "store"
    log = root / "encoder" / f"{stage.key}.partial" / "log.txt"

    def lose_machine() -> None:
        raylet = parent_of(process_of(log))
        (lost,) = [
            node
            for node in cluster.worker_nodes
            if node.all_processes["raylet"][0].process.pid == raylet
        ]
        cluster.remove_node(lost, allow_graceful=False)

    outcome, events = run(stage, root, cluster.address, lose_machine)
    cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    assert outcome.status == "done", outcome
    assert "again" in events
    artifact = Store(root).get("encoder", stage.key)
    assert artifact.record["cost"]["attempts"] > 1
    resources = {kind: Resources(gpus=0) for kind in kinds_of_sweeps()}
    InlineExecutor().run([stage], tmp_path / "alone", resources, lambda event: None)
    alone = Store(tmp_path / "alone").get("encoder", stage.key)
    ours, theirs = (a.path / "model.safetensors" for a in (artifact, alone))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_gang_that_loses_a_worker_starts_again_and_goes_on_from_its_checkpoint(cluster, tmp_path):
    stage = encoder(seed=2)
    log = tmp_path / "encoder" / f"{stage.key}.partial" / "log-worker1.txt"
    outcome, events = run(
        stage,
        tmp_path,
        cluster.address,
        lambda: os.kill(process_of(log), signal.SIGKILL),
        workers=2,
    )
    assert outcome.status == "done", outcome
    assert events == ["started", "again", "started", "ended"]
    artifact = Store(tmp_path).get("encoder", stage.key)
    cost = artifact.record["cost"]
    assert (cost["workers"], cost["attempts"]) == (2, 2)
    assert (artifact.path / "log-worker1.txt").read_text().count("attempt on") == 2
    assert not (tmp_path / ".gangs").exists()
