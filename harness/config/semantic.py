"""Tokenizers of frozen features (SemVAE, principal components), and latents composed with them.

Kinds of tokenizers (`harness.config.tokenizer_settings.TokenizerSettings`). Semantic-First
Diffusion (arXiv 2512.04926) stacks channels of an ordinary tokenizer and, after them, of a semantic
one; images are decoded from the first alone.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.config.data import Crop
from harness.config.encoders import AlignmentEncoder
from harness.config.tokenizer_settings import AnyTokenizerConfig, TokenizerDefaults
from harness.config.training import TrainingConfig
from harness.config.weights import Provenance, describe_file, weaker
from harness.schema.keys import NO_KEY
from harness.schema.reading import ConfigError
from models.latent import ChannelGroup, IndexLayout, LatentLayout
from models.semantic import SemVAELossConfig, SemVAEShape


class _OfFeatures(TokenizerDefaults):
    """Members of a kind that encodes features of a frozen network."""

    @property
    def decodes(self) -> Literal["features"]:
        """Features, which nobody can look at."""
        return "features"

    @property
    def name(self: Any) -> str:
        """Name in the table."""
        return f"{self.kind} {self.encoder.name}"

    @property
    def encoders(self: Any) -> Mapping[str, AlignmentEncoder]:
        """The network of its features."""
        return {"encoder": self.encoder}


@dataclass(frozen=True, kw_only=True)
class SemVAEConfig(_OfFeatures):
    """A token VAE on features of a frozen network, and its training."""

    kind: Literal["semvae"] = "semvae"
    encoder: AlignmentEncoder
    """The frozen feature network."""
    latent_dim: int = 16
    """Latent channels."""
    downsample: int = 16
    """Image side over latent side; features are taken on the grid of the latent."""
    shape: SemVAEShape = SemVAEShape()
    """Size of encoder and decoder."""
    loss: SemVAELossConfig = SemVAELossConfig()
    """Terms of the loss."""
    training: TrainingConfig
    """Length and optimiser (AdamW); published: weight decay 0.01."""
    crop: Crop = "training"
    """Crop and resize of the training images, which are not augmented; `training`: the data set's
    own, centred."""
    fit: Literal["centre", "resize"] = "centre"
    """How these images are brought to the size that the network needs for the grid: their centre is
    cut out (published), or they are resized, as they always are for encoding."""
    checkpoint: str | None = field(default=None, metadata=NO_KEY)
    """Official file to take the weights from; nothing is trained then. Its hash enters the key, its
    path does not."""
    seed: int | None = None
    """Seed of weights, batches and noise; absent: the trial's."""

    def __post_init__(self) -> None:
        _check_sizes(self.latent_dim, self.downsample)

    @property
    def is_given(self) -> bool:
        """Whether its weights come from a file and nothing is trained."""
        return self.checkpoint is not None

    @property
    def provenance(self) -> Provenance:
        """Published where its weights are given."""
        return "published" if self.is_given else "reproduced"

    def describe(self) -> Mapping[str, str]:
        """Hash of `checkpoint`."""
        return {} if self.checkpoint is None else {"checkpoint": describe_file(self.checkpoint)}


@dataclass(frozen=True, kw_only=True)
class PrincipalComponentsConfig(_OfFeatures):
    """Principal components of features of a frozen network (ReDi, arXiv 2504.16064)."""

    kind: Literal["pca"] = "pca"
    encoder: AlignmentEncoder
    """The frozen feature network."""
    latent_dim: int = 8
    """Components that are kept."""
    downsample: int = 16
    """Image side over latent side; features are taken on the grid of the latent."""
    num_images: int = 10_000
    """Images of the training split that they are measured on, spread evenly over it, or all."""
    crop: Crop = "training"
    """Crop and resize of these images; `training`: the data set's own, centred."""
    batch_size: int = 50
    """Images at a time."""
    seed: int | None = None
    """Nothing of it is random; absent: the trial's."""

    def __post_init__(self) -> None:
        _check_sizes(self.latent_dim, self.downsample)
        if self.num_images < 2 or self.batch_size < 1:
            raise ValueError(
                f"`num_images` must be at least 2 and `batch_size` at least 1, but got "
                f"{self.num_images} and {self.batch_size}; raise them"
            )

    @property
    def is_given(self) -> bool:
        """They are measured here."""
        return False

    @property
    def provenance(self) -> Provenance:
        """Nothing of it is left open."""
        return "reproduced"


