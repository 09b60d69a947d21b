"""No tokenizer: a generator lives in the pixels themselves."""

from dataclasses import dataclass
from typing import Literal

from harness.config.tokenizer_settings import TokenizerDefaults
from harness.config.weights import Provenance


@dataclass(frozen=True, kw_only=True)
class IdentityTokenizerConfig(TokenizerDefaults):
    """Pixels as latents, losslessly and untrained: the reference for what any tokenizer gives."""

    kind: Literal["identity"] = "identity"
    space_to_depth: int = 1
    """Side of the blocks of pixels that become the channels of one latent cell: 1 leaves images as
    they are, 4 makes 48 channels of each block of 4x4 pixels."""
    seed: int | None = None
    """Seed of the random subset behind mean and deviation; absent: the trial's."""

    def __post_init__(self) -> None:
        if self.space_to_depth < 1:
            raise ValueError(
                f"`space_to_depth` must be at least 1, but got {self.space_to_depth}; use 1 for "
                "images as they are, or 2 or 4"
            )

    @property
    def latent_dim(self) -> int:
        """Three colours of each pixel of a block."""
        return 3 * self.space_to_depth**2

    @property
    def downsample(self) -> int:
        """Side of a block."""
        return self.space_to_depth

    @property
    def is_given(self) -> bool:
        """Nothing is trained."""
        return True

    @property
    def provenance(self) -> Provenance:
        """Nothing of it is left open."""
        return "reproduced"

    @property
    def name(self) -> str:
        """Name in the table."""
        return self.kind
