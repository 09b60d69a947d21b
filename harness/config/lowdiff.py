"""Generator kind `lowdiff`: one LightningDiT that generates at rising resolutions."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from harness.config.generator import GENERATORS, GeneratorConfig
from harness.config.generator_settings import REPAWith
from harness.config.weights import Provenance
from harness.schema.reading import ConfigError
from models.latent import AnyLayout, LatentLayout
from models.lowdiff import CascadeSamplerConfig
from models.objectives.cascade import CascadeResolution


@dataclass(frozen=True, kw_only=True)
class LowDiffConfig(GeneratorConfig):
    """A LightningDiT trained at several resolutions of the latent, each given the one below.

    LowDiff (arXiv 2509.15342) leaves open how the condition enters, its noise, probabilities,
    weights and shifts. Under a sampler other than `cascade` it runs at its full resolution alone.
    """

    samplers: ClassVar[tuple[str, ...]] = (*GeneratorConfig.samplers, "cascade")

    kind: Literal["lowdiff"] = "lowdiff"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Tells this choice from others."""
    resolutions: tuple[CascadeResolution, ...]
    """One to three, from the lowest to the latent's own."""
    lower: Literal["averages", "images"] = field(
        default="averages", metadata={"key": "unless_default"}
    )
    """Latents of the lower resolutions: area averages of the latent, or `images`: the images'
    area averages, encoded. The tokenizer must serve such small images."""
    condition_noise: float = 0.4
    """Largest deviation of the noise on the condition in training."""
    condition_dropout: float = 0.1
    """Probability in [0, 1] that training leaves the condition out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = self.sides
        if not 1 <= len(sides) <= 3 or list(sides) != sorted(set(sides)):
            raise ValueError(
                f"`resolutions` must be one to three of rising side, but got sides {list(sides)}; "
                "begin with the lowest"
            )
        if isinstance(self.repa, REPAWith) and len(sides) > 1:
            raise ValueError(
                "`repa` must be none where `resolutions` are several, whose tokens lie on unlike "
                "grids, but is repa; leave it out"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Cells along a side at each resolution."""
        return tuple(each.side for each in self.resolutions)

    @property
    def encoded_sides(self) -> tuple[int, ...]:
        """Cells along a side of each lower resolution whose latents are encoded."""
        return self.sides[:-1] if self.lower == "images" and not self.is_given else ()

    @property
    def label(self) -> str:
        """Size, patch and resolutions: `LowDiff B/1 8+16`."""
        return f"LowDiff {super().label} {'+'.join(map(str, self.sides))}"

    @property
    def provenance(self) -> Provenance:
        """Guessed in parts where it is trained here."""
        return "reconstruction" if self.checkpoint is None else "published"

    def check(self, layout: LatentLayout) -> None:
        """Refuse what the plain network refuses, and sides that do not divide the latent's."""
        super().check(layout)
        last = len(self.sides) - 1
        for number, side in enumerate(self.sides):
            divides = layout.height % side == 0 and side % self.patch_size == 0
            if (number == last and side != layout.height) or not divides:
                raise ConfigError(
                    f"must divide the latent side {layout.height}, which the last one is, and be a "
                    f"multiple of patch_size {self.patch_size}, but got {side}; change it",
                    path=f"resolutions.{number}.side",
                )

    def check_weak(self, weak: GeneratorConfig, layout: AnyLayout) -> None:
        """Refuse a weak model of another clock or of other resolutions."""
        super().check_weak(weak, layout)
        assert isinstance(weak, LowDiffConfig)
        if weak.sides != self.sides:
            raise ConfigError(
                f"must be the guided generator's, {list(self.sides)}, but are {list(weak.sides)}; "
                "leave them out of `weak`",
                path="generator.resolutions",
            )

    def check_sampler(self, sampler: Any) -> None:
        """Refuse a cascade of another number of resolutions."""
        given = len(self.sides)
        if isinstance(sampler, CascadeSamplerConfig) and len(sampler.stages) != given:
            raise ConfigError(
                f"must be {given}, one for each of generator.resolutions, but are "
                f"{len(sampler.stages)}; name them from the lowest up",
                path="stages",
            )


GENERATORS.add("lowdiff", LowDiffConfig)
