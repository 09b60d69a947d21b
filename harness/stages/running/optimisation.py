"""Arithmetic, optimisers and their steps, for all training loops."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.config.training import Precision, TrainingConfig
from harness.machine.gradients import GradientSum


def optimizer_settings(training: TrainingConfig, *, fused: bool = True) -> dict[str, Any]:
    """Arguments of `torch.optim.Adam` and `AdamW`.

    Args:
        training: Learning rate, decay rates and weight decay.
        fused: One kernel over all parameters; otherwise PyTorch's own choice, with other rounding.
    """
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
    optimizer.load_state_dict(dict(state))
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@contextlib.contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """The arithmetic of what runs inside; weights stay in fp32 whichever it is."""
    low = precision == "bf16"
    with _products(precision), torch.autocast(device.type, torch.bfloat16, enabled=low):
        yield


def autocast(
    training: TrainingConfig, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """The arithmetic of a training's forward pass; `backward` sees to the backward's."""
    return arithmetic(training.precision, device)


@contextlib.contextmanager
def _products(precision: Precision) -> Iterator[None]:
    """TensorFloat-32 in matrix products where `tf32` asks for it, and PyTorch's setting after."""
    if precision != "tf32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def start_step(optimizer: torch.optim.Optimizer, training: TrainingConfig, step: int) -> None:
    """Set the learning rate of this step and forget the gradients of the one before."""
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate_at(step)
    optimizer.zero_grad(set_to_none=True)


def backward(loss: Tensor, training: TrainingConfig) -> None:
    """Add the gradients of a loss to those of this step, in the arithmetic of the training."""
    with _products(training.precision):
        loss.backward()


def end_step(
    optimizer: torch.optim.Optimizer, training: TrainingConfig, gradients: GradientSum
) -> Tensor:
    """Step on what the backward passes since `start_step` added up, over all workers.

    Returns:
        Norm of the gradient of all parameters, before clipping: a scalar on their device, the same
        on every worker, not finite where any part of it is not.
    """
    # Workers exchange gradients while the backward pass still runs; here the last must be in.
    gradients.finish()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if training.max_grad_norm is not None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    optimizer.step()
    return norm


def add_terms(total: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named scalars of one more slice added to those of the slices before, detached."""
    return {
        name: total[name] + term.detach() if name in total else term.detach()
        for name, term in terms.items()
    }
