"""Weights that come from elsewhere: what identifies them, and what is missing on this machine."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from harness.config.encoders import LPIPSMetric
from harness.data.missing import MissingItem
from harness.metrics.extractors import InceptionConfig
from harness.storage.durable import file_sha256
from models.foundation import TimmEncoderConfig
from models.perceptual import LPIPSConfig

Provenance = Literal["published", "reproduced", "reconstruction"]
"""`published`: weights that others released. `reproduced`: trained here by a published recipe.
`reconstruction`: trained here by a recipe that its paper leaves open in parts."""

VGG16_SHA256 = "397923af"
"""First digits of the sha256 of torchvision's ImageNet weights of VGG16."""
VGG16_FILE = f"vgg16-{VGG16_SHA256}.pth"
"""Their name in the cache of torch.hub."""


def describe_weights(config: Any) -> str:
    """Hash of an encoder's weights for its key, or their origin where they are no file.

    A file that is absent is described as such; the plan then says that it is missing.
    """
    if isinstance(config, InceptionConfig):
        return f"sha256 {config.sha256}"
    if isinstance(config, TimmEncoderConfig):
        if config.weights in ("pretrained", "random"):
            return config.weights
        return _describe_file(Path(config.weights))
    return "trained here"


def describe_lpips(config: Any) -> str:
    """Hashes of the weights of LPIPS for a key; empty without LPIPS."""
    if not isinstance(config, LPIPSConfig | LPIPSMetric):
        return ""
    heads = _describe_file(Path(config.head_weights)) if config.head_weights else "published"
    return f"backbone {_describe_file(_backbone_file(config))}, heads {heads}"


def describe_file(path: str | None) -> str:
    """Hash of a trained network's file for a key; empty where none is given."""
    return "" if path is None else _describe_file(Path(path))


def check_file(path: str, described: str) -> None:
    """Refuse a file that is no longer the one that a key stands for.

    Raises:
        ValueError: It is gone or has another content.
    """
    now = describe_file(path)
    if now != described:
        raise ValueError(
            f"{path} must be the file that was planned with ({described}), but is "
            f"{now}; put that file back, or run the command again to plan with the new one"
        )


def missing_checkpoint(what: str, path: str | None, field: str) -> list[MissingItem]:
    """A trained network's file that a sweep names and this machine does not have."""
    return [] if path is None else _absent_file(what, path, field)


def missing_weights(config: Any, path: str) -> list[MissingItem]:
    """List what the encoder at a key path needs for its weights and this machine lacks."""
    if isinstance(config, InceptionConfig):
        return config.missing()
    if not isinstance(config, TimmEncoderConfig) or config.weights == "random":
        return []
    if config.weights != "pretrained":
        return _absent_file(f"the weights of {config.name}", config.weights, f"{path}.weights")
    return _missing_pretrained(config.name, f"{path}.weights")


def missing_lpips(config: Any, path: str) -> list[MissingItem]:
    """List what LPIPS at a key path needs and this machine lacks."""
    if not isinstance(config, LPIPSConfig | LPIPSMetric):
        return []
    what = "the ImageNet weights of VGG16 (torchvision) for LPIPS"
    fetch = None if config.backbone_weights else _fetch_vgg16
    items = _absent_file(what, str(_backbone_file(config)), f"{path}.backbone_weights", fetch)
    if config.head_weights:
        items += _absent_file(
            "the heads of LPIPS (`vgg.pth`)", config.head_weights, f"{path}.head_weights"
        )
    return items


def _backbone_file(config: LPIPSConfig | LPIPSMetric) -> Path:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
    return Path(config.backbone_weights) if config.backbone_weights else cached


def _describe_file(path: Path) -> str:
    path = path.expanduser()
    # A plan must be possible where the file is not: the requirements then name it as missing.
    if not path.is_file():
        return "absent"
    status = path.stat()
    return f"sha256 {_sha256(path, status.st_size, status.st_mtime_ns)}"


def _absent_file(
    what: str, path: str, field: str, fetch: Callable[[], None] | None = None
) -> list[MissingItem]:
    if Path(path).expanduser().is_file():
        return []
    remedy = f"put the file there, or set `{field}` to the path of a copy"
    return [MissingItem(what=what, location=path, remedy=remedy, fetch=fetch)]


def _fetch_vgg16() -> None:
    """torchvision's ImageNet weights of VGG16, to the cache of torch.hub."""
    from torchvision.models import VGG16_Weights

    VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)


def _fetch_pretrained(name: str) -> None:
    """timm's pretrained weights, to timm's cache."""
    import timm

    timm.create_model(name, pretrained=True)


def _missing_pretrained(name: str, field: str) -> list[MissingItem]:
    """Look for timm's pretrained weights in the caches that timm itself uses."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name)
    if known is None:
        remedy = "correct `name`; timm.list_models(pretrained=True) lists the names"
        what = f"pretrained weights called {name!r}"
        return [MissingItem(what=what, location="timm's list of models", remedy=remedy)]
    files = ("model.safetensors", "pytorch_model.bin", known.hf_hub_filename)
    hub_id = known.hf_hub_id
    if hub_id and any(
        isinstance(try_to_load_from_cache(hub_id, file), str) for file in files if file
    ):
        return []
    if known.url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(known.url)).name
        if file.is_file():
            return []
    remedy = (
        f"download {hub_id or known.url} on a machine with network (timm.create_model({name!r}, "
        f"pretrained=True) fills the cache), or set `{field}` to the path of a local file"
    )
    what = f"the pretrained weights of {name}"
    return [
        MissingItem(
            what=what,
            location=str(HF_HUB_CACHE),
            remedy=remedy,
            fetch=partial(_fetch_pretrained, name),
        )
    ]


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified_ns: int) -> str:
    return file_sha256(path)
