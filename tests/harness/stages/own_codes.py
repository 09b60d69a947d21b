"""A tokenizer with a codebook and a generator of its indices, as somebody else's kinds.

A code is a level of grey: of the whole image, then of each of its quarters. The generator learns
how often each level stands at each place of a class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from harness.config.generator import GENERATORS, GeneratorSettings
from harness.config.tokenizer import TOKENIZERS
from harness.config.tokenizer_settings import TokenizerDefaults
from harness.stages.flops import count_forward
from harness.stages.generator.kind import GeneratorKind
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage
from models.latent import IndexLayout
from models.objectives.objective import Loss
from models.posterior import IndexPosterior
from models.tokenizer import TokenizerNetwork


@dataclass(frozen=True, kw_only=True)
class GreysConfig(TokenizerDefaults):
    kind: Literal["greys"] = "greys"
    codebook_size: int = 300
    latent_dim: int = 1
    seed: int | None = None

    downsample, scaling, is_given = 8, "statistics", True
    provenance, name = "reconstruction", "greys"

    def layout(self, resolution: int) -> IndexLayout:
        side = resolution // self.downsample
        return IndexLayout(codebook_size=self.codebook_size, grids=((1, 1), (side, side)))


class Greys(TokenizerNetwork):
    def __init__(self, layout: IndexLayout) -> None:
        super().__init__()
        self.layout = layout

    def encode(self, images: Any, /) -> IndexPosterior:
        grey = images.mean(dim=1, keepdim=True)
        grids = [functional.adaptive_avg_pool2d(grey, grid) for grid in self.layout.grids]
        levels = torch.cat([grid.flatten(1) for grid in grids], dim=1) / 2 + 0.5
        most = self.layout.codebook_size - 1
        return IndexPosterior(indices=(levels * most).round().long().clamp(0, most))

    def decode(self, latent: Any, /) -> Any:
        _, fine = self.layout.split(latent)
        grey = fine[:, None] / (self.layout.codebook_size - 1) * 2 - 1
        return functional.interpolate(grey, scale_factor=8).expand(-1, 3, -1, -1)


def of(config: TokenizerStage) -> Greys:
    layout = config.tokenizer.layout(config.data.resolution)
    assert isinstance(layout, IndexLayout)
    return Greys(layout)


TOKENIZERS.add(
    "greys",
    GreysConfig,
    TokenizerKind(
        stage=lambda t: TokenizerStage(tokenizer=t.tokenizer, data=t.data, perceptual_weights=""),
        build=of,
        make=lambda _config, _context: {"parameters": 0, "images": None},
        load=lambda config, _artifact: of(config),
    ),
)


@dataclass(frozen=True, kw_only=True)
class TallyConfig(GeneratorSettings):
    samplers: ClassVar[tuple[str, ...]] = ("euler",)
    latents: ClassVar[str] = "indices"

    kind: Literal["tally"] = "tally"


class Tally(nn.Module):
    def __init__(self, layout: Any, num_classes: int) -> None:
        super().__init__()
        self.shape = (*layout.shape, layout.codebook_size)
        self.logits = nn.Parameter(torch.zeros(num_classes, *self.shape))

    def forward(self, labels: Any) -> Any:
        return self.logits[labels]


class CrossEntropy:
    def draw(self, labels: Any, shape: Any, random: Any, step: int) -> Mapping[str, Any]:
        return {"labels": labels}

    def loss(self, network: Any, clean: Any, draws: Mapping[str, Any]) -> Loss:
        found = functional.cross_entropy(network(draws["labels"]).mT, clean)
        return Loss(found, {"cross_entropy": found})


def draw(
    model: Any, labels: Any, random: Any, sampler: Any, guidance: Any, weak: Any = None, slices=1
) -> Any:
    chances = model(labels).softmax(dim=-1).flatten(0, 1)
    return torch.multinomial(chances, 1, generator=random).view(len(labels), -1)


def build(config: Any) -> Tally:
    return Tally(config.layout, config.num_classes)


GENERATORS.add(
    "tally",
    TallyConfig,
    GeneratorKind(
        name="Tally",
        build=build,
        objective=lambda _: CrossEntropy(),
        draw=draw,
        evaluations=lambda _config, _sampler, _guidance: 1.0,
        size=lambda c: count_forward(c, lambda: (build(c), (torch.empty(1, dtype=torch.int64),))),
    ),
)
