"""What every training loop shares: its length, optimiser settings, learning rate and arithmetic."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from harness.machine.gradients import GradientSum

Precision = Literal["fp32", "tf32", "bf16"]
"""Arithmetic of a network. `fp32`: PyTorch's own settings (cuDNN's convolutions may use
TensorFloat-32, products don't). `tf32`: products use it too, on CUDA; elsewhere it is fp32. `bf16`:
bfloat16 autocast over fp32 weights."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length and optimiser of one training run. The global batch moves numbers; devices do not."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    steps: int
    """Number of optimiser steps of the trained model."""
    batch_size: int
    """Global batch in images."""
    learning_rate: float
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moment."""
    weight_decay: float = 0.0
    """Weight decay: decoupled (AdamW) in encoders and generators, L2 (Adam) in tokenizers."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant (published) or a cosine down to zero."""
    max_grad_norm: float | None = None
    """Gradient clipping by global norm; absent in the published runs."""
    precision: Precision = "fp32"
    """Arithmetic of the network: fp32, tf32 products, or bf16 autocast over fp32 master weights."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(f"`{name}` must be positive, but got {value}; raise it")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                f"`warmup_steps` must lie in 0..{self.steps} (`steps`), but got "
                f"{self.warmup_steps}; shorten the warm-up"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` must lie in [0, 1), but got {self.betas}; use (0.9, 0.95)")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(
                f"`max_grad_norm` must be positive, but got {self.max_grad_norm}; leave it out "
                "to train without clipping"
            )

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..., `steps` - 1."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


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
