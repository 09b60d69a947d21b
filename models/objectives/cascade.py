"""Flow matching at several resolutions with one network, each given the one below (LowDiff).

LowDiff (arXiv 2509.15342) has neither code nor a full recipe; what it leaves open is ours.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.latent import LatentLayout
from models.objectives.flow import FlowObjective
from models.objectives.objective import Draws, Loss, Network

Statistics = tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]
"""Mean and deviation of each channel."""


@dataclass(frozen=True, kw_only=True)
class CascadeResolution:
    """One resolution of a cascade in training."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    side: int
    """Cells along a side of the latent at this resolution."""
    probability: float = 1.0
    """Share of the training steps, in units of the sum over all resolutions."""
    weight: float = 1.0
    """Factor on the loss of such a step."""
    shift: float = 1.0
    """Shift s of the training times, t = s u / (1 + (s - 1) u), below 1 towards noise; 1: none."""

    def __post_init__(self) -> None:
        if self.side < 1 or self.probability <= 0 or self.weight < 0 or self.shift <= 0:
            raise ValueError(
                "`side`, `probability` and `shift` must be above 0 and `weight` not below, but got "
                f"{self.side}, {self.probability}, {self.shift} and {self.weight}; use 1 for each "
                "but the side"
            )


def layout_at(layout: LatentLayout, side: int) -> LatentLayout:
    """The same channels on another grid."""
    return replace(layout, height=side, width=side)


def lower_key(side: int) -> str:
    """Key of a batch's latents of smaller images among what is drawn for it."""
    return f"lower_{side}"


def reduce(latents: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Area averages on a coarser grid."""
    return functional.avg_pool2d(latents, latents.shape[2] // side)


def enlarge(latents: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Bilinear values on a finer grid."""
    size = (side, side)
    return functional.interpolate(latents, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class CascadeObjective:
    """Regression of the velocity at one resolution a step (an `Objective`).

    The network is called as for flow matching and, above the lowest resolution, with the latent of
    the resolution below, enlarged. With one resolution it is flow matching, bit for bit.
    """

    flow: FlowObjective
    """Path, times and loss, which all resolutions share."""
    resolutions: tuple[CascadeResolution, ...]
    """From the lowest to the latent's own."""
    condition_noise: float
    """Largest deviation of the noise on the condition, drawn from 0 for each image: in sampling
    the resolution below comes with errors of its own."""
    condition_dropout: float
    """Probability in [0, 1] that the condition is zero, as where the network runs uncascaded."""
    statistics: tuple[Statistics, ...] = ()
    """Of each lower resolution: averages vary less than what they are of, so that without a
    normalisation of their own the noise would weigh more there. Empty: they stay as they are."""

    @property
    def sides(self) -> tuple[int, ...]:
        """Cells along a side at each resolution."""
        return tuple(each.side for each in self.resolutions)

    def draw(
        self, labels: Int[Tensor, " b"], shape: tuple[int, ...], random: torch.Generator, step: int
    ) -> Draws:
        """Draw the step's resolution, what flow matching needs there, and the condition's noise."""
        number, count = self._choose(random, step), len(labels)
        chosen = self.resolutions[number]
        layout = layout_at(self.flow.layout, chosen.side)
        flow = replace(self.flow, shift=chosen.shift)
        draws = dict(flow.draw(labels, layout.shape, random, step))
        if number:
            device = random.device
            size = (count, *layout.shape)
            draws["condition_noise"] = torch.randn(size, generator=random, device=device)
            amount, kept = torch.rand(2, count, 1, 1, 1, generator=random, device=device)
            draws["condition_amount"] = self.condition_noise * amount
            draws["condition_kept"] = kept >= self.condition_dropout
        return draws

    def loss(self, network: Network, clean: Float[Tensor, "b c h w"], draws: Draws) -> Loss:
        """Compute the terms of flow matching at the drawn resolution, named by it."""
        side = draws["noise"].shape[2]
        number = self.sides.index(side)
        seen: tuple[Tensor, ...] = ()
        if number:
            below = enlarge(self.at(clean, number - 1, draws), side)
            noisy = below + draws["condition_amount"] * draws["condition_noise"]
            seen = (torch.where(draws["condition_kept"], noisy, 0.0),)
        found = self.flow.loss(
            lambda *arguments: network(*arguments, *seen), self.at(clean, number, draws), draws
        )
        mark = f"_{side}" if len(self.sides) > 1 else ""
        terms = {f"{name}{mark}": term for name, term in found.terms.items()}
        return Loss(self.resolutions[number].weight * found.total, terms)

    def at(
        self, clean: Float[Tensor, "b c h w"], number: int, draws: Draws
    ) -> Float[Tensor, "b c s s"]:
        """Clean latents at a resolution, normalised there: averages, or those that are given."""
        side = self.sides[number]
        if side == clean.shape[2]:
            return clean
        given = draws.get(lower_key(side))
        reduced = reduce(clean, side) if given is None else given
        if not self.statistics:
            return reduced
        mean, std = self.statistics[number]
        return (reduced - mean) / std

    def _choose(self, random: torch.Generator, step: int) -> int:
        """The step's resolution: a number on the host, of the stream's seed and not of its numbers,
        which lie on the device."""
        if len(self.resolutions) == 1:
            return 0
        shares = np.cumsum([each.probability for each in self.resolutions])
        drawn = np.random.default_rng([random.initial_seed(), step]).uniform(0.0, shares[-1])
        return int(np.searchsorted(shares[:-1], drawn, side="right"))
