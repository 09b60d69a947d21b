"""LowDiff (arXiv 2509.15342): one LightningDiT that generates at rising resolutions.

Steps at a low resolution are cheap; each resolution above is given what came of the one below. The
paper has no code, and how the condition enters is not known: here by channels of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.clock import Clock
from models.drawing import draw_latents
from models.guidance import Guidance
from models.latent import LatentLayout
from models.lightningdit import LightningDiT, LightningDiTConfig
from models.lightningdit_blocks import PatchEmbed, RotaryEmbedding, fixed_position_parameter
from models.objectives.cascade import enlarge, layout_at
from models.sampler import SamplerConfig


class CascadeDiT(LightningDiT):
    """A LightningDiT for several resolutions of one latent; with one it is the plain network.

    Args:
        num_classes: number of classes; label `num_classes` is the null class.
        sides: cells along a side at each resolution, from the lowest to the latent's own.

    Raises:
        ValueError: as the plain network, at any of the resolutions.
    """

    def __init__(
        self,
        config: LightningDiTConfig,
        *,
        layout: LatentLayout,
        num_classes: int,
        sides: Sequence[int],
    ) -> None:
        super().__init__(config, layout=layout, num_classes=num_classes)
        self.sides = tuple(sides)
        if len(self.sides) == 1:
            return
        width = config.shape.width
        self.x_embedder = PatchEmbed(2 * layout.channels, width, config.patch_size)
        self.r_embedder = nn.Embedding(len(self.sides), width)
        nn.init.normal_(self.r_embedder.weight, std=0.02)
        self.lower = nn.ModuleList(
            LowerGrid(config, side // config.patch_size, self.grid[0]) for side in self.sides[:-1]
        )

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, "b g"],
        labels: Int[Tensor, " b"],
        condition: Float[Tensor, "b c h w"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Predict velocity at the resolution of `x`.

        Args:
            x: noisy latent, normalised to unit variance at t = 1.
            t: time of each channel group in [0, 1]; 0 is noise, 1 is data.
            labels: classes in [0, num_classes]; the last is the null class.
            condition: the latent at the resolution below, enlarged; absent: zero.
        """
        if len(self.sides) == 1:
            return super().forward(x, t, labels)
        number = self.sides.index(x.shape[2])
        place: Any = self if number == len(self.lower) else self.lower[number]
        seen = torch.cat([x, torch.zeros_like(x) if condition is None else condition], dim=1)
        tokens = self.x_embedder(seen) + place.pos_embed
        told, rows = self._condition(t, labels)
        told = told + self.r_embedder.weight[number]
        for block in self.blocks:
            tokens = block(tokens, told, place.feat_rope, rows)
        return self._unpatchify(self.final_layer(tokens, told, rows), place.grid)


class LowerGrid(nn.Module):
    """Position codes of a coarser grid, in the frame of the finest.

    Args:
        side: tokens along a side.
        finest: tokens along a side of the finest grid.
    """

    def __init__(self, config: LightningDiTConfig, side: int, finest: int) -> None:
        super().__init__()
        shape, cell = config.shape, finest / side
        self.grid = (side, side)
        self.pos_embed = fixed_position_parameter(side, side, shape.width, cell)
        head_dim = shape.width // shape.num_heads
        self.feat_rope = RotaryEmbedding(side, side, head_dim, cell) if config.rope else None


@dataclass(frozen=True, kw_only=True)
class StageSampler(SamplerConfig):
    """Solver and time grid at one resolution of a cascade."""

    guidance_scale: float | None = None
    """Scale of guidance at this resolution where `evaluation.guidance` is on, in place of its own;
    at most 1 switches it off here. Absent: the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "dopri5":
            raise ValueError(
                "`kind` must be a solver of fixed steps in a cascade, whose price is their number, "
                "but got dopri5; use heun, ab2 or dpmpp_2m"
            )

    def of(self, guidance: Guidance) -> Guidance:
        """Guidance at this resolution."""
        if self.guidance_scale is None or guidance.kind == "none":
            return guidance
        return replace(guidance, scale=self.guidance_scale)


@dataclass(frozen=True, kw_only=True)
class CascadeSamplerConfig:
    """How a cascade is sampled, resolution by resolution."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["cascade"] = "cascade"
    """Tells this choice from others, under which a cascade runs at its full resolution alone."""
    stages: tuple[StageSampler, ...]
    """One for each resolution, the lowest first."""
    condition_noise: float = 0.1
    """Deviation of the noise on what is given to the resolution above."""

    @property
    def num_function_evaluations(self) -> int | None:
        """Evaluations a sample at any resolution, without guidance."""
        return sum(stage.num_function_evaluations or 0 for stage in self.stages)


def draw_cascade(
    model: CascadeDiT,
    labels: Int[Tensor, " b"],
    random: torch.Generator,
    sampler: CascadeSamplerConfig,
    guidance: Guidance,
    weak: CascadeDiT | None = None,
    slices: int = 1,
    clock: Clock | None = None,
) -> Float[Tensor, "b c h w"]:
    """Carry noise to normalised latents, resolution by resolution.

    Args:
        model: the generator, in evaluation mode.
        labels: classes, on the device of `random`.
        sampler: solvers and time grids, one for each of the model's resolutions.
        weak: the weaker generator of AutoGuidance, of the same resolutions.
        slices: parts in which networks see the batch; solvers see it whole.
        clock: times of the channel groups; absent: all are at the global time.
    """
    latents: Tensor | None = None
    for side, stage in zip(model.sides, sampler.stages, strict=True):
        layout, condition = layout_at(model.layout, side), None
        if latents is not None:
            condition = enlarge(latents, side)
            noise = torch.randn(condition.shape, generator=random, device=random.device)
            condition = condition + sampler.condition_noise * noise
        latents = draw_latents(
            *(model, labels, random, stage, stage.of(guidance)),
            *(weak, slices, clock, layout, condition),
        )
    assert latents is not None
    return latents
