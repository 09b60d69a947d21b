"""A trial: one complete configuration of data, tokenizer, generator and evaluation."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from harness.config.diffusers import DiffusersTokenizerConfig
from harness.config.phases import PhaseInForce, TokenizerPhase, spell_out
from harness.config.reference import ReferenceSource, TrainingSplit
from harness.config.training import Precision, TrainingConfig
from harness.data import DatasetConfig
from harness.data.latents.folder import EncodedHere, LatentFolder
from harness.data.pipelines import Pipeline
from harness.metrics.extractors import ExtractionConfig, InceptionConfig
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from models.alignment import NoAlignment, VFAlignment
from models.autoencoder import AutoencoderConfig
from models.ema import EmaConfig
from models.flow import FlowConfig
from models.foundation import TimmEncoderConfig
from models.guidance import (
    AutoGuidance,
    ClassifierFreeGuidance,
    NoGuidance,
)
from models.latent import LatentLayout
from models.lightningdit import LightningDiTConfig
from models.perceptual import LPIPSConfig, NoPerceptual
from models.repa import NoREPA, REPAConfig
from models.sampler import SamplerConfig
from models.tokenizer_loss import TokenizerLossConfig

DataConfig = Annotated[DatasetConfig, Field(discriminator="kind")]
"""Every kind of data set."""

Crop = Pipeline | Literal["training"]
"""A published crop and resize, or the one that the data set names, without its randomness."""


def published(crop: Crop) -> Pipeline | None:
    """The published pipeline, or None for the data set's own."""
    return None if crop == "training" else crop


_FORBID: Any = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class InDomainEncoder:
    """A timm network trained here as a classifier of the training split, as a stage of its own."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kind: Literal["in_domain"] = "in_domain"
    name: str
    """timm model name."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `timm.create_model`, beside the number of classes."""
    input_size: int | None = None
    """Images are resized to this side in pixels first (bilinear); absent: the data's resolution."""
    max_shift: int = field(default=0, metadata=KEY_UNLESS_DEFAULT)
    """Training images are moved by up to so many pixels along either axis, edges mirrored; beside
    the data set's own augmentation."""
    seed: int = 0
    """Seed of its weights and batches; it does not follow the trial's seed."""
    training: TrainingConfig

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise ValueError(
                f"`max_shift` must not be negative, but got {self.max_shift}; use 4 for CIFAR-10"
            )


AlignmentEncoder = Annotated[InDomainEncoder | TimmEncoderConfig, Field(discriminator="kind")]
"""Networks that a tokenizer can be aligned with."""

MetricExtractor = Annotated[
    InDomainEncoder | TimmEncoderConfig | InceptionConfig, Field(discriminator="kind")
]
"""Networks whose features a Fréchet distance can be measured in."""


@dataclass(frozen=True, kw_only=True)
class LPIPSMetric:
    """LPIPS as a metric of reconstructions: VGG16 with the published heads."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kind: Literal["lpips"] = "lpips"
    backbone_weights: str | None = field(default=None, metadata=NO_KEY)
    """File with torchvision's ImageNet VGG16; absent: torchvision's cache."""
    head_weights: str | None = field(default=None, metadata=NO_KEY)
    """File with the published heads; absent: the copy that torchmetrics ships."""

    def as_loss(self) -> LPIPSConfig:
        """The configuration that `models.perceptual.build_lpips` reads."""
        return LPIPSConfig(backbone_weights=self.backbone_weights, head_weights=self.head_weights)


PerceptualMetric = Annotated[NoPerceptual | LPIPSMetric, Field(discriminator="kind")]
"""Perceptual distances of reconstructions."""


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
        """What the table calls it."""
        return self.kind

    @property
    def label(self) -> str:
        """What it is, in words, for people."""
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


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """How the training split is encoded for the generator; the defaults are the published ones."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    flip: bool = True
    """Encode every image mirrored too; the generator sees either with equal probability."""
    crop: Crop = "training"
    """Crop and resize before encoding; `training`: the data set's own, centred."""
    posterior: Literal["sample", "mode", "moments"] = "sample"
    """What of the posterior is kept: one sample (published), the mean, or mean and variance, of
    which every step draws a fresh sample from (seed, step)."""
    source: Annotated[EncodedHere | LatentFolder, Field(discriminator="kind")] = field(
        default=EncodedHere(), metadata=KEY_UNLESS_DEFAULT
    )
    """Encoded here, or read from a folder in the published layout; the other fields then say how
    that was made."""
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=KEY_UNLESS_DEFAULT)
    """What a generator reads: fp32 (published), or rounded to bf16 after normalisation, which
    halves their memory on the device; noise, time and x_t stay fp32. They are stored as fp32."""
    num_images: int | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """Images of the training split that are encoded, spread evenly over it; absent: all."""
    num_statistics: int = 10_000
    """Random images behind the per-channel mean and deviation."""
    batch_size: int = 50
    """Images at a time."""

    def __post_init__(self) -> None:
        if self.num_statistics < 2 or self.batch_size < 1:
            raise ValueError(
                f"`num_statistics` must be at least 2 and `batch_size` at least 1, but got "
                f"{self.num_statistics} and {self.batch_size}; raise them"
            )
        if self.num_images is not None and self.num_images < 2:
            raise ValueError(
                f"`num_images` must be at least 2, but got {self.num_images}; leave it out to "
                "encode all"
            )
        if isinstance(self.source, LatentFolder) and self.num_images is not None:
            raise ValueError(
                f"a folder of latents must be taken whole, but `num_images` is {self.num_images}; "
                "leave it out"
            )
        if isinstance(self.source, LatentFolder) and self.posterior == "moments":
            raise ValueError(
                "a folder of latents must hold one latent an image (`posterior` sample or mode), "
                "but got moments; encode here to keep whole posteriors"
            )

    @property
    def content(self) -> str:
        """What stands for a folder of latents: a hash; empty where they are encoded here."""
        return self.source.identity if isinstance(self.source, LatentFolder) else ""


