"""What every kind of generator says of itself, trained here or given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.config.encoders import AlignmentEncoder
from harness.config.weights import Provenance
from harness.data.missing import MissingItem
from models.latent import AnyLayout
from models.repa import REPAConfig


@dataclass(frozen=True, kw_only=True)
class REPAWith(REPAConfig):
    """Representation alignment of a generator (arXiv 2410.06940) and the network it looks to."""

    encoder: AlignmentEncoder
    """The frozen feature network; it sees the very images behind the latents."""


@dataclass(frozen=True, kw_only=True)
class GeneratorBase:
    """What a trial says of a generator of any kind, and what others ask of it.

    A kind is a frozen dataclass that extends this one by a field `kind` and by fields of its own;
    one that is trained here extends `harness.config.generator.GeneratorSettings`, which extends
    this. `harness.stages.generator` holds what needs its network.
    """

    samplers: ClassVar[tuple[str, ...]] = ()
    """Kinds of `evaluation.sampler` that it can be sampled with; none: it draws by itself."""
    latents: ClassVar[str] = "channels"
    """Kind of latents that it generates: `channels`, or `indices` of a codebook."""
    guidances: ClassVar[tuple[str, ...]] = ("none",)
    """Kinds of `evaluation.guidance` that it can be sampled with."""

    kind: str
    """Tells this choice from others."""
    seed: int | None = None
    """Seed of weights and batches; absent: the trial's."""

    @property
    def is_given(self) -> bool:
        """Whether its weights come from elsewhere and nothing is trained."""
        return True

    @property
    def reads_latents(self) -> bool:
        """Whether it lives in the normalised latents of the training split, or of a file."""
        return False

    @property
    def encoded_sides(self) -> tuple[int, ...]:
        """Cells along a side of further latents of every image, which are of smaller images."""
        return ()

    @property
    def draws(self) -> Literal["latents", "images"]:
        """What it draws: latents for the tokenizer's decoder, or images."""
        return "latents"

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """All evaluated training steps, the last one included; (0,) where nothing is trained."""
        return (0,)

    @property
    def num_held_out(self) -> int:
        """Latents that its training does not learn from."""
        return 0

    def images_at(self, step: int) -> int | None:
        """Images that it has seen after a training step; None where nobody knows."""
        return None

    @property
    def label(self) -> str:
        """A word for people, in the labels of stages and the rows of benchmarks."""
        return self.kind

    @property
    def origin(self) -> str:
        """Where its weights come from, in words; empty where training says all."""
        return ""

    @property
    def columns(self) -> Mapping[str, Any]:
        """Columns of the table that say what it is."""
        return {"generator": self.kind}

    @property
    def provenance(self) -> Provenance:
        """Where its weights and its recipe come from."""
        return "published"

    @property
    def identity(self) -> "GeneratorBase":
        """The configuration without what moves nothing of it."""
        return self

    @property
    def token_alignment(self) -> REPAWith | None:
        """How its tokens are aligned with a frozen network's features while it is trained."""
        return None

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """Key path below `generator` -> frozen network that its training looks to."""
        aligned = self.token_alignment
        return {} if aligned is None else {"repa.encoder": aligned.encoder}

    def describe(self) -> Mapping[str, str]:
        """Hashes of the files that it takes from elsewhere, for keys; without those not given."""
        return {}

    def missing(self, path: str = "generator") -> list[MissingItem]:
        """Files that it takes from elsewhere and this machine lacks; `path` is its key path."""
        del path
        return []

    def check(self, layout: Any) -> None:
        """Refuse latents that don't fit: a ConfigError with the key path inside the generator."""

    def check_sampler(self, sampler: Any) -> None:
        """Refuse a sampler of a kind in `samplers` that does not fit its other settings: a
        ConfigError with the key path inside the sampler."""

    def check_weak(self, weak: Any, layout: AnyLayout) -> None:
        """Refuse a generator of the same kind that cannot guide this one as the weaker model: a
        ConfigError with the key path inside the generator."""
