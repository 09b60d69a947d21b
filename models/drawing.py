"""Drawing latents with a generator that predicts velocity."""

import itertools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.batch_part import slices_of
from models.clock import Clock, GroupTimes
from models.guidance import Guidance, guided_velocity
from models.latent import LatentLayout
from models.sampler import SamplerConfig, sample
from models.steps import LISTENER


def draw_latents(
    model: Any,
    labels: Int[Tensor, " b"],
    random: torch.Generator,
    sampler: SamplerConfig,
    guidance: Guidance,
    weak: Any | None = None,
    slices: int = 1,
    clock: Clock | None = None,
    layout: LatentLayout | None = None,
    condition: Float[Tensor, "b c h w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Carry noise to normalised latents of the classes asked for.

    Args:
        model: the generator, in evaluation mode.
        labels: classes, on the device of `random`.
        slices: parts in which networks see the batch; the solver sees it whole.
        clock: times of the channel groups; absent: all are at the global time.
        layout: of a cascade, the latent at one of its resolutions; absent: the model's.
        condition: of a cascade, what the model sees beside the latent.
    """
    drawn: LatentLayout = layout or model.layout
    shape = (len(labels), *drawn.shape)
    noise = torch.randn(shape, generator=random, device=random.device)
    parts = list(slices_of(len(labels), slices))
    fields = [
        guided_velocity(
            model,
            guidance,
            labels[rows],
            model.num_classes,
            weak,
            None if condition is None else condition[rows],
        )
        for rows in parts
    ]

    numbers = itertools.count(1)

    def velocity(x: Float[Tensor, "b c h w"], times: GroupTimes) -> Float[Tensor, "b c h w"]:
        LISTENER.get()(next(numbers), sampler.num_function_evaluations or 0)
        if len(parts) == 1:
            return fields[0](x, times)
        pairs = zip(fields, parts, strict=True)
        return torch.cat([field(x[rows], times) for field, rows in pairs])

    return sample(velocity, noise, sampler, drawn, clock)