@dataclass(frozen=True, kw_only=True)
class REPAWith(REPAConfig):
    """Representation alignment of a generator (arXiv 2410.06940) and the network it looks to."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    encoder: AlignmentEncoder
    """The frozen feature network; it sees the very images behind the latents."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(LightningDiTConfig):
    """A LightningDiT and its training."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    flow: FlowConfig = field(default_factory=FlowConfig)
    """Path, time density and loss."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """Moving average of the weights; samples are drawn from it."""
    training: TrainingConfig
    """Length and optimiser."""
    snapshots: tuple[int, ...] = ()
    """Steps at which the moving average is kept for evaluation, beside the last one."""
    repa: Annotated[NoREPA | REPAWith, Field(discriminator="kind")] = field(
        default=NoREPA(), metadata=KEY_UNLESS_DEFAULT
    )
    """Alignment of its tokens with a foundation model."""
    checkpoint: str | None = field(default=None, metadata=NO_KEY)
    """Official file to take the averaged weights from; nothing is trained then, and the other
    fields say how the file was. Its hash enters the key, its path does not."""
    seed: int | None = None
    """Seed of weights and batches; absent: the trial's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bad = [step for step in self.snapshots if not 0 < step < self.training.steps]
        if bad or list(self.snapshots) != sorted(set(self.snapshots)):
            raise ValueError(
                f"`snapshots` must be rising steps between 0 and training.steps = "
                f"{self.training.steps}, but got {list(self.snapshots)}; the last is always kept"
            )
        if self.checkpoint is not None and self.snapshots:
            raise ValueError(
                f"a `checkpoint` holds one snapshot, but `snapshots` asks for "
                f"{list(self.snapshots)} too; remove them"
            )
        if isinstance(self.repa, REPAWith) and self.repa.block > self.shape.depth:
            raise ValueError(
                f"`repa.block` must be at most the depth {self.shape.depth}, but got "
                f"{self.repa.block}; tap an earlier block"
            )

    @property
    def size_name(self) -> str:
        """Name of the size, or depth x width x heads of a shape of one's own."""
        if isinstance(self.size, str):
            return self.size
        return f"{self.size.depth}x{self.size.width}x{self.size.num_heads}"

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """All evaluated steps, the last one included."""
        return (*self.snapshots, self.training.steps)


