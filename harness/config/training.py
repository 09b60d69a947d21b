"""Length, optimiser and arithmetic of a training, as a sweep file says them."""

import math
from dataclasses import dataclass, field
from typing import Literal

from harness.schema.keys import KEY_UNLESS_DEFAULT

Precision = Literal["fp32", "tf32", "bf16"]
"""Arithmetic of a network. `fp32`: PyTorch's own settings (cuDNN's convolutions may use
TensorFloat-32, products don't). `tf32`: products use it too, on CUDA; elsewhere it is fp32. `bf16`:
bfloat16 autocast over fp32 weights."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length and optimiser of one training run. The global batch moves numbers; devices do not."""

    steps: int
    """Number of optimiser steps of the trained model."""
    batch_size: int
    """Global batch in images."""
    learning_rate: float
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moment."""
    weight_decay: float = 0.0
    """Weight decay: L2 (Adam) in autoencoders of images, decoupled (AdamW) in everything else."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly."""
    warmup_start: float = field(default=0.0, metadata=KEY_UNLESS_DEFAULT)
    """Share of the peak that step 0 has, where the step after the warm-up is the first at the peak
    (SemVAE: 0.01); 0: it rises from zero, and the last step of the warm-up is at the peak."""
    constant_steps: int = field(default=0, metadata=KEY_UNLESS_DEFAULT)
    """Steps at the peak between the warm-up and a cosine."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after that: constant (published) or a cosine down to `final_share`."""
    final_share: float = field(default=0.0, metadata=KEY_UNLESS_DEFAULT)
    """Share of the peak that a cosine ends at (SemVAE: 0.1)."""
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
        if not 0 <= self.constant_steps <= self.steps - self.warmup_steps:
            raise ValueError(
                f"`constant_steps` must lie in 0..{self.steps - self.warmup_steps} (`steps` - "
                f"`warmup_steps`), but got {self.constant_steps}; shorten the stretch"
            )
        for name in ("warmup_start", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"`{name}` must be a share of the peak learning rate in [0, 1], but got "
                    f"{getattr(self, name)}; use 0.1"
                )
        if self.schedule == "constant" and (self.constant_steps or self.final_share):
            raise ValueError(
                "`constant_steps` and `final_share` must be 0 under `schedule: constant`, but got "
                f"{self.constant_steps} and {self.final_share}; set `schedule: cosine`"
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
            if self.warmup_start:
                risen = (1 - self.warmup_start) * step / self.warmup_steps
                return self.learning_rate * (self.warmup_start + risen)
            return self.learning_rate * (step + 1) / self.warmup_steps
        turn = self.warmup_steps + self.constant_steps
        if self.schedule == "constant" or step < turn:
            return self.learning_rate
        progress = (step - turn) / max(1, self.steps - turn)
        final = self.final_share * self.learning_rate
        return final + (self.learning_rate - final) * 0.5 * (1 + math.cos(math.pi * progress))
