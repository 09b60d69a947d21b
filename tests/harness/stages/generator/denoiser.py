"""A generator kind of somebody else's: it predicts clean latents and draws them in one step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from harness.config.generator import GENERATORS, GeneratorSettings
from harness.config.weights import Provenance
from harness.stages.flops import count_forward
from harness.stages.generator.kind import GeneratorKind
from models.objectives.objective import Loss


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(GeneratorSettings):
    """A perceptron that predicts the clean latent; drawn from in one step."""

    samplers: ClassVar[tuple[str, ...]] = ("euler",)

    kind: Literal["denoiser"] = "denoiser"
    width: int

    @property
    def columns(self) -> Mapping[str, Any]:
        return {"generator": self.kind, "generator_size": f"width {self.width}"}

    @property
    def provenance(self) -> Provenance:
        return "reconstruction"


class Denoiser(nn.Module):
    def __init__(self, shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        numbers = shape[0] * shape[1] * shape[2]
        self.classes = nn.Embedding(num_classes, width)
        self.into, self.out = nn.Linear(numbers + 1, width), nn.Linear(width, numbers)

    def forward(self, noisy: Any, level: Any, labels: Any) -> Any:
        seen = torch.cat([noisy.flatten(1), level], dim=1)
        return self.out(torch.tanh(self.into(seen) + self.classes(labels))).view(-1, *self.shape)


class Denoising:
    """Mean squared error of the clean latent, at a level of noise that a batch shares."""

    def draw(self, labels: Any, shape: Any, random: Any, step: int) -> Mapping[str, Any]:
        noise = torch.randn((len(labels), *shape), generator=random, device=random.device)
        return {"labels": labels, "noise": noise, "level": (1 + step % 3) / 3}

    def loss(self, network: Any, clean: Any, draws: Mapping[str, Any]) -> Loss:
        level = clean.new_full((len(clean), 1), draws["level"])
        noisy = clean + draws["level"] * draws["noise"]
        error = (network(noisy, level, draws["labels"]).float() - clean).square().mean()
        return Loss(2 * error, {"clean_mse": error})


def build(config: Any) -> Denoiser:
    return Denoiser(config.layout.shape, config.num_classes, config.generator.width)


def forward(config: Any) -> Any:
    noisy, level = torch.empty(1, *config.layout.shape), torch.empty(1, 1)
    return build(config), (noisy, level, torch.empty(1, dtype=torch.int64))


def draw(
    model: Any, labels: Any, random: Any, sampler: Any, guidance: Any, weak: Any = None, slices=1
) -> Any:
    noise = torch.randn((len(labels), *model.shape), generator=random, device=random.device)
    return model(noise, noise.new_ones(len(labels), 1), labels)


KIND = GeneratorKind(
    name="Denoiser",
    build=build,
    objective=lambda _: Denoising(),
    draw=draw,
    evaluations=lambda config, sampler, guidance: 1.5,
    size=lambda config: count_forward(config, lambda: forward(config)),
)
GENERATORS.add("denoiser", DenoiserConfig, KIND)
