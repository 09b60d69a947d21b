"""A tokenizer of the user's own, trained already: a Python object with `encode` and `decode`."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from harness.config.tokenizer_settings import TokenizerDefaults
from harness.config.weights import Provenance
from harness.schema.imported import Target


@dataclass(frozen=True, kw_only=True)
class PythonTokenizerConfig(Target, TokenizerDefaults):
    """An object that encodes images into latents and decodes them; nothing is trained.

    `encode` takes images [b, 3, h, w] in `image_range` and returns latents [b, c, h / f, w / f], or
    a pair of mean and log-variance of that shape. `decode` takes latents and returns images in
    `image_range`. An `nn.Module` is moved to the device and put into evaluation mode.
    """

    kind: Literal["python"] = "python"
    latent_dim: int
    """Latent channels c; held to what `encode` returns."""
    downsample: int
    """Image side over latent side f; held to what `encode` returns."""
    image_range: tuple[float, float] = (-1.0, 1.0)
    """Values of black and white in images that it takes and returns: [-1, 1], [0, 1], [0, 255]."""
    seed: int | None = None
    """Seed of the latents' posterior noise and random subset; absent: the trial's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.image_range
        if self.latent_dim < 1 or self.downsample < 1 or not low < high:
            raise ValueError(
                "`latent_dim` and `downsample` must be at least 1 and `image_range` must rise, but "
                f"got {self.latent_dim}, {self.downsample} and {list(self.image_range)}; use those "
                "of the tokenizer, 16, 16 and [-1, 1] for instance"
            )

    @property
    def is_given(self) -> bool:
        """Nothing is trained."""
        return True

    @property
    def provenance(self) -> Provenance:
        """Its author's word: weights that came from elsewhere."""
        return "published"

    @property
    def name(self) -> str:
        """Name in the table: what builds it, and its arguments."""
        return self.call

    @property
    def identity(self) -> "PythonTokenizerConfig":
        """The configuration without the seed, which moves no output of encoder and decoder."""
        return dataclasses.replace(self, seed=None)
