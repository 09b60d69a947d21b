"""The flow-matching objective: linear path from noise (t = 0) to data (t = 1), velocity target.

Time carries one value per channel group, so that groups may be at different noise levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.clock import OffsetClock, SharedClock
from models.latent import LatentLayout
from models.objectives.objective import Draws, Loss, Network, drop_labels


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """How times are drawn and the velocity is penalised; the defaults are the published ones."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    time: Literal["logit_normal", "uniform"] = "logit_normal"
    """Distribution of training times: sigmoid of N(0, 1), or uniform on [0, 1)."""
    uniform_after_step: int | None = None
    """First optimiser step with uniform times (published: 600,000); absent keeps `time`."""
    velocity_direction_weight: float = 1.0
    """Weight of the cosine term on the velocity's direction; 0 switches it off."""
    group_times: Literal["shared", "independent"] = "shared"
    """Whether the channel groups of one sample share a time or draw their own."""
    offset: float = field(default=0.0, metadata={"key": "unless_default"})
    """Time in [0, 1] by which `leading` runs ahead of the other groups, in training and sampling:
    0 is none, 1 finishes it before the others start. The drawn time is a share of 1 + offset
    (Semantic-First Diffusion, published: 0.3)."""
    leading: str = field(default="semantic", metadata={"key": "unless_default"})
    """Name of the group that runs ahead."""
    group_weights: dict[str, float] | None = field(default=None, metadata={"key": "unless_default"})
    """Factors on the squared error of channel groups, inside the mean over all channels; a group
    that is not named has 1. Published by Semantic-First Diffusion: `{semantic: 2.0}`."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.offset <= 1.0:
            raise ValueError(
                f"`offset` must lie in [0, 1], but got {self.offset}; use 0 for groups at one time "
                "and 1 for one group after the other"
            )
        if self.offset and self.group_times == "independent":
            raise ValueError(
                "`group_times` must be `shared` where an `offset` ties the groups to one time, but "
                f"is `independent` with offset {self.offset}; leave one of both out"
            )
        if any(weight < 0 for weight in (self.group_weights or {}).values()):
            raise ValueError(
                f"`group_weights` must not be negative, but got {self.group_weights}; use 0 to "
                "leave a group out of the squared error"
            )

    @property
    def own_times(self) -> str:
        """The field by which groups have times of their own, or an empty text."""
        return "offset" if self.offset else "group_times" if self.group_times != "shared" else ""

    def clock(self, layout: LatentLayout) -> SharedClock | OffsetClock:
        """The times of a latent's groups, in training and sampling."""
        if not self.offset:
            return SharedClock(layout.num_groups)
        return OffsetClock(self.offset, tuple(g.name == self.leading for g in layout.groups))

    def weights(self, layout: LatentLayout) -> tuple[float, ...]:
        """The factor on each group's squared error."""
        return tuple((self.group_weights or {}).get(group.name, 1.0) for group in layout.groups)

    def time_at(self, step: int) -> Literal["logit_normal", "uniform"]:
        """Distribution in force at an optimiser step."""
        switched = self.uniform_after_step is not None and step >= self.uniform_after_step
        return "uniform" if switched else self.time


def sample_time(
    config: FlowConfig,
    batch: int,
    num_groups: int,
    generator: torch.Generator | None = None,
    step: int = 0,
) -> Float[Tensor, "b g"]:
    """Draw training times in [0, 1), shares of the clock's horizon, in float32.

    They are drawn on the generator's device.

    Args:
        step: optimiser step, for `uniform_after_step`.
    """
    device = torch.device("cpu") if generator is None else generator.device
    columns = num_groups if config.group_times == "independent" else 1
    draw = torch.rand if config.time_at(step) == "uniform" else torch.randn
    time = draw(batch, columns, generator=generator, device=device)
    if config.time_at(step) == "logit_normal":
        time = torch.sigmoid(time)
    return time.expand(batch, num_groups).contiguous()


def time_per_channel(t: Float[Tensor, "b g"], layout: LatentLayout) -> Float[Tensor, "b c 1 1"]:
    """Spread group times over the channels of the layout."""
    parts = [
        t[:, index : index + 1].expand(-1, group.channels)
        for index, group in enumerate(layout.groups)
    ]
    return torch.cat(parts, dim=1)[:, :, None, None]


def interpolate(
    clean: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Float[Tensor, "b g"],
    layout: LatentLayout,
) -> Float[Tensor, "b c h w"]:
    """Point x_t = t * clean + (1 - t) * noise on the linear path."""
    weight = time_per_channel(t, layout)
    return weight * clean + (1.0 - weight) * noise


def velocity_target(
    clean: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Time derivative of the linear path: clean - noise."""
    return clean - noise


def flow_loss(
    predicted: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    layout: LatentLayout,
    weights: Sequence[float],
) -> dict[str, Float[Tensor, ""]]:
    """Terms of the velocity loss.

    Returns:
        `velocity_mse`, the mean squared error with each group's weight inside the mean over all
        channels (the published log shows this term only), and `velocity_direction`, the mean of
        1 - cosine over all channels at each position, in [0, 2].
    """
    error = layout.scale((predicted - target).square(), weights).mean()
    direction = 1.0 - functional.cosine_similarity(predicted, target, dim=1)
    return {"velocity_mse": error, "velocity_direction": direction.mean()}


def flow_total(config: FlowConfig, terms: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Weighted sum of the terms of `flow_loss`."""
    return terms["velocity_mse"] + config.velocity_direction_weight * terms["velocity_direction"]


@dataclass(frozen=True, kw_only=True)
class FlowObjective:
    """Regression of the velocity at a random time of the linear path (an `Objective`).

    The network is called with noisy latents, times of the groups and labels.
    """

    config: FlowConfig
    layout: LatentLayout
    num_classes: int
    """Number of classes; the label of this number is the null class."""
    class_dropout: float
    """Probability in [0, 1] that a label is replaced by the null class."""
    shift: float = 1.0
    """Shift of the drawn times, as of a sampler's grid: below 1 towards noise."""

    def draw(
        self, labels: Int[Tensor, " b"], shape: tuple[int, ...], random: torch.Generator, step: int
    ) -> Draws:
        """Draw which labels are dropped, the noise and the times, in this order."""
        count, layout = len(labels), self.layout
        dropped = drop_labels(labels, self.num_classes, self.class_dropout, random)
        noise = torch.randn((count, *shape), generator=random, device=random.device)
        share = sample_time(self.config, count, layout.num_groups, random, step)
        if self.shift != 1.0:
            share = self.shift * share / (1 + (self.shift - 1) * share)
        time = self.config.clock(layout).training_times(share)
        return {"labels": dropped, "noise": noise, "time": time}

    def loss(self, network: Network, clean: Float[Tensor, "b c h w"], draws: Draws) -> Loss:
        """Compute the terms of `flow_loss` at the drawn times, and their weighted sum."""
        noise, time = draws["noise"], draws["time"]
        predicted = network(interpolate(clean, noise, time, self.layout), time, draws["labels"])
        # Under autocast the network answers in bfloat16; the loss is taken in fp32.
        target, weights = velocity_target(clean, noise), self.config.weights(self.layout)
        terms = flow_loss(predicted.float(), target, self.layout, weights)
        return Loss(flow_total(self.config, terms), terms)
