"""Generator kind `lightningdit`: a LightningDiT that is trained by flow matching."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from harness.config.generator import GeneratorConfig
from harness.config.generator_settings import GeneratorBase
from harness.stages.flops import count_forward, count_kept
from harness.stages.generator.kind import GeneratorKind, GeneratorStage, list_blocks
from models.checkpoint import Weights, read_generator
from models.drawing import draw_latents
from models.guidance import Guidance, guided_parts
from models.latent import LatentLayout
from models.lightningdit import SIZES, DiTShape, LightningDiT, LightningDiTConfig
from models.objectives.flow import FlowObjective
from models.sampler import SamplerConfig, time_grid

CLASS_TABLE = "y_embedder.embedding_table.weight"
"""Embedding of the classes, the null class last."""


def build(config: GeneratorStage) -> LightningDiT:
    """Builds the untrained network."""
    settings = _settings(config.generator)
    return LightningDiT(settings, layout=_layout(config), num_classes=config.num_classes)


def objective(config: GeneratorStage) -> FlowObjective:
    """Flow matching as its settings say."""
    settings = _settings(config.generator)
    return FlowObjective(
        config=settings.flow,
        layout=_layout(config),
        num_classes=config.num_classes,
        class_dropout=settings.class_dropout,
    )


def draw(
    model: LightningDiT,
    labels: Int64[Tensor, " b"],
    random: torch.Generator,
    sampler: SamplerConfig,
    guidance: Guidance,
    weak: LightningDiT | None = None,
    slices: int = 1,
) -> Tensor:
    """Draws latents by the clock that it was trained with."""
    clock = _settings(model.config).flow.clock(model.layout)
    return draw_latents(model, labels, random, sampler, guidance, weak, slices, clock)


def evaluations(config: GeneratorStage, sampler: SamplerConfig, guidance: Guidance) -> int | None:
    """Velocities of a grid's steps; where classifier-free guidance is on, those without a class."""
    if sampler.num_function_evaluations is None:
        return None
    layout = _layout(config)
    clock, guided = _settings(config.generator).flow.clock(layout), 0
    grid = time_grid(sampler, clock.horizon).tolist()
    # Heun's method evaluates at both ends of a step.
    times = [*grid[:-1], *grid[1:]] if sampler.kind == "heun" else grid[:-1]
    if guidance.kind == "cfg":
        guided = sum(bool(guided_parts(guidance, clock.times(time), layout)) for time in times)
    return len(times) + guided


def complete(config: GeneratorStage, weights: Weights) -> None:
    """Add the null class where labels are not dropped: published networks then have none."""
    table = weights.get(CLASS_TABLE)
    if table is None or len(table) != config.num_classes:
        return
    if _settings(config.generator).class_dropout == 0:
        weights[CLASS_TABLE] = torch.cat([table, torch.zeros_like(table[:1])])


def size(config: GeneratorStage) -> tuple[int, float]:
    """Parameters, and FLOPs of one velocity."""
    return count_forward(config, lambda: _forward(config))


def _forward(config: GeneratorStage) -> tuple[nn.Module, tuple[Any, ...]]:
    layout = _layout(config)
    latent, time = torch.empty(1, *layout.shape), torch.empty(1, layout.num_groups)
    return build(config), (latent, time, torch.empty(1, dtype=torch.int64))


def token_side(config: GeneratorStage) -> int:
    """Patches along a side of the latent."""
    return _layout(config).height // _settings(config.generator).patch_size


def resized(settings: GeneratorConfig, like: LightningDiTConfig) -> GeneratorConfig:
    """The settings with the depth and width of others."""
    return replace(settings, size=like.size)


def _layout(config: GeneratorStage) -> LatentLayout:
    assert isinstance(config.layout, LatentLayout)
    return config.layout


def _settings(config: GeneratorBase | LightningDiTConfig) -> GeneratorConfig:
    assert isinstance(config, GeneratorConfig)
    return config


KIND = GeneratorKind(
    name="LightningDiT",
    build=build,
    objective=objective,
    draw=draw,
    evaluations=evaluations,
    size=size,
    kept=lambda config: count_kept(config, lambda: _forward(config), list_blocks),
    blocks=list_blocks,
    read_checkpoint=read_generator,
    complete=complete,
    compile=lambda network: network.compile_blocks(),
    token_side=token_side,
    sizes={name: LightningDiTConfig(size=name) for name in SIZES},
    smallest=LightningDiTConfig(size=DiTShape(depth=1, width=32, num_heads=2)),
    resized=resized,
)
