"""Encoder kind `timm`: a network of timm with weights from elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.config.encoders import TimmEncoderConfig
from harness.config.weights import missing_checkpoint
from harness.data.missing import MissingItem
from harness.machine.random_streams import derive_seed
from harness.stages.encoder.kind import EncoderKind, EncoderStage
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact, write_tensors
from models.foundation import FeatureEncoder


def build(config: EncoderStage) -> FeatureEncoder:
    """The network with timm's random weights."""
    return FeatureEncoder(replace(_settings(config), weights="random"))


def make(config: EncoderStage, context: StageContext) -> Mapping[str, Any]:
    """Stores the weights."""
    # `weights: random` is for tests and smoke runs; the seed makes it the same network everywhere.
    torch.manual_seed(derive_seed(0, "encoder", "random weights"))
    network = FeatureEncoder(_settings(config))
    write_tensors(context.work.payload / "model.safetensors", network.model.state_dict())
    return {"feature_dim": network.feature_dim}


def filled(network: FeatureEncoder, artifact: Artifact) -> FeatureEncoder:
    """The network with the weights of an artifact."""
    network.model.load_state_dict(artifact.tensors("model.safetensors"))
    return network


def missing(config: EncoderStage, path: str) -> list[MissingItem]:
    """The file of weights, or timm's own."""
    settings, field = _settings(config), f"{path}.weights"
    if settings.weights == "random":
        return []
    if settings.weights != "pretrained":
        return missing_checkpoint(f"the weights of {settings.name}", settings.weights, field)
    return _missing_pretrained(settings.name, field)


def check_given(config: EncoderStage) -> None:
    """Refuse a file of weights that timm's network does not take."""
    if Path(_settings(config).weights).expanduser().is_file():
        FeatureEncoder(_settings(config))


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


def _settings(config: EncoderStage) -> TimmEncoderConfig:
    assert isinstance(config.encoder, TimmEncoderConfig)
    return config.encoder


KIND = EncoderKind(
    build=build,
    make=make,
    load=lambda config, artifact: filled(build(config), artifact),
    missing=missing,
    check_given=check_given,
    cheapened=lambda config: replace(config, weights="random"),
)