@dataclass(frozen=True, kw_only=True)
class CompositeTokenizerConfig(TokenizerDefaults):
    """The channels of two tokenizers of the same images, texture first and semantic last."""

    kind: Literal["composite"] = "composite"
    texture: AnyTokenizerConfig
    """What images are decoded from, and what is measured as a tokenizer: any kind, trained here or
    given."""
    semantic: AnyTokenizerConfig
    """Features beside it: `semvae` or `pca`."""
    seed: int | None = None
    """Seed of the latents' noise, and of parts that name none; absent: the trial's."""

    def __post_init__(self) -> None:
        if self.seed is None:
            return
        for name in ("texture", "semantic"):
            part: Any = getattr(self, name)
            if part.seed is None:
                object.__setattr__(self, name, dataclasses.replace(part, seed=self.seed))

    @property
    def parts(self) -> Mapping[str, Any]:
        """Field -> tokenizer, in the order of the channels."""
        return {"texture": self.texture, "semantic": self.semantic}

    @property
    def latent_dim(self) -> int:
        """Channels of both."""
        return self.texture.latent_dim + self.semantic.latent_dim

    @property
    def downsample(self) -> int:
        """Image side over latent side."""
        return self.texture.downsample

    @property
    def is_given(self) -> bool:
        """Whether nothing of it is trained."""
        return all(part.is_given for part in self.parts.values())

    @property
    def provenance(self) -> Provenance:
        """That of the weaker part."""
        return weaker(*(part.provenance for part in self.parts.values()))

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.texture.name} + {self.semantic.name}"

    @property
    def label(self) -> str:
        """A few words for people."""
        semantic = self.semantic
        return f"{self.texture.label} + {semantic.name} d{semantic.latent_dim} seed {semantic.seed}"

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """Those of both."""
        return {
            f"{name}.{path}": encoder
            for name, part in self.parts.items()
            for path, encoder in part.encoders.items()
        }

    @property
    def columns(self) -> Mapping[str, Any]:
        """How its texture was trained."""
        return self.texture.columns

    def layout(self, resolution: int) -> LatentLayout:
        """Two groups on the grid of the texture."""
        side = resolution // self.downsample
        groups = (ChannelGroup(name=n, channels=p.latent_dim) for n, p in self.parts.items())
        return LatentLayout(groups=tuple(groups), height=side, width=side)

    def describe(self) -> Mapping[str, str]:
        """Hashes of the files that its parts take from elsewhere, in one."""
        found = [
            f"{name} {what} {described}"
            for name, part in self.parts.items()
            for what, described in part.describe().items()
        ]
        return {"checkpoint": ", ".join(found)} if found else {}

    def check(self, resolution: int) -> None:
        """Refuse parts that do not fit each other, then ask each of them."""
        texture, semantic = self.texture, self.semantic
        if texture.decodes != "images" or isinstance(texture, CompositeTokenizerConfig):
            raise ConfigError(
                "must be a tokenizer that decodes images and has no parts, va_vae for instance, "
                f"but got {texture.kind!r}",
                path="texture.kind",
            )
        if semantic.decodes != "features":
            raise ConfigError(
                f"must be a tokenizer of features, semvae or pca, but got {semantic.kind!r}",
                path="semantic.kind",
            )
        if texture.scaling != "statistics":
            raise ConfigError(
                "must be statistics in a composite, whose channels are all normalised as they are "
                f"measured, but got {texture.scaling!r}; set it",
                path="texture.scaling",
            )
        if isinstance(texture.layout(resolution), IndexLayout):
            raise ConfigError(
                "must be a tokenizer whose latents are channels, va_vae for instance, since the "
                f"semantic ones are stacked upon them, but {texture.kind!r} gives indices",
                path="texture.kind",
            )
        if semantic.downsample != texture.downsample:
            raise ConfigError(
                f"must be {texture.downsample}, so that both parts lie on the grid of the texture "
                f"({resolution // texture.downsample} cells a side), but got "
                f"{semantic.downsample}; set it",
                path="semantic.downsample",
            )
        for name, part in self.parts.items():
            try:
                part.check(resolution)
            except ConfigError as error:
                raise error.within(path=name) from error


def _check_sizes(latent_dim: int, downsample: int) -> None:
    if latent_dim < 1 or downsample < 1:
        raise ValueError(
            f"`latent_dim` and `downsample` must be at least 1, but got {latent_dim} and "
            f"{downsample}; use 16 and 16"
        )
