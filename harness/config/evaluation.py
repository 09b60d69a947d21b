"""How a trial's tokenizer and generator are measured."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.config.data import Crop
from harness.config.encoders import MetricExtractor
from harness.config.perceptual import PerceptualMetric
from harness.config.reference import ReferenceSource, TrainingSplit
from harness.config.samplers import AnySampler
from harness.config.training import Precision
from harness.metrics.extractors import ExtractionConfig
from harness.schema.keys import KEY_UNLESS_DEFAULT
from models.guidance import AutoGuidance, ClassifierFreeGuidance, NoGuidance
from models.perceptual import NoPerceptual
from models.sampler import SamplerConfig
from models.token_sampling import LogitGuidance

MAX_GUIDANCE = 500
"""Guidance settings of a trial, each compared with every other."""


@dataclass(frozen=True, kw_only=True)
class AutoGuidanceWith(AutoGuidance):
    """Guidance by a weaker model (arXiv 2406.02507): this trial with other settings."""

    weak: dict[str, Any]
    """Dotted paths of this trial and the weak model's values, `generator.size: pico` for instance;
    the weak generator becomes a stage of its own, or is another row's where all values are."""
    step: int | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """Training step of the weak generator's snapshot; absent: its last."""


Guidance = Annotated[
    NoGuidance | ClassifierFreeGuidance | AutoGuidanceWith | LogitGuidance,
    Field(discriminator="kind"),
]
"""Every kind of guidance."""


@dataclass(frozen=True, kw_only=True)
class NoDiagnostics:
    """Latents are not looked at by themselves."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class LatentDiagnostics:
    """Uniformity, linear probe, spectrum and channels of each tokenizer's latents."""

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

    extractor: MetricExtractor
    """Feature network of the Fréchet distances."""
    perceptual: PerceptualMetric = NoPerceptual()
    """LPIPS of the reconstructions; needs the weights of VGG16."""
    reconstruction_crop: Crop = "training"
    """Crop and resize of the evaluated images; `training`: the data set's own, centred."""
    extraction: ExtractionConfig = field(default=ExtractionConfig(), metadata=KEY_UNLESS_DEFAULT)
    """Precision and compilation of the feature network."""
    reference: ReferenceSource = field(default=TrainingSplit(), metadata=KEY_UNLESS_DEFAULT)
    """The reference: images or statistics that generated images are compared with."""
    reference_crop: Crop = "training"
    """Crop and resize of the images behind the generation reference."""
    posterior: Literal["sample", "mode"] = "sample"
    """Latents that are decoded for the reconstruction metrics; published: a posterior sample."""
    num_reconstructions: int | None = None
    """Images of the evaluation split that are reconstructed; absent: all of them. 0: none, where
    no images are at hand; the row then has no reconstruction metrics."""
    num_images: int = 50_000
    """Generated images."""
    num_reference: int | None = None
    """Images of the training split behind the generation reference; absent: all of them."""
    num_reference_features: int = field(default=10_000, metadata=KEY_UNLESS_DEFAULT)
    """Of these, at most so many are kept one by one, for precision, recall and the kernel distance
    (ADM's reference has 10,000)."""
    label_policy: Literal["balanced", "random", "data"] = "random"
    """Labels asked for: equal counts a class, uniform draws (published), or as in the data."""
    sampler: AnySampler = field(default_factory=SamplerConfig)
    """ODE solver and time grid, or how codes are drawn from their logits."""
    sampling_precision: Precision = field(default="fp32", metadata=KEY_UNLESS_DEFAULT)
    """Arithmetic of generator and decoder in sampling. Published: `tf32`, which is fp32 but on
    CUDA; `bf16` moves samples visibly, and rows that use it have no protocol's name."""
    guidance: tuple[Guidance, ...] = (NoGuidance(),)
    """One row of the table each."""
    sampling_seeds: int = field(default=1, metadata=KEY_UNLESS_DEFAULT)
    """Sets of samples a row, each of its own noise and labels; above 1 the row holds means and the
    standard error of gfid."""
    keep: Literal["none", "features", "samples"] = field(
        default="none", metadata=KEY_UNLESS_DEFAULT
    )
    """What is kept of generated images, so that another reference or a metric that comes later
    scores them without sampling again. `features`: those of the extractor (`features.safetensors`;
    50,000 of Inception's are 0.4 GB). `samples`: the images as an ADM archive (`samples.npz`, 8-bit
    pixels; 50,000 of 256 pixels are 9.2 GiB), which the official evaluator and another extractor
    read too."""
    keep_samples: bool = field(default=False, metadata=KEY_UNLESS_DEFAULT)
    """Earlier form of `keep: samples`, in which a change of the reference samples again."""
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
            if value is not None and value < 2 and (name, value) != ("num_reconstructions", 0):
                raise ValueError(
                    f"`{name}` must be at least 2, but got {value}; leave it out to take all"
                )
        if self.keep_samples and self.keep != "none":
            raise ValueError(
                f"`keep_samples` must be left out beside `keep`, but both are given; `keep: "
                f"{self.keep}` says it all"
            )
        if not self.guidance:
            raise ValueError("`guidance` must name at least one setting; use [{kind: none}]")
        if (count := len(self.guidance)) > MAX_GUIDANCE:
            raise ValueError(f"`guidance` must be at most {MAX_GUIDANCE} settings, but is {count}")
        if any(self.guidance.count(setting) > 1 for setting in self.guidance):
            raise ValueError("`guidance` must not name a setting twice, but does; keep one")
