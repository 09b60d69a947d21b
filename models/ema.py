"""Exponential moving average of a network's parameters."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Decay of the average; the default is the published one."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    decay: float = 0.9999
    """Share of the old average kept at every update, in [0, 1)."""
    warmup: bool = False
    """Whether update n uses min(decay, (1 + n) / (10 + n)), for runs far below 30,000 steps."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(
                f"`decay` must lie in [0, 1), but got {self.decay}; use 0.9999, or less for "
                "short runs"
            )

    def decay_at(self, num_updates: int) -> float:
        """Decay of the update after `num_updates` earlier ones."""
        ramp = (1 + num_updates) / (10 + num_updates)
        return min(self.decay, ramp) if self.warmup else self.decay


class Ema:
    """A copy of a network whose parameters follow the original's.

    Args:
        model: the network; the average starts as its copy.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.config = config
        self.num_updates = 0
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the current parameters; buffers are copied."""
        weight = 1.0 - self.config.decay_at(self.num_updates)
        averages: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averages, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        for own, latest in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(latest)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Averaged tensors under `module.*`, and `num_updates`."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return tensors | {"num_updates": torch.tensor(self.num_updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; a missing or foreign name is an error."""
        tensors = {
            name.removeprefix("module."): value
            for name, value in state.items()
            if name != "num_updates"
        }
        self.module.load_state_dict(tensors)
        self.num_updates = int(state["num_updates"])
