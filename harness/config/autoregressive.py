"""Generator kinds `autoregressive` and `next_scale`: transformers that draw codes in turn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.config.generator import GENERATORS, GeneratorSettings
from harness.config.weights import Provenance
from harness.schema.reading import ConfigError
from models.autoregressive import SIZES, AutoregressiveTransformer, CodeTransformer, DecoderShape
from models.latent import IndexLayout
from models.next_scale import NextScaleTransformer


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
    word: ClassVar[str] = "AR"
    """Its kind in labels."""

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

    def network(self, layout: IndexLayout, num_classes: int) -> CodeTransformer:
        """Build the untrained network."""
        return AutoregressiveTransformer(self.shape, layout=layout, num_classes=num_classes)

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
        return f"{self.word} {self.size_name}"

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
                "'autoregressive' generates one; use next_scale, or a tokenizer of one scale",
                path="kind",
            )


@dataclass(frozen=True, kw_only=True)
class NextScaleConfig(AutoregressiveConfig):
    """The same blocks over all scales of a latent, drawn scale by scale (VAR, arXiv 2404.02905).

    VAR's own blocks take the class by adaptive norms and have learnt positions; here the class is
    what tokens of the first scale are given, as of TokenFlow's generator, whose blocks are Llama's.
    """

    word: ClassVar[str] = "next-scale"

    kind: Literal["next_scale"] = "next_scale"  # pyright: ignore[reportIncompatibleVariableOverride]

    def network(self, layout: IndexLayout, num_classes: int) -> CodeTransformer:
        """Build the untrained network."""
        return NextScaleTransformer(self.shape, layout=layout, num_classes=num_classes)

    def check(self, layout: IndexLayout) -> None:
        """Any grids will do."""


GENERATORS.add("autoregressive", AutoregressiveConfig)
GENERATORS.add("next_scale", NextScaleConfig)
