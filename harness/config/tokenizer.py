"""Every kind of tokenizer that a trial can have: its configuration and training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.config.diffusers import DiffusersTokenizerConfig
from harness.config.encoders import AlignmentEncoder, InDomainEncoder, TimmEncoderConfig
from harness.config.identity import IdentityTokenizerConfig
from harness.config.phases import PhaseInForce, TokenizerPhase, spell_out
from harness.config.python_tokenizer import PythonTokenizerConfig
from harness.config.regularizers import AnyRegularizer
from harness.config.semantic import (
    CompositeTokenizerConfig,
    PrincipalComponentsConfig,
    SemVAEConfig,
)
from harness.config.tokenizer_settings import TOKENIZERS, AnyTokenizerConfig, TokenizerDefaults
from harness.config.training import TrainingConfig
from harness.config.weights import Provenance, RowWeights, describe_file, file_of, start_words
from harness.schema.imported import code_of
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from harness.schema.reading import ConfigError
from models.alignment import NoAlignment, VFAlignment
from models.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    ConvolutionalAutoencoder,
    QuantizedAutoencoder,
)
from models.checkpoint import Weights, read_tokenizer
from models.dual_autoencoder import DualAutoencoder, SemanticDecoderConfig, read_dual_tokenizer
from models.dual_quantizer import DualQuantizerConfig
from models.foundation import EncoderNetwork
from models.latent import AnyLayout, ChannelGroup, IndexLayout, LatentLayout
from models.quantizers import QuantizerConfig, VectorQuantizerConfig
from models.regularizers.contract import try_out
from models.tokenizer_loss import ImageLossConfig, QuantizedLossConfig, TokenizerLossConfig

__all__ = [
    "TOKENIZERS",
    "AlignedWith",
    "AnyTokenizerConfig",
    "DualTokenizerConfig",
    "QuantizedTokenizerConfig",
    "TokenizerConfig",
]


@dataclass(frozen=True, kw_only=True)
class AlignedWith(VFAlignment):
    """The alignment loss of VA-VAE (arXiv 2501.01423, section 3) and the network it looks to."""

    encoder: AlignmentEncoder
    """The frozen feature network."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(TokenizerDefaults):
    """A convolutional autoencoder and its training, whatever lies between encoder and decoder; a
    kind adds its `kind`, `loss` and `network`."""

    reader: ClassVar[Callable[..., Weights]] = staticmethod(read_tokenizer)
    """Reads a file of its weights, as `models.checkpoint.read_tokenizer` does."""
    network: ClassVar[Callable[..., ConvolutionalAutoencoder]]
    """Builds the untrained network for images of so many pixels."""

    kind: str
    latent_dim: int
    """Latent channels."""
    architecture: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Widths and depths of encoder and decoder."""
    alignment: Annotated[NoAlignment | AlignedWith, Field(discriminator="kind")] = NoAlignment()
    """Alignment with a foundation model."""
    loss: ImageLossConfig
    """Terms of the loss."""
    regularizers: tuple[AnyRegularizer, ...] = field(default=(), metadata=KEY_UNLESS_DEFAULT)
    """What else shapes the latents, in the order in which it acts; a kind stands once."""
    training: TrainingConfig
    """Length and optimiser."""
    phases: tuple[TokenizerPhase, ...] = field(default=(), metadata=KEY_UNLESS_DEFAULT)
    """Phases of a staged training, whose steps sum to `training.steps`; empty: one phase."""
    checkpoint: str | None = field(default=None, metadata=NO_KEY)
    """Official or Lightning-style file to take the weights from; nothing is trained then, and the
    other fields say how the file was. Its hash enters the key, its path does not."""
    checkpoint_entry: str | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """Entry of that file, or of `initial_weights`, that holds the weights, e.g. `ema`; absent: the
    first that is there of the names in use (`models.checkpoint.ENTRIES`)."""
    initial_weights: RowWeights | str | None = field(default=None, metadata=NO_KEY)
    """Weights that the training starts from, as far as names and shapes fit: an official or
    Lightning-style file, `model.safetensors` of a tokenizer here, or a row, `{results:
    results/frontier, row: ...}`. Their hash enters the key, their place does not."""
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
        kinds = [regularizer.kind for regularizer in self.regularizers]
        if len(set(kinds)) < len(kinds):
            raise ValueError(
                f"`regularizers` must hold every kind once at most, but got {', '.join(kinds)}; "
                "remove one"
            )
        if self.checkpoint is not None and self.initial_weights is not None:
            raise ValueError(
                "`initial_weights` must be left out beside `checkpoint`, which is not trained, but "
                "both are given; keep `checkpoint` to take weights as they are, or "
                "`initial_weights` to train on from them"
            )
        spell_out(self.phases, self.training.steps, self.loss, self.alignment)

    def channels(self, resolution: int) -> LatentLayout:
        """Channels and grid of what the encoder gives, before any quantisation."""
        side = resolution // self.downsample
        return LatentLayout.single(channels=self.latent_dim, height=side, width=side)

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        return self.architecture.downsample

    @property
    def is_given(self) -> bool:
        """Whether its weights come from a file and nothing is trained."""
        return self.checkpoint is not None

    @property
    def provenance(self) -> Provenance:
        """Published where its weights are given, guessed in parts where a regulariser is."""
        if self.is_given:
            return "published"
        guessed = any(r.provenance == "reconstruction" for r in self.regularizers)
        return "reconstruction" if guessed else self.recipe

    @property
    def recipe(self) -> Provenance:
        """Whether the training itself follows a fully specified recipe or a guessed one."""
        return "reproduced"

    @property
    def latent_label(self) -> str:
        """The latent in a few characters."""
        return f"f{self.downsample}d{self.latent_dim}"

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
        if self.regularizers:
            aligned += f" {self._regularizers}"
        if self.checkpoint is not None:
            aligned += f" from {Path(self.checkpoint).name}"
        elif self.phases:
            aligned += f" in {len(self.phases)} phases"
        if self.initial_weights is not None:
            aligned += f" {start_words(self.initial_weights)}"
        return f"{self.latent_label} {aligned} seed {self.seed}"

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """The network of its alignment."""
        if isinstance(self.alignment, AlignedWith):
            return {"alignment.encoder": self.alignment.encoder}
        return {}

    @property
    def columns(self) -> Mapping[str, Any]:
        """Its alignment and its regularisers."""
        aligned, regularizers = self.alignment, {"regularizers": self._regularizers}
        if not isinstance(aligned, AlignedWith):
            return {"alignment": aligned.kind, "vf_weight": 0.0, **regularizers}
        return {
            **regularizers,
            "alignment": aligned.kind,
            "alignment_encoder": aligned.encoder.name,
            "vf_weight": aligned.vf_weight,
            "cos_margin": aligned.cos_margin,
            "distmat_margin": aligned.distmat_margin,
            "adaptive_vf": "yes" if aligned.adaptive else "no",
        }

    @property
    def identity(self) -> "AutoencoderSettings":
        """The configuration with the file of a row that the training starts from."""
        return replace(self, initial_weights=file_of(self.initial_weights, "tokenizer"))

    def describe(self) -> Mapping[str, str]:
        """Hashes of `checkpoint` and `initial_weights`."""
        start = file_of(self.initial_weights, "tokenizer")
        files = {"checkpoint": self.checkpoint, "initial_weights": start}
        return {name: describe_file(path) for name, path in files.items() if path is not None}

    def check(self, resolution: int) -> None:
        """Ask each regulariser; one of the user's own code is tried out."""
        layout, factor = self.channels(resolution), self.downsample
        for number, regularizer in enumerate(self.regularizers):
            is_own = bool(code_of(regularizer))
            try:
                smallest = self.loss.smallest_image
                regularizer.check(layout, downsample=factor, smallest_image=smallest)
                if is_own:
                    try_out(regularizer, layout, downsample=factor)
            except Exception as error:
                if not is_own and not isinstance(error, ValueError):
                    raise
                told = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                raise ConfigError(f"{told}{error}", path=f"regularizers.{number}") from error

    @property
    def _regularizers(self) -> str:
        return " + ".join(regularizer.label for regularizer in self.regularizers) or "none"

    @property
    def schedule(self) -> tuple[PhaseInForce, ...]:
        """The phases with all that is in force in each."""
        return spell_out(self.phases, self.training.steps, self.loss, self.alignment)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(AutoencoderSettings):
    """A VA-VAE and its training; without alignment it is the plain LDM autoencoder."""

    kind: Literal["va_vae"] = "va_vae"
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Reconstruction, KL and adversarial terms."""

    def network(self, resolution: int) -> Autoencoder:
        """Build the untrained network."""
        return Autoencoder(self.architecture, latent_dim=self.latent_dim, resolution=resolution)


@dataclass(frozen=True, kw_only=True)
class QuantizedTokenizerConfig(AutoencoderSettings):
    """The same autoencoder with a quantiser in place of the Gaussian: VQGAN, or FSQ.

    CRT (arXiv 2412.16326) has no code and leaves open the width and scale of codes, the weights of
    the loss and the learning rate; defaults are LlamaGen's (arXiv 2406.06525), which CRT builds on.
    """

    kind: Literal["vq"] = "vq"
    latent_dim: int = 8
    """Numbers of a code."""
    quantizer: Annotated[QuantizerConfig, Field(discriminator="kind")] = VectorQuantizerConfig()
    """The codebook and how it is learnt."""
    loss: QuantizedLossConfig = field(default_factory=QuantizedLossConfig)
    """Reconstruction and adversarial terms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width = self.quantizer.width
        if width not in (None, self.latent_dim):
            raise ValueError(
                f"`latent_dim` must be the number of `quantizer.levels`, {width}, but got "
                f"{self.latent_dim}; set it to {width}"
            )

    def layout(self, resolution: int) -> IndexLayout:
        """A square grid of indices."""
        grid = self.channels(resolution)
        return IndexLayout(
            codebook_size=self.quantizer.codebook_size, grids=((grid.height, grid.width),)
        )

    def network(self, resolution: int) -> QuantizedAutoencoder:
        """Build the untrained network."""
        return QuantizedAutoencoder(
            self.architecture, self.quantizer, latent_dim=self.latent_dim, resolution=resolution
        )

    @property
    def recipe(self) -> Provenance:
        """Guessed in parts: no published code trains it with these terms."""
        return "reconstruction"

    @property
    def latent_label(self) -> str:
        """Downsampling, kind of quantiser, codes and their width."""
        return (
            f"f{self.downsample} {self.quantizer.kind} {self.quantizer.codebook_size}"
            f"x{self.latent_dim}"
        )

    @property
    def name(self) -> str:
        """Name in the table: the kind of quantiser."""
        return self.quantizer.kind

    @property
    def columns(self) -> Mapping[str, Any]:
        """Its alignment and regularisers, and the size of its codebook."""
        return {**super().columns, "codebook_size": self.quantizer.codebook_size}


