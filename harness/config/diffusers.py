"""A pretrained autoencoder of the diffusers library as a tokenizer: what a sweep file says of it.

It offers what `TokenizerConfig` offers to the rest of the harness, so that few places tell the two
apart.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.schema.keys import NO_KEY
from models.alignment import NoAlignment
from models.diffusers_autoencoder import LATENT_FIELDS


@dataclass(frozen=True, kw_only=True)
class DiffusersTokenizerConfig:
    """A pretrained autoencoder in the layout of diffusers; it only encodes and decodes."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["diffusers"] = "diffusers"
    source: str = field(metadata=NO_KEY)
    """Local folder, or name on the Hugging Face hub, which is looked up in the local cache and
    never fetched. The hash of the files enters the key, their place does not."""
    subfolder: str = field(default="", metadata=NO_KEY)
    """Folder below `source` that holds config.json, `vae` in whole pipelines; empty: `source`."""
    revision: str = field(default="main", metadata=NO_KEY)
    """Branch, tag or commit of a hub name."""
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
    def alignment(self) -> NoAlignment:
        """None that this program knows of."""
        return NoAlignment()

    @property
    def name(self) -> str:
        """What the table calls it: kind, last part of its source and, where measured, scaling."""
        folder = Path(self.source).expanduser().name or self.source
        measured = ", measured scaling" if self.scaling == "statistics" else ""
        return f"{self.kind} {folder}{measured}"

    @property
    def label(self) -> str:
        """What it is, in words, for people."""
        return f"f{self.downsample}d{self.latent_dim} {self.name} seed {self.seed}"
