"""How the training split is encoded for a generator, or which latents of others it reads."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from harness.config.data import Crop
from harness.data.latents.folder import EncodedHere, LatentFolder, LatentStatistics
from harness.schema.keys import KEY_UNLESS_DEFAULT


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """How the training split is encoded for the generator; the defaults are the published ones."""

    flip: bool = True
    """Encode every image mirrored too; the generator sees either with equal probability."""
    crop: Crop = "training"
    """Crop and resize before encoding; `training`: the data set's own, centred."""
    posterior: Literal["sample", "mode", "moments"] = "sample"
    """The part of the posterior that is kept: one sample (published), the mean, or mean and
    variance, of which every step draws a fresh sample from (seed, step)."""
    source: Annotated[
        EncodedHere | LatentFolder | LatentStatistics, Field(discriminator="kind")
    ] = field(default=EncodedHere(), metadata=KEY_UNLESS_DEFAULT)
    """Encoded here, or read from a folder in the published layout; the other fields then say how
    that was made. Of a generator that is not trained their statistics suffice."""
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=KEY_UNLESS_DEFAULT)
    """Precision of the latents that a generator reads: fp32 (published), or rounded to bf16 after
    normalisation, which halves their memory on the device. Noise, time and x_t stay fp32, and so
    does what is stored."""
    num_images: int | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """Images of the training split that are encoded, spread evenly over it; absent: all."""
    num_statistics: int = 10_000
    """Random images behind the per-channel mean and deviation."""
    batch_size: int = 50
    """Images at a time."""

    def __post_init__(self) -> None:
        if self.num_statistics < 2 or self.batch_size < 1:
            raise ValueError(
                f"`num_statistics` must be at least 2 and `batch_size` at least 1, but got "
                f"{self.num_statistics} and {self.batch_size}; raise them"
            )
        if self.num_images is not None and self.num_images < 2:
            raise ValueError(
                f"`num_images` must be at least 2, but got {self.num_images}; leave it out to "
                "encode all"
            )
        if not isinstance(self.source, EncodedHere) and self.num_images is not None:
            raise ValueError(
                f"given latents must be taken whole, but `num_images` is {self.num_images}; leave "
                "it out"
            )
        if isinstance(self.source, LatentFolder) and self.posterior == "moments":
            raise ValueError(
                "a folder of latents must hold one latent an image (`posterior` sample or mode), "
                "but got moments; encode here to keep whole posteriors"
            )

    @property
    def content(self) -> str:
        """Hash of latents or statistics that are given; empty where images are encoded here."""
        return "" if isinstance(self.source, EncodedHere) else self.source.identity
