"""Arithmetic, optimisers and their steps, for all training loops."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from harness.config.training import Precision, TrainingConfig
from harness.machine.float32 import tf32_products
from harness.machine.gradients import GradientSum
from harness.machine.sharding import part_of, put_together
from harness.machine.world import World


@runtime_checkable
class Schedule(Protocol):
    """How steps of an optimiser go: of a `TrainingConfig`, or of a regulariser's `AdamWConfig`."""

    @property
    def max_grad_norm(self) -> float | None:
        """Gradient clipping by the norm over the optimiser's parameters."""
        ...

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Trained:
    """Parameters that one optimiser trains, among several of a training."""

    name: str
    """Name of the optimiser's state in checkpoints."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule


@final
class Learners:
    """Optimisers that step on the gradients of one loss; no parameter is in two of the `parts`."""

    def __init__(self, parts: Sequence[Trained], world: World) -> None:
        self.parts = tuple(parts)
        # One sum for all of them: workers must start their exchanges in one order.
        self._gradients = GradientSum(
            (p for part in parts for p in _parameters_of(part.optimizer)), world
        )

    def start_step(self, step: int) -> None:
        """As `start_step` for each, by its own schedule."""
        for part in self.parts:
            start_step(part.optimizer, part.schedule, step)

    def end_step(self) -> list[Tensor]:
        """As `end_step` for each; the norms are one an optimiser."""
        self._gradients.finish()
        return [_take_step(part.optimizer, part.schedule) for part in self.parts]


def optimizer_settings(training: TrainingConfig, *, fused: bool = True) -> dict[str, Any]:
    """Arguments of `torch.optim.Adam` and `AdamW`; `fused`: one kernel over all parameters,
    otherwise PyTorch's own choice, with other rounding."""
    return {
        "lr": training.learning_rate,
        "betas": training.betas,
        "weight_decay": training.weight_decay,
        "fused": fused or None,
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's state; moments take the memory format of their parameter.

    Fused kernels walk parameter and moments in the order of memory, while a stored tensor is always
    contiguous.
    """
    parameters = _parameters_of(optimizer)
    parts = {
        number: {
            name: part_of(value, parameters[number]) if value.ndim else value
            for name, value in moments.items()
        }
        for number, moments in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@contextlib.contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """The arithmetic of what runs inside; weights stay in fp32, and `backward` sees to its own."""
    low = precision == "bf16"
    with _products(precision), torch.autocast(device.type, torch.bfloat16, enabled=low):
        yield


def _products(precision: Precision) -> contextlib.AbstractContextManager[None]:
    return tf32_products() if precision == "tf32" else contextlib.nullcontext()


def start_step(optimizer: torch.optim.Optimizer, training: Schedule, step: int) -> None:
    """Set the learning rate of this step and forget the gradients of the one before."""
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate_at(step)
    optimizer.zero_grad(set_to_none=True)


def backward(loss: Tensor, training: TrainingConfig) -> None:
    """Add the gradients of a loss to those of this step, in the arithmetic of the training."""
    with _products(training.precision):
        loss.backward()


def end_step(
    optimizer: torch.optim.Optimizer, training: Schedule, gradients: GradientSum
) -> Tensor:
    """Step on what the backward passes since `start_step` added up, over all workers. Returns the
    gradient's norm before clipping, the same on all: a scalar on the device, maybe not finite."""
    # Workers exchange gradients while the backward pass still runs; here the last must be in.
    gradients.finish()
    return _take_step(optimizer, training)


def _take_step(optimizer: torch.optim.Optimizer, training: Schedule) -> Tensor:
    parameters = _parameters_of(optimizer)
    if training.max_grad_norm is not None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    optimizer.step()
    return put_together(norm)


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
