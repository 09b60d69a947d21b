"""Generator kind `autoregressive`: a transformer that draws codes one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.config.generator import GENERATORS, GeneratorSettings
from harness.config.weights import Provenance
from harness.schema.reading import ConfigError
from models.autoregressive import SIZES, DecoderShape
from models.latent import IndexLayout


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(GeneratorSettings):
    """A decoder-only transformer and its training by next-token prediction.

    Sizes and layers are LlamaGen's (arXiv 2406.06525), which CRT (2412.16326) says to follow
    without giving its schedule. LlamaGen's dropout of 0.1 is left out: its masks would differ
    between one worker and several.
    """

    samplers: ClassVar[tuple[str, ...]] = ("categorical",)
    guidances: ClassVar[tuple[str, ...]] = ("none", "cfg_logits")
    latents: ClassVar[str] = "indices"

    kind: Literal["autoregressive"] = "autoregressive"
    size: str | DecoderShape = "111M"
    """A name in `SIZES` of `models/autoregressive.py`, or a shape of one's own."""
    class_dropout: float = 0.1
    """Probability in [0, 1] that training replaces a label by the null class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.size, str) and self.size not in SIZES:
            raise ValueError(
                f"`size` must be one of {', '.join(SIZES)} or a shape, but got {self.size!r}; "
                "use a name from the list"
            )
        if not 0.0 <= self.class_dropout <= 1.0:
            raise ValueError(
                f"`class_dropout` must lie in [0, 1], but got {self.class_dropout}; use 0.1"
            )

    @property
    def shape(self) -> DecoderShape:
        """Depth, width and heads."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size

    @property
    def size_name(self) -> str:
        """The name of its size, or its shape in words."""
        shape = self.shape
        own = f"{shape.depth}x{shape.width}x{shape.num_heads}"
        return self.size if isinstance(self.size, str) else own

    @property
    def label(self) -> str:
        """Kind and size."""
        return f"AR {self.size_name}"

    @property
    def columns(self) -> Mapping[str, Any]:
        """Kind and size."""
        return {"generator": self.kind, "generator_size": self.size_name}

    @property
    def provenance(self) -> Provenance:
        """Guessed in parts where it is trained here."""
        return "reconstruction" if self.checkpoint is None else "published"

    def check(self, layout: IndexLayout) -> None:
        """Refuse latents of several grids."""
        if len(layout.grids) > 1:
            raise ConfigError(
                f"must be a kind that generates {len(layout.grids)} grids of indices, but "
                "'autoregressive' generates one; use a tokenizer of one scale",
                path="kind",
            )


GENERATORS.add("autoregressive", AutoregressiveConfig)
