"""Stages of several workers: Ray Train starts them, and they join into one process group.

They join by `harness.machine.world.join`, not by Ray Train, whose rendezvous listens on every
interface. Workers on a Ray of our own meet at a file and speak over the loopback interface; those
of a cluster meet at a port of the first one's machine.

Ray Train's own retries and checkpoints are off: a gang that lost a worker ends, and the queue
starts it again on machines that live, where it resumes from the checkpoint in the store. So there
is one retry policy and one kind of checkpoint.
"""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.util import get_node_ip_address

from harness.config.resources import Resources
from harness.execution.failures import classify, most_telling, one_line
from harness.execution.stage_run import ALONE, Outcome, run_stage
from harness.executors.parcel import Parcel
from harness.machine.world import World, join
from harness.storage.leftovers import GANGS, KEY_DIGITS

SETTINGS = {
    # A lost worker is noticed within this many seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Output goes to the stage's log, where it is written.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Serves Ray's dashboard only.
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}
"""Settings of Ray Train."""
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Network interface that workers speak over."""
MEETING = "meeting"
"""Name of the file at which workers of one machine meet."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage on its way to its workers, one or several."""

    parcel: Parcel
    key: str
    store_root: Path
    resources: Resources
    each: Mapping[str, float]
    """Amounts that one worker holds."""
    nodes: Sequence[str]
    """Machine of each worker."""
    stop: Path
    """File in which the driver asks its stages to stop."""
    shared: bool
    """Whether its machines are those of a cluster, which workers reach each other over."""

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""
        return self.each.get("GPU", 0.0)

    def run(self, world: World = ALONE) -> Outcome:
        """Run the stage in this process, which is one of these workers."""
        stage, stop = self.parcel.open(), self.stop
        return run_stage(stage, self.store_root, self.resources, self.gpus, world=world, stop=stop)


class WorkerFailed(RuntimeError):
    """A worker's attempt failed, with the outcome that is its argument."""


def run_gang(gang: Job) -> Outcome:
    """Run a stage on its workers; called in a task that holds no resources itself."""
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    # Reading these takes seconds and a driver that starts no gang needs neither.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    # Every machine must see it; it holds Ray Train's own notes and goes when the gang ends.
    notes = gang.store_root / GANGS / f"{gang.key[:KEY_DIGITS]}-{secrets.token_hex(4)}"
    try:
        # Not in the store: its file system may have no locks, which a meeting needs.
        with tempfile.TemporaryDirectory(prefix="gang-", ignore_cleanup_errors=True) as folder:
            trainer = DataParallelTrainer(
                _work,
                train_loop_config={"gang": gang, "folder": Path(folder)},
                backend_config=_gpus_in_sight(),
                scaling_config=ScalingConfig(
                    num_workers=len(gang.nodes),
                    use_gpu=gang.gpus > 0,
                    resources_per_worker=dict(gang.each),
                    placement_strategy="PACK",
                    # The queue chose the machines; Ray would start a gang where it likes.
                    label_selector=[{"ray.io/node-id": node} for node in gang.nodes],
                ),
                run_config=RunConfig(
                    name="train",
                    storage_path=str(notes),
                    # Off: `failures` decides, and the checkpoint in the store is the only one.
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                ),
            )
            outcome = trainer.fit().return_value
        assert isinstance(outcome, Outcome), "the first worker returns its outcome"
        return outcome
    except Exception as error:
        return _failed(gang.key, error)
    finally:
        shutil.rmtree(notes, ignore_errors=True)
        with contextlib.suppress(OSError):
            notes.parent.rmdir()


def _gpus_in_sight() -> Any:
    """Have Ray Train show each worker the GPUs of all workers on its machine, so that NCCL reaches
    them directly, whatever its version."""
    from ray.train.backend import Backend, BackendConfig

    class InSight(Backend):
        share_cuda_visible_devices = True

    class InSightConfig(BackendConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return InSight

    return InSightConfig()


def _work(config: Mapping[str, Any]) -> Outcome:
    """One worker's part, in a process of its own; the first one's outcome is the stage's."""
    from ray.train import get_context

    gang: Job = config["gang"]
    _choose_device(gang)
    if gang.shared:
        rendezvous = _meeting_port()
    else:
        rendezvous = config["folder"] / MEETING
        keep_to_loopback()
    context = get_context()
    with join(
        context.get_world_rank(),
        context.get_world_size(),
        rendezvous,
        backend="nccl" if gang.gpus else "gloo",
    ) as world:
        outcome = gang.run(world)
        if gang.gpus and outcome.status in ("failed", "diverged"):
            # Raised, so that Ray Train ends the others at once: unlike gloo's, exchanges over NCCL
            # do not notice that a worker has left.
            raise WorkerFailed(outcome)
        return outcome


def _choose_device(gang: Job) -> None:
    """Let this worker use the device that it was given, and no other."""
    if not gang.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif torch.cuda.is_available():
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())


def keep_to_loopback() -> None:
    """Have the workers of one machine listen on its loopback interface, unless asked otherwise."""
    for name in INTERFACES:
        os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")


def _meeting_port() -> str:
    """Agree on an address at which the first worker will listen."""
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    return broadcast_from_rank_zero(
        free_address(get_node_ip_address()) if get_context().get_world_rank() == 0 else ""
    )


def free_address(host: str) -> str:
    """A port of this machine that nothing listens on, as a URL."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _failed(key: str, error: Exception) -> Outcome:
    """The outcome of a gang of which a worker failed, or died before it could return one."""
    errors = list(getattr(error, "worker_failures", {}).values()) or [error]
    outcomes = [
        each.args[0]
        if isinstance(each, WorkerFailed)
        else Outcome(key=key, status="failed", error=one_line(each), failure=classify(each))
        for each in errors
    ]
    return outcomes[most_telling([outcome.failure for outcome in outcomes])]
