"""Every kind of tokenizer that a trial can have: its configuration and training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from harness.config.diffusers import DiffusersTokenizerConfig, describe_pretrained
from harness.config.encoders import AlignmentEncoder
from harness.config.phases import PhaseInForce, TokenizerPhase, spell_out
from harness.config.training import TrainingConfig
from harness.config.weights import describe_file
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from models.alignment import NoAlignment, VFAlignment
from models.autoencoder import AutoencoderConfig
from models.tokenizer_loss import TokenizerLossConfig

_FORBID: Any = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class AlignedWith(VFAlignment):
    """The alignment loss of VA-VAE (arXiv 2501.01423, section 3) and the network it looks to."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    encoder: AlignmentEncoder
    """The frozen feature network."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """A VA-VAE and its training; without alignment it is the plain LDM autoencoder."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kind: Literal["va_vae"] = "va_vae"
    latent_dim: int
    """Latent channels."""
    architecture: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Widths and depths of encoder and decoder."""
    alignment: Annotated[NoAlignment | AlignedWith, Field(discriminator="kind")] = NoAlignment()
    """Alignment with a foundation model."""
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Reconstruction, KL and adversarial terms."""
    training: TrainingConfig
    """Length and optimiser."""
    phases: tuple[TokenizerPhase, ...] = field(default=(), metadata=KEY_UNLESS_DEFAULT)
    """Phases of a staged training, whose steps sum to `training.steps`; empty: one phase."""
    checkpoint: str | None = field(default=None, metadata=NO_KEY)
    """Official or Lightning-style file to take the weights from; nothing is trained then, and the
    other fields say how the file was. Its hash enters the key, its path does not."""
    seed: int | None = None
    """Seed of weights and batches; absent: the trial's."""

    def __post_init__(self) -> None:
        if self.latent_dim <= 0:
            raise ValueError(
                f"`latent_dim` must be positive, but got {self.latent_dim}; use 16, 32 or 64"
            )
        if self.architecture.in_channels != 3:
            raise ValueError(
                f"`architecture.in_channels` must be 3, the channels of every data set, but got "
                f"{self.architecture.in_channels}; leave it out"
            )
        spell_out(self.phases, self.training.steps, self.loss, self.alignment)

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        return self.architecture.downsample

    @property
    def scaling(self) -> Literal["statistics"]:
        """Latents are normalised by their measured mean and deviation."""
        return "statistics"

    @property
    def is_given(self) -> bool:
        """Whether its weights come from a file and nothing is trained."""
        return self.checkpoint is not None

    @property
    def name(self) -> str:
        """Name in the table."""
        return self.kind

    @property
    def label(self) -> str:
        """A few words for people."""
        aligned = self.alignment.kind
        if isinstance(self.alignment, AlignedWith):
            aligned += f" {self.alignment.vf_weight:g} {self.alignment.encoder.name}"
        if self.checkpoint is not None:
            aligned += f" from {Path(self.checkpoint).name}"
        elif self.phases:
            aligned += f" in {len(self.phases)} phases"
        return f"f{self.downsample}d{self.latent_dim} {aligned} seed {self.seed}"

    @property
    def schedule(self) -> tuple[PhaseInForce, ...]:
        """The phases with all that is in force in each."""
        return spell_out(self.phases, self.training.steps, self.loss, self.alignment)


def _tokenizer_kind(tree: Any) -> str:
    """The `kind` of a block or of a configuration; a block that names none is a VA-VAE."""
    if isinstance(tree, Mapping):
        return str(tree.get("kind", "va_vae"))
    return str(getattr(tree, "kind", "va_vae"))


AnyTokenizerConfig = Annotated[
    Annotated[TokenizerConfig, Tag("va_vae")]
    | Annotated[DiffusersTokenizerConfig, Tag("diffusers")],
    Discriminator(_tokenizer_kind),
]
"""Every kind of tokenizer."""


def describe_tokenizer(config: AnyTokenizerConfig) -> str:
    """Hash of a tokenizer's given weights for its key; empty where they are trained here."""
    if isinstance(config, DiffusersTokenizerConfig):
        return describe_pretrained(config)
    return describe_file(config.checkpoint)
