"""Feature networks of a trial: what tokenizers and generators are aligned with, and what grades."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.config.training import TrainingConfig
from harness.metrics.extractors import InceptionConfig
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from models.foundation import TimmEncoderConfig
from models.perceptual import LPIPSConfig, NoPerceptual


@dataclass(frozen=True, kw_only=True)
class InDomainEncoder:
    """A timm network trained here as a classifier of the training split, as a stage of its own."""

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
