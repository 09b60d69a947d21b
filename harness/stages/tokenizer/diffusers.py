"""Pretrained autoencoders as the artifact of a stage `tokenizer`: found, identified, copied."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.config.diffusers import DiffusersTokenizerConfig, describe_pretrained, require_folder
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact, write_tensors
from harness.storage.durable import write_json
from models.diffusers_autoencoder import (
    CONFIG_FILE,
    DiffusersAutoencoder,
    build_diffusers_autoencoder,
    check_geometry,
    load_diffusers_autoencoder,
    own_scaling,
    read_network_config,
)


def build(config: DiffusersTokenizerConfig) -> DiffusersAutoencoder:
    """The network with random weights, from the config.json of its source.

    Raises:
        ValueError: The file is absent or describes no supported autoencoder.
    """
    folder = require_folder(config)
    described = read_network_config(folder, config.class_name)
    return build_diffusers_autoencoder(described, precision=config.precision)


def take(
    config: DiffusersTokenizerConfig, described: str, context: StageContext
) -> Mapping[str, Any]:
    """Copy the weights, with config.json as this version of diffusers reads it.

    Args:
        config: Where they are and what they are declared to be.
        described: What stands for the files in the key.
        context: Where the copy goes.

    Raises:
        ValueError: The files are others than planned with, or not what is declared.
    """
    now = describe_pretrained(config)
    if now != described:
        raise ValueError(
            f"the files of {config.source} must be those that were planned with ({described}), "
            f"but are {now}; put those back, or run the command again to plan with the new ones"
        )
    folder = require_folder(config)
    model = load_diffusers_autoencoder(
        folder, class_name=config.class_name, precision=config.precision
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


def load_copy(config: DiffusersTokenizerConfig, artifact: Artifact) -> DiffusersAutoencoder:
    """The network with the weights of an artifact that `take` made."""
    described = read_network_config(artifact.file(CONFIG_FILE).parent)
    model = build_diffusers_autoencoder(described, precision=config.precision)
    model.network.load_state_dict(artifact.tensors("model.safetensors"))
    return model


def _origin(config: DiffusersTokenizerConfig, folder: Path) -> str:
    if Path(config.source).expanduser().is_dir():
        return Path(config.source).expanduser().name
    commit = folder.parts[folder.parts.index("snapshots") + 1]
    return f"{config.source} at {commit}"
