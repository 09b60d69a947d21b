"""Generator kind `lowdiff`: a LightningDiT that generates at rising resolutions."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from harness.config.generator_settings import GeneratorBase
from harness.config.lowdiff import LowDiffConfig
from harness.data.dataset import batches, spread
from harness.data.latents.training_set import LatentSet
from harness.machine.random_streams import derive_seed
from harness.stages.flops import count_forward
from harness.stages.generator import lightningdit
from harness.stages.generator.kind import GeneratorStage
from models.drawing import draw_latents
from models.guidance import Guidance
from models.latent import LatentLayout
from models.lightningdit import LightningDiTConfig
from models.lowdiff import CascadeDiT, CascadeSamplerConfig, draw_cascade
from models.objectives.cascade import CascadeObjective, Statistics, layout_at, lower_key, reduce
from models.sampler import SamplerConfig

NUM_MEASURED = 10_000
"""Latents at most behind the statistics of a lower resolution, as of the latents' own."""


def build(config: GeneratorStage) -> CascadeDiT:
    """Builds the untrained network."""
    settings = _settings(config.generator)
    return CascadeDiT(
        settings, layout=_layout(config), num_classes=config.num_classes, sides=settings.sides
    )


def objective(config: GeneratorStage) -> CascadeObjective:
    """Flow matching at a resolution drawn for each step."""
    settings = _settings(config.generator)
    return CascadeObjective(
        flow=lightningdit.objective(config),
        resolutions=settings.resolutions,
        condition_noise=settings.condition_noise,
        condition_dropout=settings.condition_dropout,
    )


@torch.no_grad()
def measure(objective: CascadeObjective, latents: LatentSet) -> CascadeObjective:
    """Gives the objective mean and deviation of the lower resolutions, of unmirrored latents."""
    found = tuple(_statistics(latents, side) for side in objective.sides[:-1])
    return replace(objective, statistics=found)


def _statistics(latents: LatentSet, side: int) -> Statistics:
    count, total, squares = 0, 0.0, 0.0
    chosen = spread(min(NUM_MEASURED, len(latents)), len(latents))
    for number, local in enumerate(batches(len(chosen), 500)):
        given = latents.lower(chosen[local], 0 * local).get(lower_key(side))
        if given is None:
            noise = latents.noise(derive_seed(side, "resolution"), number, len(local))
            given = reduce(latents.batch(chosen[local], 0 * local, noise)[0], side)
        values = given.double()
        count += values.numel() // values.shape[1]
        total = total + values.sum(dim=(0, 2, 3), keepdim=True)
        squares = squares + values.square().sum(dim=(0, 2, 3), keepdim=True)
    assert isinstance(total, Tensor)
    mean = total / count
    variance = (squares - count * mean.square()) / (count - 1)
    # A channel whose averages do not vary stays finite.
    return mean.float(), variance.clamp(min=1e-12).sqrt().float()


def draw(
    model: CascadeDiT,
    labels: Int64[Tensor, " b"],
    random: torch.Generator,
    sampler: SamplerConfig | CascadeSamplerConfig,
    guidance: Guidance,
    weak: CascadeDiT | None = None,
    slices: int = 1,
) -> Tensor:
    """Draws latents resolution by resolution, or at the full one alone."""
    clock = _settings(model.config).flow.clock(model.layout)
    if isinstance(sampler, CascadeSamplerConfig):
        return draw_cascade(model, labels, random, sampler, guidance, weak, slices, clock)
    return draw_latents(model, labels, random, sampler, guidance, weak, slices, clock)


def evaluations(
    config: GeneratorStage, sampler: SamplerConfig | CascadeSamplerConfig, guidance: Guidance
) -> float | None:
    """Evaluations at any resolution, each by its FLOPs in units of the full one."""
    if not isinstance(sampler, CascadeSamplerConfig):
        return lightningdit.evaluations(config, sampler, guidance)
    sides, total = _settings(config.generator).sides, 0.0
    for side, stage in zip(sides, sampler.stages, strict=True):
        steps = lightningdit.evaluations(config, stage, stage.of(guidance))
        assert steps is not None, "a cascade's steps are fixed"
        total += steps * _share(config, side)
    return total


def size(config: GeneratorStage) -> tuple[int, float]:
    """Parameters, and FLOPs of one velocity at the full resolution."""
    return _size_at(config, _settings(config.generator).sides[-1])


def training_share(config: GeneratorStage) -> float:
    """FLOPs of a training step's forward pass in units of the full resolution, on average."""
    resolutions = _settings(config.generator).resolutions
    whole = sum(each.probability for each in resolutions)
    return sum(each.probability / whole * _share(config, each.side) for each in resolutions)


def _share(config: GeneratorStage, side: int) -> float:
    return _size_at(config, side)[1] / size(config)[1]


def _size_at(config: GeneratorStage, side: int) -> tuple[int, float]:
    def forward() -> tuple[CascadeDiT, tuple[Any, ...]]:
        layout = layout_at(_layout(config), side)
        latent, time = torch.empty(1, *layout.shape), torch.empty(1, layout.num_groups)
        return build(config), (latent, time, torch.empty(1, dtype=torch.int64))

    return count_forward([config, side], forward)


def _layout(config: GeneratorStage) -> LatentLayout:
    assert isinstance(config.layout, LatentLayout)
    return config.layout


def _settings(config: GeneratorBase | LightningDiTConfig) -> LowDiffConfig:
    assert isinstance(config, LowDiffConfig)
    return config


KIND = replace(
    lightningdit.KIND,
    name="LowDiff",
    build=build,
    objective=objective,
    measure=measure,
    draw=draw,
    evaluations=evaluations,
    size=size,
    training_share=training_share,
)
