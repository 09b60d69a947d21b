"""Tokenizer kind `diffusers`: a pretrained autoencoder of the diffusers library, copied."""

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from harness.config.diffusers import (
    DiffusersTokenizerConfig,
    identity,
    missing_pretrained,
    require_folder,
)
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.trial import Trial
from harness.data.missing import MissingItem
from harness.schema.reading import ConfigError
from harness.stages.running.context import StageContext
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage
from harness.storage.artifacts import Artifact, write_tensors
from harness.storage.durable import write_json
from models.diffusers_autoencoder import (
    CONFIG_FILE,
    DiffusersAutoencoder,
    build_diffusers_autoencoder,
    check_geometry,
    check_headers,
    load_diffusers_autoencoder,
    own_scaling,
    read_network_config,
)


def stage(trial: Trial) -> TokenizerStage:
    """Make the configuration of the stage from a trial."""
    settings = _settings(trial.tokenizer)
    return TokenizerStage(
        tokenizer=identity(settings), data=trial.data, perceptual_weights="", **settings.describe()
    )


def build(config: TokenizerStage) -> DiffusersAutoencoder:
    """Builds the network with random weights, from the config.json of its source; ValueError where
    the file is absent or describes no supported autoencoder."""
    settings = _settings(config.tokenizer)
    described = read_network_config(require_folder(settings), settings.class_name)
    return build_diffusers_autoencoder(described, precision=settings.precision)


def make(stage: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """Copies the weights, with config.json as this version of diffusers reads it."""
    config, described = _settings(stage.tokenizer), stage.checkpoint
    now = config.describe()["checkpoint"]
    if now != described:
        raise ValueError(
            f"the files of {config.source} must be those that were planned with ({described}), "
            f"but are {now}; put those back, or run the command again to plan with the new ones"
        )
    folder = require_folder(config)
    model = load_diffusers_autoencoder(
        folder, class_name=config.class_name, precision=config.precision, variant=config.variant
    )
    check_geometry(model, latent_dim=config.latent_dim, downsample=config.downsample)
    scaling = own_scaling(model, config.latent_dim)
    payload = context.work.payload
    write_json(payload / CONFIG_FILE, model.network_config)
    write_tensors(payload / "model.safetensors", model.network.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        # Its training is not ours to know.
        "images": None,
        "checkpoint": f"{_origin(config, folder)}, {described}",
        "scaling": None if scaling is None else {"mean": scaling[0], "std": scaling[1]},
        "diffusers": metadata.version("diffusers"),
    }


def check_given(stage: TokenizerStage) -> None:
    """Refuse files that are no such autoencoder, and say where a class's scaling is taken."""
    config = _settings(stage.tokenizer)
    if missing_pretrained(config, ""):
        return
    try:
        folder = require_folder(config)
        with torch.device("meta"):
            model = build(stage)
        check_headers(model, folder, config.variant)
        check_geometry(model, latent_dim=config.latent_dim, downsample=config.downsample)
        scaling = own_scaling(model, config.latent_dim)
    except ValueError as error:
        raise ConfigError(str(error), path="trial.tokenizer.source") from error
    written = read_network_config(folder, config.class_name)
    if scaling and written.get("scaling_factor") is None and written.get("latents_std") is None:
        said = f"the class's default {model.network_config.get('scaling_factor')} is used"
        print(f"note: {folder / CONFIG_FILE} names no scaling_factor: {said}", file=sys.stderr)


def load(stage: TokenizerStage, artifact: Artifact) -> DiffusersAutoencoder:
    """Builds the network with the weights of an artifact that `make` has left."""
    described = read_network_config(artifact.file(CONFIG_FILE).parent)
    model = build_diffusers_autoencoder(described, precision=_settings(stage.tokenizer).precision)
    model.network.load_state_dict(artifact.tensors("model.safetensors"))
    return model


def missing(config: TokenizerStage, path: str) -> list[MissingItem]:
    """The package, or the files of the autoencoder."""
    return missing_pretrained(_settings(config.tokenizer), path)


def _origin(config: DiffusersTokenizerConfig, folder: Path) -> str:
    if Path(config.source).expanduser().is_dir():
        return Path(config.source).expanduser().name
    commit = folder.parts[folder.parts.index("snapshots") + 1]
    return f"{config.source} at {commit}"


def _settings(config: AnyTokenizerConfig) -> DiffusersTokenizerConfig:
    assert isinstance(config, DiffusersTokenizerConfig)
    return config


KIND = TokenizerKind(
    stage=stage,
    build=build,
    make=make,
    load=load,
    check_given=check_given,
    missing=missing,
    built_from_files=True,
)