@dataclass(frozen=True, kw_only=True)
class AutoGuidanceWith(AutoGuidance):
    """Guidance by a weaker model (arXiv 2406.02507): this trial with other settings."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    weak: dict[str, Any]
    """Dotted paths of this trial and the weak model's values, `generator.size: pico` for instance;
    the weak generator becomes a stage of its own."""


Guidance = Annotated[
    NoGuidance | ClassifierFreeGuidance | AutoGuidanceWith, Field(discriminator="kind")
]
"""Every kind of guidance."""


@dataclass(frozen=True, kw_only=True)
class NoDiagnostics:
    """Latents are not looked at by themselves."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class LatentDiagnostics:
    """Uniformity, linear probe, spectrum and channels of each tokenizer's latents."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kind: Literal["latents"] = "latents"
    num_images: int = 10_000
    """Training images, at most, whose latents are read, and as many for testing the probe."""
    num_vectors: int = 10_000
    """Of these, at most so many are embedded by t-SNE, one position each (published: 10,000, about
    a minute on a CPU)."""
    seed: int = 42
    """Seed of the embedding, as published."""

    def __post_init__(self) -> None:
        if min(self.num_images, self.num_vectors) < 100:
            raise ValueError(
                f"`num_images` and `num_vectors` must be at least 100, but got {self.num_images} "
                f"and {self.num_vectors}; raise them"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How tokenizer and generator are measured: everything that moves a metric but no weight."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    extractor: MetricExtractor
    """Feature network of the Fréchet distances."""
    perceptual: PerceptualMetric = NoPerceptual()
    """LPIPS of the reconstructions; needs the weights of VGG16."""
    reconstruction_crop: Crop = "training"
    """Crop and resize of the evaluated images; `training`: the data set's own, centred."""
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)
    """Precision and compilation of the feature network."""
    reference: ReferenceSource = field(default=TrainingSplit(), metadata=KEY_UNLESS_DEFAULT)
    """What generated images are held to."""
    reference_crop: Crop = "training"
    """Crop and resize of the images behind the generation reference."""
    posterior: Literal["sample", "mode"] = "sample"
    """Latents that are decoded for the reconstruction metrics; published: a posterior sample."""
    num_reconstructions: int | None = None
    """Images of the evaluation split that are reconstructed; absent: all of them."""
    num_images: int = 50_000
    """Generated images."""
    num_reference: int | None = None
    """Images of the training split behind the generation reference; absent: all of them."""
    num_reference_features: int = field(default=10_000, metadata=KEY_UNLESS_DEFAULT)
    """Of these, at most so many are kept one by one, for precision, recall and the kernel distance
    (ADM's reference has 10,000)."""
    label_policy: Literal["balanced", "random", "data"] = "random"
    """Labels asked for: equal counts a class, uniform draws (published), or as in the data."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """ODE solver and time grid."""
    sampling_precision: Precision = field(default="fp32", metadata=KEY_UNLESS_DEFAULT)
    """Arithmetic of generator and decoder in sampling. Published: `tf32`, which is fp32 but on
    CUDA; `bf16` moves samples visibly, and rows that use it have no protocol's name."""
    guidance: tuple[Guidance, ...] = (NoGuidance(),)
    """One row of the table each."""
    sampling_seeds: int = field(default=1, metadata=KEY_UNLESS_DEFAULT)
    """Sets of samples a row, each of its own noise and labels; above 1 the row holds means and the
    standard error of gfid."""
    keep_samples: bool = field(default=False, metadata=KEY_UNLESS_DEFAULT)
    """Keep the generated images as an ADM archive (`samples.npz`, 8-bit pixels; 50,000 images of
    256 pixels are 9.2 GiB), which the official evaluator reads."""
    diagnostics: Annotated[NoDiagnostics | LatentDiagnostics, Field(discriminator="kind")] = field(
        default=NoDiagnostics(), metadata=KEY_UNLESS_DEFAULT
    )
    """A look at the latents themselves, a stage for each tokenizer."""
    batch_size: int = 250
    """Images at a time in sampling and feature extraction."""
    seed: int | None = None
    """Seed of noise and labels; absent: the trial's."""

    def __post_init__(self) -> None:
        for name, least in (
            ("num_images", 2),
            ("batch_size", 2),
            ("num_reference_features", 2),
            ("sampling_seeds", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"`{name}` must be at least {least}, but got {getattr(self, name)}; raise it"
                )
        for name in ("num_reconstructions", "num_reference"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(
                    f"`{name}` must be at least 2, but got {value}; leave it out to take all"
                )
        if not self.guidance:
            raise ValueError("`guidance` must name at least one setting; use [{kind: none}]")
        if any(self.guidance.count(setting) > 1 for setting in self.guidance):
            raise ValueError("`guidance` must not name a setting twice, but does; keep one")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One complete configuration."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    seed: int = field(default=0, metadata=NO_KEY)
    """Seed that tokenizer, generator and evaluation follow unless they name their own. It enters
    keys through them."""
    data: DataConfig
    """Images and splits."""
    tokenizer: AnyTokenizerConfig
    latents: LatentsConfig = field(default_factory=LatentsConfig)
    generator: GeneratorConfig | None = None
    """Absent: the tokenizer alone is trained and measured, and rows have no generation metrics."""
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        for name in ("tokenizer", "generator", "evaluation"):
            part = getattr(self, name)
            if part is None:
                continue
            if part.seed is None:
                object.__setattr__(self, name, dataclasses.replace(part, seed=self.seed))
            seed = getattr(self, name).seed
            if seed < 0:
                raise ValueError(f"`seed` must not be negative, but got {seed}; use 0 or more")

    @property
    def layout(self) -> LatentLayout:
        """Channel groups and grid of this trial's latents."""
        side = self.data.resolution // self.tokenizer.downsample
        return LatentLayout.single(channels=self.tokenizer.latent_dim, height=side, width=side)
