"""Stages of several workers: Ray Train starts them and joins them into one process group.

Ray Train's own retries and checkpoints are off: a gang that lost a worker ends, and the queue
starts it again on machines that live, where it resumes from the checkpoint in the store. So there
is one retry policy and one kind of checkpoint.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.execution import Outcome, run_stage
from harness.failures import FailureKind, classify, most_telling, one_line
from harness.leftovers import GANGS, KEY_DIGITS
from harness.plan import Stage
from harness.resources import Resources
from harness.world import PATIENCE_S, World

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


@dataclass(frozen=True, kw_only=True)
class Gang:
    """A stage and its workers."""

    stage: Stage
    store_root: Path
    resources: Resources
    each: Mapping[str, float]
    """What one worker holds."""
    nodes: Sequence[str]
    """Machine of each worker."""
    stop: Path
    """File in which the driver asks its stages to stop."""

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""
        return self.each.get("GPU", 0.0)


def run_gang(gang: Gang) -> Outcome:
    """Run a stage on its workers; called in a task that holds no resources itself."""
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    # Reading these takes seconds and a driver that starts no gang needs neither.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # Every machine must see it; it holds Ray Train's own notes and goes when the gang ends.
    notes = gang.store_root / GANGS / f"{gang.stage.key[:KEY_DIGITS]}-{secrets.token_hex(4)}"
    backend = "nccl" if gang.gpus else "gloo"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"gang": gang},
        torch_config=TorchConfig(backend=backend, timeout_s=int(PATIENCE_S)),
        scaling_config=ScalingConfig(
            num_workers=len(gang.nodes),
            use_gpu=gang.gpus > 0,
            resources_per_worker=dict(gang.each),
            placement_strategy="PACK",
            label_selector=[{"ray.io/node-id": node} for node in gang.nodes],
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(notes),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    try:
        outcome = trainer.fit().return_value
        assert isinstance(outcome, Outcome), "the first worker returns its outcome"
        return outcome
    except Exception as error:
        return _failed(gang.stage, error)
    finally:
        shutil.rmtree(notes, ignore_errors=True)
        with contextlib.suppress(OSError):
            notes.parent.rmdir()


def _work(config: Mapping[str, Any]) -> Outcome:
    """One worker's part, in a process of its own; the first one's outcome is the stage's."""
    gang: Gang = config["gang"]
    if not gang.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    world = World.joined()
    return run_stage(
        gang.stage, gang.store_root, gang.resources, gang.gpus, world=world, stop=gang.stop
    )


def _failed(stage: Stage, error: Exception) -> Outcome:
    """What became of a gang whose workers did not all live to tell it."""
    errors = list(getattr(error, "worker_failures", {}).values()) or [error]
    kinds: list[FailureKind] = [classify(each) for each in errors]
    first = most_telling(kinds)
    return Outcome(
        key=stage.key, status="failed", error=one_line(errors[first]), failure=kinds[first]
    )
