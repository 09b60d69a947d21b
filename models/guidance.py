"""Guidance: how a class-conditional generator's velocity is sharpened while sampling."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.latent import LatentLayout
from models.lightningdit import LightningDiT
from models.sampler import VelocityFunction


@dataclass(frozen=True, kw_only=True)
class NoGuidance:
    """Plain class-conditional sampling."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["none"] = "none"
    """Tells this choice from others."""


def _check_guidance(scale: float, start: float, end: float) -> None:
    if scale < 0 or not 0.0 <= start <= end <= 1.0:
        raise ValueError(
            f"`scale` must not be negative and 0 <= `interval_start` <= `interval_end` <= 1 must "
            f"hold, but got scale {scale} and interval [{start}, {end}]; time 0 is noise, 1 data"
        )


@dataclass(frozen=True, kw_only=True)
class ClassifierFreeGuidance:
    """Extrapolation from the null class's velocity to the class's velocity."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["cfg"] = "cfg"
    """Tells this choice from others."""
    scale: float
    """Factor on the difference; at most 1 switches guidance off. Published: 6.7 and 10.0."""
    interval_start: float = 0.0
    """First time with guidance; 0 is noise. Published: 0.10 to 0.125."""
    interval_end: float = 1.0
    """Last time with guidance; 1 means no upper end."""
    channels: str = "all"
    """Guided channels: `all`, `first3` (as published), or the name of a channel group."""

    def __post_init__(self) -> None:
        _check_guidance(self.scale, self.interval_start, self.interval_end)


@dataclass(frozen=True, kw_only=True)
class AutoGuidance:
    """Extrapolation from a weaker generator's velocity to the generator's own."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["autoguidance"] = "autoguidance"
    """Tells this choice from others."""
    scale: float
    """Factor on the difference; at most 1 switches guidance off."""
    interval_start: float = 0.0
    """First time with guidance; 0 is noise."""
    interval_end: float = 1.0
    """Last time with guidance; 1 means no upper end."""
    channels: str = "all"
    """Guided channels: `all`, `first3`, or the name of a channel group."""

    def __post_init__(self) -> None:
        _check_guidance(self.scale, self.interval_start, self.interval_end)


Guidance = NoGuidance | ClassifierFreeGuidance | AutoGuidance
"""The choices of guidance, told apart by `kind`."""


def guided_channels(channels: str, layout: LatentLayout) -> slice:
    """Channel range that guidance acts on: `all`, `first3` or a group's name."""
    if channels == "all":
        return slice(0, layout.channels)
    return slice(0, 3) if channels == "first3" else layout.slice(channels)


def guidance_is_on(guidance: Guidance, time: float) -> bool:
    """Whether guidance acts at a time, compared in float32; an interval end of 1 has no limit."""
    if isinstance(guidance, NoGuidance) or guidance.scale <= 1.0:
        return False
    now, start, end = (
        numpy.float32(value) for value in (time, guidance.interval_start, guidance.interval_end)
    )
    return bool(start <= now and (end >= 1.0 or now <= end))


def guided_velocity(
    model: LightningDiT,
    guidance: Guidance,
    labels: Int[Tensor, " b"],
    num_classes: int,
    weak_model: LightningDiT | None = None,
) -> VelocityFunction:
    """Build the velocity field that a sampler integrates.

    Where guidance is off, the model runs once on the batch and nothing else is computed.

    Args:
        model: the generator, in evaluation mode.
        guidance: kind, scale, interval and channels.
        labels: classes of the samples, in [0, num_classes).
        num_classes: label of the null class.
        weak_model: the weaker generator of AutoGuidance.

    Raises:
        ValueError: if AutoGuidance comes without a weak model.
    """
    if isinstance(guidance, AutoGuidance) and weak_model is None:
        raise ValueError(
            "AutoGuidance needs a weak model, but got none; pass the weaker checkpoint's model as "
            "`weak_model`"
        )
    layout = model.layout

    def conditional(
        network: LightningDiT, x: Float[Tensor, "b c h w"], time: float, classes: Tensor
    ) -> Float[Tensor, "b c h w"]:
        times = torch.full((x.shape[0], layout.num_groups), time, device=x.device)
        # Under autocast velocities are bf16; steps and guidance take differences, in float32.
        return network(x, times, classes).float()

    def velocity(x: Float[Tensor, "b c h w"], time: float) -> Float[Tensor, "b c h w"]:
        if isinstance(guidance, NoGuidance) or not guidance_is_on(guidance, time):
            return conditional(model, x, time, labels)
        if weak_model is not None and isinstance(guidance, AutoGuidance):
            strong = conditional(model, x, time, labels)
            weak = conditional(weak_model, x, time, labels)
        else:
            null = torch.full_like(labels, num_classes)
            both = conditional(model, torch.cat([x, x]), time, torch.cat([labels, null]))
            strong, weak = both.chunk(2)
        chosen = guided_channels(guidance.channels, layout)
        guided = strong.clone()
        guided[:, chosen] = weak[:, chosen] + guidance.scale * (strong[:, chosen] - weak[:, chosen])
        return guided

    return velocity