@dataclass(frozen=True, kw_only=True)
class DualTokenizerConfig(AutoencoderSettings):
    """TokenFlow (arXiv 2412.03069): two encoders and two decoders around pairs of codes.

    `architecture` is the pixel encoder's. Defaults are those of the released script for CLIP B;
    that has attention at 14 cells, where the latent of 224 pixels lies.
    """

    reader: ClassVar[Callable[..., Weights]] = staticmethod(read_dual_tokenizer)

    kind: Literal["dual_vq"] = "dual_vq"
    latent_dim: int = 40
    """Numbers of a pair of codes."""
    quantizer: DualQuantizerConfig = DualQuantizerConfig()
    """The codebooks and their scales."""
    latents: Literal["indices", "continuous", "requantised"] = "indices"
    """What a generator learns: indices, or the sum of their codes as channels of the groups
    `semantic` and `pixel`, which are decoded as they come or brought to codes first. The tokenizer
    is the same."""
    teacher: AlignmentEncoder
    """Frozen network whose features the semantic decoder is to give back."""
    student: Annotated[InDomainEncoder | TimmEncoderConfig | None, Field(discriminator="kind")] = (
        None
    )
    """Network that the semantic encoder starts as and is trained on; absent: the teacher."""
    decoder: AutoencoderConfig | None = None
    """Shape of the pixel decoder; absent: `architecture`."""
    semantic_decoder: SemanticDecoderConfig = SemanticDecoderConfig()
    """Size of the transformer that gives features back."""
    pixel_width: int = 256
    """Channels between the pixel encoder and its projection to the codes."""
    semantic_loss: Literal["cosine", "l2"] = "cosine"
    """How features differ from the teacher's: 1 - cosine (the code) or squares (the paper)."""
    semantic_weight: float = 1.0
    """Weight of that term."""
    loss: QuantizedLossConfig = field(default_factory=QuantizedLossConfig)
    """Reconstruction and adversarial terms; published: LPIPS with `dropout: 0.5`, and a
    discriminator with `balance: constant`, `weight: 0.5`, `start_step: 20000`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_dim != self.quantizer.width:
            raise ValueError(
                f"`latent_dim` must be the numbers of a pair of `quantizer`, "
                f"{self.quantizer.width}, but got {self.latent_dim}; set it to that"
            )
        if isinstance(self.alignment, AlignedWith):
            raise ValueError("`alignment` must be none beside a `teacher`, but is vf; leave it out")
        if not isinstance(self.trained, InDomainEncoder | TimmEncoderConfig):
            raise ValueError(
                "`student` must be given where the teacher, whose weights it would take and train, "
                f"is of kind {self.teacher.kind}; give one of kind timm or in_domain"
            )
        shapes = (self.architecture, self.decoder or self.architecture)
        if len({(shape.downsample, shape.in_channels) for shape in shapes}) > 1:
            raise ValueError(
                f"`decoder` must enlarge {shapes[0].downsample} times to 3 channels, as "
                f"`architecture` makes smaller, but enlarges {shapes[1].downsample} times to "
                f"{shapes[1].in_channels}; give both as many `width_multipliers`"
            )

    @property
    def trained(self) -> AlignmentEncoder:
        """The network of the semantic encoder."""
        return self.student or self.teacher

    def layout(self, resolution: int) -> AnyLayout:
        """A square grid of indices for each scale, from coarse to fine, or channels."""
        codes, side = self.quantizer, self.channels(resolution).height
        grids = tuple((each, each) for each in codes.sides(side))
        if self.latents == "indices":
            return IndexLayout(codebook_size=codes.codebook_size, grids=grids)
        widths = {"semantic": codes.semantic_dim, "pixel": codes.pixel_dim}
        groups = tuple(ChannelGroup(name=name, channels=n) for name, n in widths.items())
        return LatentLayout(groups=groups, height=side, width=side)

    @property
    def identity(self) -> "AutoencoderSettings":
        """Without what a generator makes of it."""
        return replace(super().identity, latents="indices")

    @property
    def name(self) -> str:
        """Name in the table: the kind, and what is generated where that is no indices."""
        return self.kind if self.latents == "indices" else f"{self.kind} {self.latents}"

    def network(
        self, resolution: int, semantic_encoder: EncoderNetwork, feature_dim: int
    ) -> DualAutoencoder:
        """Build the network around a semantic encoder, for features of the teacher's width."""
        return DualAutoencoder(
            self.architecture,
            self.quantizer,
            decoder=self.decoder,
            semantic_decoder=self.semantic_decoder,
            semantic_encoder=semantic_encoder,
            pixel_width=self.pixel_width,
            feature_dim=feature_dim,
            semantic_loss=self.semantic_loss,
            semantic_weight=self.semantic_weight,
            resolution=resolution,
        )

    @property
    def latent_label(self) -> str:
        """Downsampling, codes and their width, and the number of scales."""
        scales = f" in {len(self.quantizer.scales)} scales" if self.quantizer.scales else ""
        return f"f{self.downsample} dual {self.quantizer.codebook_size}x{self.latent_dim}{scales}"

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """The teacher, and where it is another the network that the student starts as."""
        student = {} if self.student is None else {"student": self.student}
        return {"teacher": self.teacher, **student}

    @property
    def columns(self) -> Mapping[str, Any]:
        """Its regularisers, its teacher and the size of its codebook."""
        teacher, size = self.teacher.name, self.quantizer.codebook_size
        return {**super().columns, "alignment_encoder": teacher, "codebook_size": size}


TOKENIZERS.add("va_vae", TokenizerConfig)
TOKENIZERS.add("vq", QuantizedTokenizerConfig)
TOKENIZERS.add("dual_vq", DualTokenizerConfig)
TOKENIZERS.add("diffusers", DiffusersTokenizerConfig)
TOKENIZERS.add("identity", IdentityTokenizerConfig)
TOKENIZERS.add("python", PythonTokenizerConfig)
TOKENIZERS.add("semvae", SemVAEConfig)
TOKENIZERS.add("pca", PrincipalComponentsConfig)
TOKENIZERS.add("composite", CompositeTokenizerConfig)
