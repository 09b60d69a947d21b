"""Pretrained autoencoders as the artifact of a stage `tokenizer`: found, identified, copied."""

import dataclasses
import re
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.config.diffusers import DiffusersTokenizerConfig
from harness.config.trial import AnyTokenizerConfig
from harness.config.weights import describe_file
from harness.data.missing import MissingItem
from harness.schema.keys import content_hash
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact, write_tensors
from harness.storage.durable import write_json
from models.diffusers_autoencoder import (
    CONFIG_FILE,
    WEIGHTS,
    DiffusersAutoencoder,
    build_diffusers_autoencoder,
    check_geometry,
    load_diffusers_autoencoder,
    own_scaling,
    read_network_config,
    weight_files,
)

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""Owner and repository."""


def identity(config: DiffusersTokenizerConfig) -> DiffusersTokenizerConfig:
    """The configuration without what moves no output of encoder and decoder: seed and scaling."""
    return dataclasses.replace(config, seed=None, scaling="own")


def find_folder(config: DiffusersTokenizerConfig) -> Path | None:
    """The folder with config.json: below a local folder, else in the hub's cache; None if absent.

    A relative folder may look like a name on the hub; the folder comes first.
    """
    local = Path(config.source).expanduser()
    if local.is_dir():
        folder = local / config.subfolder
        return folder if (folder / CONFIG_FILE).is_file() else None
    if not HUB_NAME.fullmatch(config.source):
        return None
    from huggingface_hub import try_to_load_from_cache

    file = str(Path(config.subfolder) / CONFIG_FILE)
    found = try_to_load_from_cache(config.source, file, revision=config.revision)
    return Path(found).parent if isinstance(found, str) else None


def describe_pretrained(config: DiffusersTokenizerConfig) -> str:
    """What stands for the files in a key: the hash of config.json and of the weights.

    A branch of the hub is resolved by its cached files, so a newer version of it is another key.
    """
    folder = find_folder(config)
    files = () if folder is None else weight_files(folder)
    if folder is None or not files:
        return f"absent {config.source} {config.subfolder} {config.revision}"
    hashes = {file.name: describe_file(str(file)) for file in (folder / CONFIG_FILE, *files)}
    return f"sha256 {content_hash(hashes)}"


def describe_tokenizer(config: AnyTokenizerConfig) -> str:
    """What stands for a tokenizer's given weights in a key; empty where they are trained here."""
    if isinstance(config, DiffusersTokenizerConfig):
        return describe_pretrained(config)
    return describe_file(config.checkpoint)


def missing_pretrained(config: DiffusersTokenizerConfig) -> list[MissingItem]:
    """What a pretrained autoencoder needs that this machine does not have."""
    items: list[MissingItem] = []
    if find_spec("diffusers") is None:
        what, place = "the package diffusers (optional)", "this Python environment"
        items.append(MissingItem(what=what, location=place, remedy="pip install diffusers"))
    folder = find_folder(config)
    if folder is not None and weight_files(folder):
        return items
    what = f"the pretrained autoencoder {config.source} (its FLOPs are not in the estimate)"
    return [*items, MissingItem(what=what, location=_sought(config), remedy=_remedy(config))]


def build(config: DiffusersTokenizerConfig) -> DiffusersAutoencoder:
    """The network with random weights, from the config.json of its source.

    Raises:
        ValueError: The file is absent or describes no supported autoencoder.
    """
    folder = _require_folder(config)
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
    folder = _require_folder(config)
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


def _require_folder(config: DiffusersTokenizerConfig) -> Path:
    folder = find_folder(config)
    if folder is None:
        raise ValueError(
            f"the pretrained autoencoder {config.source} must be at {_sought(config)}, but nothing "
            f"is there; {_remedy(config)}"
        )
    return folder


def _origin(config: DiffusersTokenizerConfig, folder: Path) -> str:
    if Path(config.source).expanduser().is_dir():
        return Path(config.source).expanduser().name
    commit = folder.parts[folder.parts.index("snapshots") + 1]
    return f"{config.source} at {commit}"


def _sought(config: DiffusersTokenizerConfig) -> str:
    local = Path(config.source).expanduser()
    if local.is_dir() or not HUB_NAME.fullmatch(config.source):
        return str(local / config.subfolder)
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _remedy(config: DiffusersTokenizerConfig) -> str:
    files = f"`{CONFIG_FILE}` and `{WEIGHTS}.safetensors` (or .bin, or shards with their index)"
    if Path(config.source).expanduser().is_dir() or not HUB_NAME.fullmatch(config.source):
        return (
            f"put {files} there, correct `tokenizer.subfolder`, or set `tokenizer.source` to a "
            "folder that has them"
        )
    below = f"{config.subfolder}/" if config.subfolder else ""
    revision = "" if config.revision == "main" else f" --revision {config.revision}"
    command = (
        f"hf download {config.source} {below}{CONFIG_FILE} {below}{WEIGHTS}.safetensors{revision}"
    )
    return (
        f"download it on a machine with network ({command}), or set `tokenizer.source` to a local "
        f"folder with {files}"
    )
