"""LPIPS, the perceptual distance of the tokenizer loss, on torchvision's VGG16.

The heads are the published `vgg.pth`, a copy of which comes with torchmetrics. The distance itself
is computed here because torchmetrics puts its epsilon under the square root and the published
loss adds 1e-10 to the norm.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.batch_part import BatchDropout
from models.checkpoint import load_strictly, read_tensors

TAPS = (3, 8, 15, 22, 29)
"""Indices in VGG16's `features` of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
TAP_WIDTHS = (64, 128, 256, 512, 512)
INPUT_SHIFT = (-0.030, -0.088, -0.188)
INPUT_SCALE = (0.458, 0.448, 0.450)
NORM_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class NoPerceptual:
    """No perceptual term."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["none"] = "none"
    """Tells this choice from others."""


@dataclass(frozen=True, kw_only=True)
class LPIPSConfig:
    """Weight of the perceptual term and where its pretrained weights come from."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["lpips"] = "lpips"
    """Tells this choice from others."""
    weight: float = 1.0
    """Weight relative to the absolute error of one pixel value."""
    backbone_weights: str | None = field(default=None, metadata={"key": False})
    """File with torchvision's ImageNet VGG16; absent uses torchvision's cache or download. The
    path enters no content key (`metadata`); the file's hash does."""
    head_weights: str | None = field(default=None, metadata={"key": False})
    """File with the published heads (`vgg.pth`); absent uses the copy in torchmetrics."""
    dropout: float = field(default=0.0, metadata={"key": "unless_default"})
    """Probability with which compared values are left out, in [0, 1). TokenFlow's published
    training leaves LPIPS' own dropout on, which is 0.5."""
    smallest_image: ClassVar[int] = 16
    """Side of the smallest image that VGG16's last compared layer leaves something of."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` must lie in [0, 1), but got {self.dropout}; use 0")


class LPIPS(nn.Module):
    """Frozen perceptual distance between images in [-1, 1].

    Args:
        backbone: the `features` part of VGG16.
        heads: weights of the five 1x1 heads, each of shape (1, channels, 1, 1).
        dropout: probability with which a value before a head is left out.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: nn.Sequential, heads: list[Tensor], dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone[: TAPS[-1] + 1]
        self.heads = nn.ParameterList(heads)
        self.register_buffer("shift", torch.tensor(INPUT_SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(INPUT_SCALE)[None, :, None, None])
        self.eval().requires_grad_(False)
        self.dropout = BatchDropout(dropout)

    def forward(
        self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Distance of each pair, at least 0: squared differences of unit features, weighted.

        The two pass one after the other, so that nothing is passed back to images (the target)
        that no gradient is asked for.
        """
        distance = torch.zeros(x.shape[0], device=x.device)
        for left, right, head in zip(self._taps(x), self._taps(y), self.heads, strict=True):
            weighted = self.dropout((left - right).square()) * head
            distance = distance + weighted.sum(dim=1).mean(dim=(1, 2))
        return distance

    def _taps(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h_tap w_tap"]]:
        """Unit features after each tapped layer."""
        found = []
        features = (images - self.shift) / self.scale
        for index, layer in enumerate(self.backbone):
            features = layer(features)
            if index in TAPS:
                found.append(_unit_features(features.float()))
        return found


def _unit_features(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    norm = features.square().sum(dim=1, keepdim=True).sqrt()
    return features / (norm + NORM_EPSILON)


def build_lpips(config: LPIPSConfig) -> LPIPS:
    """Build LPIPS with pretrained weights; ValueError where they cannot be had or do not fit."""
    heads = _read_heads(config)
    return LPIPS(_read_backbone(config), heads, config.dropout)


def check_lpips_files(config: LPIPSConfig) -> None:
    """Refuse given files that LPIPS cannot be built from, by their headers; ValueError says why."""
    _read_heads(config, headers=True)
    if config.backbone_weights is not None:
        with torch.device("meta"):
            _read_backbone(config, headers=True)


def _read_heads(config: LPIPSConfig, *, headers: bool = False) -> list[Tensor]:
    given = Path(config.head_weights).expanduser() if config.head_weights else None
    path = given or _bundled_heads()
    if path is None or not path.is_file():
        raise ValueError(
            f"LPIPS needs the published heads `vgg.pth`, but found none at {path}; install "
            "torchmetrics or give a file as `head_weights`"
        )
    tensors = read_tensors(path, headers=headers)
    names = [f"lin{index}.model.1.weight" for index in range(len(TAP_WIDTHS))]
    shapes = {name: (1, width, 1, 1) for name, width in zip(names, TAP_WIDTHS, strict=True)}
    misfits = [
        name for name in names if name not in tensors or tuple(tensors[name].shape) != shapes[name]
    ]
    if misfits:
        raise ValueError(
            f"LPIPS heads must hold {shapes}, but {path} lacks or misshapes {misfits}; "
            "give the published `vgg.pth` as `head_weights`"
        )
    return [tensors[name] for name in names]


def _bundled_heads() -> Path | None:
    package = find_spec("torchmetrics")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "functional/image/lpips_models/vgg.pth"


def _read_backbone(config: LPIPSConfig, *, headers: bool = False) -> nn.Sequential:
    if config.backbone_weights is None:
        return _download_backbone()
    path = Path(config.backbone_weights).expanduser()
    if not path.is_file():
        raise ValueError(
            f"`backbone_weights` must name a file with torchvision's VGG16, but {path} does not "
            "exist; correct the path or leave it out to use torchvision's cache"
        )
    tensors = read_tensors(path, headers=headers)
    backbone = untrained_backbone()
    kept = {
        name.removeprefix("features."): value
        for name, value in tensors.items()
        if not name.startswith("classifier.")
    }
    load_strictly(backbone, kept, source=str(path))
    return backbone


def untrained_backbone() -> nn.Sequential:
    """The `features` part of torchvision's VGG16, without its large classifier."""
    from torchvision.models.vgg import cfgs, make_layers  # Importing torchvision takes seconds.

    return make_layers(cfgs["D"], batch_norm=False)


def _download_backbone() -> nn.Sequential:
    from torchvision.models import VGG16_Weights, vgg16  # As above.

    try:
        network = vgg16(weights=VGG16_Weights.IMAGENET1K_V1)
    except (URLError, OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
        raise ValueError(
            f"LPIPS needs torchvision's VGG16 weights, but they are not at {file} and could not "
            f"be fetched ({error}); put the file there, or give its path as `backbone_weights`"
        ) from error
    assert isinstance(network.features, nn.Sequential)
    return network.features
