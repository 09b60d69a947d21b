"""Ways of running the same step: plain, one optimisation on top of plain, and all in turn."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from harness.config.training import Precision, TrainingConfig


@final
@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way. Every default is the plain one: eager, fp32, nothing fused, nothing kept ready."""

    name: str
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = False
    fused_optimizer: bool = False
    resident: bool = False
    """Latents lie on the device as a whole; otherwise each batch is read from the shards."""

    @property
    def context(self) -> dict[str, Any]:
        """How a stage computes, as `resources` of a sweep say it."""
        return {
            "compile": self.compile,
            "channels_last": self.channels_last,
            "fused_optimizer": self.fused_optimizer,
            "latents_on_device": self.resident,
        }

    def training(self, training: TrainingConfig, steps: int) -> TrainingConfig:
        """A training without end in this arithmetic, past its warm-up."""
        return dataclasses.replace(
            training, precision=self.precision, steps=steps, warmup_steps=0, schedule="constant"
        )


PLAIN = Variant(name="plain")

Factor = tuple[str, dict[str, Any]]
TF32: Factor = ("tf32", {"precision": "tf32"})
BF16: Factor = ("bf16", {"precision": "bf16"})
FUSED: Factor = ("fused optimizer", {"fused_optimizer": True})
CHANNELS_LAST: Factor = ("channels last", {"channels_last": True})
RESIDENT: Factor = ("resident latents", {"resident": True})
COMPILE: Factor = ("compile", {"compile": True})


def tokenizer_factors(device: torch.device, *, compiled: bool) -> list[Factor]:
    """What can make a tokenizer's step faster, in the order in which it is added up."""
    factors = [TF32] if device.type == "cuda" else []
    factors += [FUSED, BF16, CHANNELS_LAST]
    return [*factors, COMPILE] if compiled else factors


def generator_factors(device: torch.device, *, compiled: bool) -> list[Factor]:
    """Likewise of a generator's, which has no convolutions to speak of."""
    factors = [TF32] if device.type == "cuda" else []
    factors += [RESIDENT, FUSED, BF16]
    return [*factors, COMPILE] if compiled else factors


def ladder(factors: Sequence[Factor]) -> list[Variant]:
    """Plain, each factor alone on top of it, and the factors added one after the other."""
    variants = [PLAIN]
    variants += [Variant(name=f"plain + {name}", **change) for name, change in factors]
    sum_so_far, names = PLAIN, []
    for name, change in factors:
        names.append(name)
        sum_so_far = dataclasses.replace(sum_so_far, name=f"all up to {name}", **change)
        if len(names) > 1:
            variants.append(sum_so_far)
    return variants
