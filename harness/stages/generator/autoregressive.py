"""Generator kinds `autoregressive` and `next_scale`: transformers over codes of an image."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from harness.config.autoregressive import AutoregressiveConfig
from harness.config.generator_settings import GeneratorBase
from harness.stages.flops import count_forward, count_kept
from harness.stages.generator.kind import GeneratorKind, GeneratorStage, list_blocks
from models.autoregressive import CodeTransformer
from models.latent import IndexLayout
from models.objectives.next_token import NextTokenObjective
from models.token_sampling import draw_codes


def build(config: GeneratorStage) -> CodeTransformer:
    """Builds the untrained network."""
    return _settings(config.generator).network(_layout(config), config.num_classes)


def objective(config: GeneratorStage) -> NextTokenObjective:
    """Next-token prediction with label dropout."""
    dropout = _settings(config.generator).class_dropout
    return NextTokenObjective(num_classes=config.num_classes, class_dropout=dropout)


def evaluations(_config: GeneratorStage, sampler: Any, guidance: Any) -> float:
    """Passes over a whole image's codes: with a cache its steps cost as much as one, twice that
    under guidance."""
    return sampler.num_function_evaluations * (2.0 if guidance.kind == "cfg_logits" else 1.0)


def size(config: GeneratorStage) -> tuple[int, float]:
    """Parameters, and FLOPs of one pass over all codes of an image."""
    return count_forward(config, lambda: _forward(config))


def _forward(config: GeneratorStage) -> tuple[nn.Module, tuple[Any, ...]]:
    (num_codes,) = _layout(config).shape
    labels = torch.empty(1, dtype=torch.int64)
    return build(config), (labels, torch.empty(1, num_codes - 1, dtype=torch.int64))


def resized(settings: AutoregressiveConfig, like: Any) -> AutoregressiveConfig:
    """The settings with the depth and width of others."""
    return replace(settings, size=like.size)


def _layout(config: GeneratorStage) -> IndexLayout:
    assert isinstance(config.layout, IndexLayout)
    return config.layout


def _settings(config: GeneratorBase) -> AutoregressiveConfig:
    assert isinstance(config, AutoregressiveConfig)
    return config


KIND = GeneratorKind(
    name="transformer over codes",
    build=build,
    objective=objective,
    draw=draw_codes,
    evaluations=evaluations,
    size=size,
    kept=lambda config: count_kept(config, lambda: _forward(config), list_blocks),
    blocks=list_blocks,
    compile=lambda network: network.compile_blocks(),
    resized=resized,
)
