"""Every failure has one class, whoever raised it."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from torch.distributed import DistBackendError

from harness.config.training import TrainingConfig
from harness.execution.failures import RETRIES, Failures, classify, most_telling
from harness.machine.finite import Diverged
from harness.machine.gradients import GradientSum
from harness.machine.world import WorkerLost, World
from harness.schema.reading import ConfigError
from harness.stages.running.context import StageContext
from harness.stages.running.optimisation import backward, end_step, start_step
from harness.storage.artifacts import Store

ray_exceptions = pytest.importorskip("ray.exceptions")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Diverged("the loss is not finite"), "divergence"),
        (torch.OutOfMemoryError("CUDA out of memory"), "device_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "device_memory"),
        (RuntimeError("CUDA error: out of memory"), "device_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), "device_memory"),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when"), "device_memory"),
        (RuntimeError("GET was unable to find an engine to execute this"), "device_memory"),
        (DistBackendError("NCCL error: Cuda failure 2 'out of memory'"), "device_memory"),
        (DistBackendError("NCCL error: unhandled system error"), "infrastructure"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "infrastructure"),
        (RuntimeError("CUDA error: uncorrectable NVLink error detected"), "infrastructure"),
        (RuntimeError("CUDA error: unspecified launch failure"), "infrastructure"),
        (RuntimeError("CUDA-capable device(s) is/are busy or unavailable"), "infrastructure"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
        (ValueError("CUDA error: out of memory"), "error"),
        (MemoryError(), "host_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "host_memory"),
        (OSError(errno.ENOMEM, "cannot allocate memory"), "host_memory"),
        (ray_exceptions.OutOfMemoryError("the node was low on memory"), "host_memory"),
        (ray_exceptions.WorkerCrashedError(), "infrastructure"),
        (ray_exceptions.NodeDiedError("gone"), "infrastructure"),
        (ray_exceptions.ActorDiedError(), "infrastructure"),
        (WorkerLost("another one has ended"), "infrastructure"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed"), "infrastructure"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "infrastructure"),
        (OSError(errno.EIO, "input/output error"), "infrastructure"),
        (OSError(errno.ENOSPC, "no space left"), "storage"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "storage"),
        (PermissionError(errno.EROFS, "read-only file system"), "storage"),
        (ConfigError("wrong"), "configuration"),
        (ValueError("a bug"), "error"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_has_its_class(error, kind):
    assert classify(error) == kind


def test_a_wrapped_error_has_the_class_of_its_cause():
    error = RuntimeError("the training failed")
    error.__cause__ = Diverged("at step 3")
    assert classify(error) == "divergence"


def test_a_gradient_that_is_not_finite_is_a_divergence_though_the_loss_is(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight])
    training = TrainingConfig(steps=5, batch_size=1, learning_rate=1e-3)
    loss = weight.sqrt().sum()
    assert loss.isfinite()
    start_step(optimizer, training, 3)
    backward(loss, training)
    norm = end_step(optimizer, training, GradientSum([weight], World()))
    with Store(tmp_path).work("encoder", "key") as work:
        context = StageContext(inputs={}, work=work, device=torch.device("cpu"))
        context.watch(3, loss)
        context.watch_gradient(3, norm)
        with pytest.raises(Diverged, match="the gradient is not finite at step 3"):
            context.after_step(5, 5, dict)


def test_nothing_is_run_again_that_would_end_the_same_way():
    assert RETRIES.keys().isdisjoint(("divergence", "storage", "configuration", "error"))


def test_a_lost_connection_explains_less_than_what_ended_the_other_side():
    assert most_telling(["infrastructure", "device_memory", "infrastructure"]) == 1


def test_each_class_of_failure_has_retries_of_its_own():
    found = Failures()
    assert found.add("infrastructure", 1000)
    assert found.add("host_memory", 90_000)
    assert not found.add("host_memory", 95_000)
    assert found.told("the memory ran out") == (
        "failed 3 times, the last time by the memory ran out"
    )


def test_a_checkpoint_that_comes_and_goes_is_no_progress():
    found = Failures()
    assert [found.add("infrastructure", step) for step in (10, -1, 10, -1)] == [True] * 3 + [False]
