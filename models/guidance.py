"""Guidance: how a class-conditional generator's velocity is sharpened while sampling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.clock import GroupTimes
from models.latent import LatentLayout
from models.sampler import VelocityFunction

PerGroup = float | dict[str, float]
"""One number for all channel groups, or a number for each by its name."""


def value_of_group(value: PerGroup, group: str) -> float:
    """The number in force for a channel group."""
    return value[group] if isinstance(value, Mapping) else value


@dataclass(frozen=True, kw_only=True)
class NoGuidance:
    """Plain class-conditional sampling."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["none"] = "none"
    """Tells this choice from others."""


def _check_guidance(scale: PerGroup, start: PerGroup, end: PerGroup) -> None:
    mappings = [value for value in (scale, start, end) if isinstance(value, Mapping)]
    for group in {name for mapping in mappings for name in mapping} or {""}:
        # Whether a mapping names every group is for the layout to say.
        own = [v.get(group) if isinstance(v, Mapping) else v for v in (scale, start, end)]
        factor, first, last = (
            least if v is None else v for v, least in zip(own, (1.0, 0.0, 1.0), strict=True)
        )
        if factor < 0 or not 0.0 <= first <= last <= 1.0:
            of_group = f" for group {group}" if group else ""
            raise ValueError(
                f"`scale` must not be negative and 0 <= `interval_start` <= `interval_end` <= 1 "
                f"must hold, but got scale {factor} and interval [{first}, {last}]{of_group}; time "
                "0 is noise, 1 data"
            )


@dataclass(frozen=True, kw_only=True)
class ClassifierFreeGuidance:
    """Extrapolation from the null class's velocity to the class's velocity."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["cfg"] = "cfg"
    """Tells this choice from others."""
    scale: PerGroup
    """Factor on the difference; at most 1 switches guidance off. Published: 6.7 and 10.0. One for
    all channel groups, or one for each by its name, as of the two numbers below."""
    interval_start: PerGroup = 0.0
    """First time of a group at which it is guided; 0 is noise. Published: 0.10 to 0.125."""
    interval_end: PerGroup = 1.0
    """Last time of a group at which it is guided; 1 means no upper end."""
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
    scale: PerGroup
    """Factor on the difference; at most 1 switches guidance off. One for all channel groups, or one
    for each by its name, as of the two numbers below."""
    interval_start: PerGroup = 0.0
    """First time of a group at which it is guided; 0 is noise."""
    interval_end: PerGroup = 1.0
    """Last time of a group at which it is guided; 1 means no upper end."""
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


def guidance_is_on(guidance: Guidance, time: float, group: str) -> bool:
    """Whether a channel group is guided at a time of its own.

    Times are compared in float32, both ends included; an interval end of 1 has no limit.
    """
    if isinstance(guidance, NoGuidance) or value_of_group(guidance.scale, group) <= 1.0:
        return False
    now, start, end = (
        numpy.float32(value)
        for value in (
            time,
            value_of_group(guidance.interval_start, group),
            value_of_group(guidance.interval_end, group),
        )
    )
    return bool(start <= now and (end >= 1.0 or now <= end))


def guided_parts(
    guidance: Guidance, times: GroupTimes, layout: LatentLayout
) -> list[tuple[slice, float]]:
    """Channel ranges that are guided at these times of the groups, each with its scale."""
    if isinstance(guidance, NoGuidance):
        return []
    chosen, parts = guided_channels(guidance.channels, layout), []
    for group, time in zip(layout.groups, times, strict=True):
        own = layout.slice(group.name)
        both = slice(max(own.start, chosen.start), min(own.stop, chosen.stop))
        if both.start < both.stop and guidance_is_on(guidance, time, group.name):
            parts.append((both, value_of_group(guidance.scale, group.name)))
    return parts


def guided_velocity(
    model: Any,
    guidance: Guidance,
    labels: Int[Tensor, " b"],
    num_classes: int,
    weak_model: Any | None = None,
    condition: Float[Tensor, "b c h w"] | None = None,
) -> VelocityFunction:
    """Build the velocity field that a sampler integrates.

    Where no group is guided, the model runs once on the batch and nothing else is computed.

    Args:
        model: the generator, in evaluation mode: velocity of a latent, times `[b, groups]` and
            labels; its `layout` names the groups.
        labels: classes of the samples, in [0, num_classes).
        num_classes: label of the null class.
        condition: what networks of a cascade see beside the latent; absent elsewhere.

    Raises:
        ValueError: if AutoGuidance comes without a weak model.
    """
    if isinstance(guidance, AutoGuidance) and weak_model is None:
        raise ValueError(
            "AutoGuidance needs a weak model, but got none; pass the weaker checkpoint's model as "
            "`weak_model`"
        )

    asked = torch.cat([labels, torch.full_like(labels, num_classes)])
    seen = () if condition is None else (torch.cat([condition, condition]),)

    def conditional(
        network: Any, x: Float[Tensor, "b c h w"], times: GroupTimes
    ) -> Float[Tensor, "b c h w"]:
        # A tensor made of a list would wait for the device. All images are at one time.
        columns = [torch.full((1,), time, device=x.device) for time in times]
        shared = torch.stack(columns, dim=1).expand(len(x), -1)
        # Under autocast velocities are bf16; steps and guidance take differences, in float32.
        return network(x, shared, asked[: len(x)], *(each[: len(x)] for each in seen)).float()

    def velocity(x: Float[Tensor, "b c h w"], times: GroupTimes) -> Float[Tensor, "b c h w"]:
        parts = guided_parts(guidance, times, model.layout)
        if not parts:
            return conditional(model, x, times)
        if weak_model is not None and isinstance(guidance, AutoGuidance):
            strong, weak = (conditional(network, x, times) for network in (model, weak_model))
        else:
            strong, weak = conditional(model, torch.cat([x, x]), times).chunk(2)
        guided = strong.clone()
        for channels, scale in parts:
            difference = strong[:, channels] - weak[:, channels]
            guided[:, channels] = weak[:, channels] + scale * difference
        return guided

    return velocity
