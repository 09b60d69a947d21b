"""A pretrained autoencoder of the diffusers library as a tokenizer: what a sweep file says of it.

It is a tokenizer kind (`harness.config.tokenizer.TokenizerSettings`).
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from harness.config.tokenizer_settings import TokenizerDefaults
from harness.config.weights import describe_file
from harness.data.missing import MissingItem
from harness.schema.keys import NO_KEY, content_hash
from models.diffusers_autoencoder import CONFIG_FILE, LATENT_FIELDS, WEIGHTS, weight_files


@dataclass(frozen=True, kw_only=True)
class DiffusersTokenizerConfig(TokenizerDefaults):
    """A pretrained autoencoder in the layout of diffusers; it only encodes and decodes."""

    kind: Literal["diffusers"] = "diffusers"
    source: str = field(metadata=NO_KEY)
    """Local folder, or name on the Hugging Face hub, which is looked up in the local cache and
    never fetched. The hash of the files enters the key, their place does not."""
    subfolder: str = field(default="", metadata=NO_KEY)
    """Folder below `source` that holds config.json, `vae` in whole pipelines; empty: `source`."""
    revision: str = field(default="main", metadata=NO_KEY)
    """Branch, tag or commit of a hub name."""
    variant: str | None = field(default=None, metadata=NO_KEY)
    """Word in the names of the files of weights, `fp16` for `….fp16.safetensors`; absent: none."""
    class_name: str | None = None
    """Class of diffusers, for a config.json that names none; absent: the file's."""
    latent_dim: int
    """Latent channels; held to the files'."""
    downsample: int
    """Image side over latent side; held to the files'."""
    scaling: Literal["own", "statistics"] = "own"
    """How latents are normalised for the generator: as config.json says (scaling_factor and
    shift_factor, or latents_mean and latents_std), or by their measured mean and deviation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of encoding and decoding: fp32, or bf16 autocast over fp32 weights."""
    seed: int | None = None
    """Seed of the latents' posterior noise and random subset; absent: the trial's."""

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or self.downsample < 1:
            raise ValueError(
                f"`latent_dim` and `downsample` must be at least 1, but got {self.latent_dim} and "
                f"{self.downsample}; use those of the pretrained autoencoder, 4 and 8 for "
                "Stable Diffusion's"
            )
        if not self.source:
            raise ValueError(
                "`source` must be a folder or a name on the hub, but is empty; name one"
            )
        if self.class_name is not None and self.class_name not in LATENT_FIELDS:
            raise ValueError(
                f"`class_name` must be one of {', '.join(LATENT_FIELDS)}, but got "
                f"{self.class_name!r}; leave it out to take the file's"
            )

    @property
    def is_given(self) -> bool:
        """Nothing is trained."""
        return True

    @property
    def provenance(self) -> Literal["published"]:
        """Others have trained it."""
        return "published"

    def describe(self) -> Mapping[str, str]:
        """Hash of its files."""
        return {"checkpoint": describe_pretrained(self)}

    @property
    def name(self) -> str:
        """Name in the table: kind, last part of its source and, where measured, scaling."""
        folder = Path(self.source).expanduser().name or self.source
        measured = ", measured scaling" if self.scaling == "statistics" else ""
        return f"{self.kind} {folder}{measured}"


HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""Owner and repository."""


def identity(config: DiffusersTokenizerConfig) -> DiffusersTokenizerConfig:
    """The configuration without what moves no output of encoder and decoder: seed and scaling."""
    return dataclasses.replace(config, seed=None, scaling="own")


def find_folder(config: DiffusersTokenizerConfig) -> Path | None:
    """The folder with config.json: below a local folder, which comes first where a name may be
    both, else in the hub's cache; None if absent."""
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
    """Hash of config.json and of the weights, for the key. A branch of the hub is resolved by its
    cached files, so a newer version of it is another key."""
    folder = find_folder(config)
    files = () if folder is None else weight_files(folder, config.variant)
    if folder is None or not files:
        return f"absent {config.source} {config.subfolder} {config.revision}"
    hashes = {file.name: describe_file(str(file)) for file in (folder / CONFIG_FILE, *files)}
    return f"sha256 {content_hash(hashes)}"


def missing_pretrained(config: DiffusersTokenizerConfig, path: str) -> list[MissingItem]:
    """List what a pretrained autoencoder, at a key path, needs and this machine lacks."""
    items: list[MissingItem] = []
    if find_spec("diffusers") is None:
        what, place = "the package diffusers (optional)", "this Python environment"
        items.append(MissingItem(what=what, location=place, remedy="pip install diffusers"))
    folder = find_folder(config)
    if folder is not None and weight_files(folder, config.variant):
        return items
    what = f"the pretrained autoencoder {config.source} (its FLOPs are not in the estimate)"
    remedy = _remedy(config)
    if folder is not None and (others := sorted(path.name for path in folder.glob("*"))):
        remedy = f"there are only {', '.join(others)}: set `{path}.variant`, or {remedy}"
    return [*items, MissingItem(what=what, location=_sought(config), remedy=remedy)]


def require_folder(config: DiffusersTokenizerConfig) -> Path:
    """The folder with config.json."""
    folder = find_folder(config)
    if folder is None:
        raise ValueError(
            f"the pretrained autoencoder {config.source} must be at {_sought(config)}, but nothing "
            f"is there; {_remedy(config)}"
        )
    return folder


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
