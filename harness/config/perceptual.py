"""Perceptual distances of a trial; the weights of LPIPS, what identifies them and what lacks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from harness.config.weights import describe_file, missing_checkpoint
from harness.data.missing import MissingItem
from harness.schema.keys import NO_KEY
from models.perceptual import LPIPSConfig, NoPerceptual, check_lpips_files

VGG16_SHA256 = "397923af"
"""First digits of the sha256 of torchvision's ImageNet weights of VGG16."""
VGG16_FILE = f"vgg16-{VGG16_SHA256}.pth"
"""Their name in the cache of torch.hub."""


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


def describe_lpips(config: Any) -> str:
    """Hashes of the weights of LPIPS for a key; empty without LPIPS."""
    if not isinstance(config, LPIPSConfig | LPIPSMetric):
        return ""
    heads = describe_file(config.head_weights) if config.head_weights else "published"
    return f"backbone {describe_file(_backbone_file(config))}, heads {heads}"


def missing_lpips(config: Any, path: str) -> list[MissingItem]:
    """List what LPIPS at a key path needs and this machine lacks."""
    if not isinstance(config, LPIPSConfig | LPIPSMetric):
        return []
    what = "the ImageNet weights of VGG16 (torchvision) for LPIPS"
    fetch = None if config.backbone_weights else _fetch_vgg16
    items = missing_checkpoint(what, _backbone_file(config), f"{path}.backbone_weights", fetch)
    if config.head_weights:
        items += missing_checkpoint(
            "the heads of LPIPS (`vgg.pth`)", config.head_weights, f"{path}.head_weights"
        )
    try:
        if not items:
            check_lpips_files(config.as_loss() if isinstance(config, LPIPSMetric) else config)
    except ValueError as error:
        items = [MissingItem(what=what, location="", remedy="", wrong=f"{path}: {error}")]
    return items


def _backbone_file(config: LPIPSConfig | LPIPSMetric) -> str:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
    return config.backbone_weights or str(cached)


def _fetch_vgg16() -> None:
    """torchvision's ImageNet weights of VGG16, to the cache of torch.hub."""
    from torchvision.models import VGG16_Weights

    VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
