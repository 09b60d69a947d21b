"""What every kind of tokenizer says of itself, and what most kinds say alike."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from harness.config.encoders import AlignmentEncoder
from harness.config.weights import Provenance
from harness.schema.kinds import Kinds
from models.latent import AnyLayout, LatentLayout


@runtime_checkable
class TokenizerSettings(Protocol):
    """What every kind of tokenizer says of itself, for others to read: a kind is a frozen dataclass
    with these members, and its other fields are its own."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def kind(self) -> str:
        """Name of the kind."""
        ...

    @property
    def latent_dim(self) -> int:
        """Latent channels, over all groups; of a codebook, the width of a code."""
        ...

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        ...

    @property
    def seed(self) -> int | None:
        """Seed of its weights, of its batches and of the noise of its latents."""
        ...

    @property
    def decodes(self) -> Literal["images", "features"]:
        """What `decode` gives; a tokenizer of features serves as a part of others only."""
        ...

    @property
    def scaling(self) -> Literal["own", "statistics"]:
        """How latents are normalised for the generator: by the scaling that comes with given
        weights, or by their measured mean and deviation."""
        ...

    @property
    def is_given(self) -> bool:
        """Whether its weights come from elsewhere and nothing is trained."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Where its weights and its recipe come from."""
        ...

    @property
    def name(self) -> str:
        """Name in the table."""
        ...

    @property
    def label(self) -> str:
        """A few words for people."""
        ...

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """Key path below `tokenizer` -> frozen network that its training looks to."""
        ...

    @property
    def columns(self) -> Mapping[str, Any]:
        """Columns of the table that say how it was trained."""
        ...

    def layout(self, resolution: int) -> AnyLayout:
        """Channel groups and grid, or codebook and grids of indices, of the latents of images of
        `resolution` pixels."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Hashes of the files that it takes from elsewhere, for keys; without those not given."""
        ...

    def check(self, resolution: int) -> None:
        """Refuse images of a size that it cannot be trained with: a ConfigError with the key path
        below `tokenizer`."""
        ...


TOKENIZERS: Kinds[Any] = Kinds("tokenizer", TokenizerSettings, default="va_vae")
"""Every kind of tokenizer; a block that names none is a VA-VAE. `harness.config.tokenizer` adds
those of this program, and `harness.stages.tokenizer` says how each is trained and loaded."""

AnyTokenizerConfig = Annotated[TokenizerSettings, TOKENIZERS]
"""A tokenizer of any kind."""


class TokenizerDefaults:
    """Members of a kind that needs nothing else for its training and has one group of channels."""

    scaling: Literal["own", "statistics"] = "statistics"
    """Latents are normalised by their measured mean and deviation, channel by channel."""

    @property
    def label(self: Any) -> str:
        """A few words for people."""
        return f"f{self.downsample}d{self.latent_dim} {self.name} seed {self.seed}"

    @property
    def decodes(self) -> Literal["images", "features"]:
        """Images."""
        return "images"

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """None."""
        return {}

    @property
    def columns(self) -> Mapping[str, Any]:
        """No alignment or regulariser that this program has added."""
        return {"alignment": "none", "vf_weight": 0.0, "regularizers": "none"}

    def layout(self: Any, resolution: int) -> Any:
        """One group of channels."""
        side = resolution // self.downsample
        return LatentLayout.single(channels=self.latent_dim, height=side, width=side)

    def describe(self) -> Mapping[str, str]:
        """No files; code and weights of the user's own enter keys by themselves."""
        return {}

    def check(self, resolution: int) -> None:
        """Any size will do."""
