"""A trial: one complete configuration of data, tokenizer, generator and evaluation."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import harness.config.autoregressive
import harness.config.lowdiff  # noqa: F401 - these imports add kinds of generators
from harness.config.data import DataConfig
from harness.config.encoders import AlignmentEncoder
from harness.config.evaluation import EvaluationConfig
from harness.config.generator import AnyGeneratorConfig
from harness.config.latents import LatentsConfig
from harness.config.tokenizer import AnyTokenizerConfig
from harness.schema.keys import NO_KEY
from models.latent import AnyLayout


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One complete configuration."""

    seed: int = field(default=0, metadata=NO_KEY)
    """Seed that tokenizer, generator and evaluation follow unless they name their own. It enters
    keys through them."""
    data: DataConfig
    """Images and splits."""
    tokenizer: AnyTokenizerConfig
    latents: LatentsConfig = field(default_factory=LatentsConfig)
    generator: AnyGeneratorConfig | None = None
    """Absent: the tokenizer alone is trained and measured, and rows have no generation metrics."""
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        for name in ("tokenizer", "generator", "evaluation"):
            part = getattr(self, name)
            if part is None:
                continue
            # Seeds are written out here, so that every stage's key has its own and not the trial's.
            if part.seed is None:
                object.__setattr__(self, name, dataclasses.replace(part, seed=self.seed))
            seed = getattr(self, name).seed
            if seed < 0:
                raise ValueError(f"`seed` must not be negative, but got {seed}; use 0 or more")

    @property
    def layout(self) -> AnyLayout:
        """Channel groups and grid, or codebook and grids, of this trial's latents."""
        return self.tokenizer.layout(self.data.resolution)

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """Key path in the trial -> frozen network that its tokenizer or generator looks to."""
        found = {f"tokenizer.{path}": e for path, e in self.tokenizer.encoders.items()}
        if self.generator is not None:
            found |= {f"generator.{path}": e for path, e in self.generator.encoders.items()}
        return found
