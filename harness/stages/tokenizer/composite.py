"""Tokenizer kind `composite`: channels of a texture tokenizer, then those of a semantic one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.semantic import CompositeTokenizerConfig
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.trial import Trial
from harness.schema.reading import ConfigError
from harness.stages.running.context import StageContext
from harness.stages.stage import Stage
from harness.stages.tokenizer.kind import (
    TokenizerKind,
    TokenizerStage,
    kind_of,
    network_of,
    stage_of,
)
from harness.storage.artifacts import Artifact, embed, embedded
from models.posterior import AnyPosterior, IndexPosterior, PointPosterior, Posterior
from models.tokenizer import TokenizerNetwork

TEXTURE, SEMANTIC = "texture", "semantic"


class CompositeTokenizer(TokenizerNetwork):
    """Encodes images by both parts, and decodes them by the texture alone."""

    def __init__(
        self, texture: TokenizerNetwork, semantic: TokenizerNetwork, texture_channels: int
    ) -> None:
        super().__init__()
        self.texture, self.semantic = texture, semantic
        self.texture_channels = texture_channels

    def encode(self, images: Float[Tensor, "b 3 h w"], /) -> AnyPosterior:
        """Both latents, texture first."""
        texture, semantic = self.texture.encode(images), self.semantic.encode(images)
        assert not isinstance(texture, IndexPosterior)
        assert not isinstance(semantic, IndexPosterior)
        return _stacked(texture, semantic)

    def decode(self, latent: Float[Tensor, "b c h_z w_z"], /) -> Float[Tensor, "b 3 h w"]:
        """Images of the texture's channels; the semantic ones are dropped."""
        return self.texture.decode(latent[:, : self.texture_channels])

    def compile_trunks(self) -> None:
        """Compile those of both."""
        self.texture.compile_trunks()
        self.semantic.compile_trunks()


def _stacked(
    texture: Posterior | PointPosterior, semantic: Posterior | PointPosterior
) -> AnyPosterior:
    parts = (texture, semantic)
    mean = torch.cat([part.mean for part in parts], dim=1)
    if all(isinstance(part, PointPosterior) for part in parts):
        return PointPosterior(mean=mean)
    # A single latent is a Gaussian without spread: its sample is its mean, whatever the noise.
    spread = [
        part.log_variance if isinstance(part, Posterior) else torch.full_like(part.mean, -torch.inf)
        for part in parts
    ]
    return Posterior(mean=mean, log_variance=torch.cat(spread, dim=1))


def stage(trial: Trial) -> TokenizerStage:
    """Make the configuration of the stage from a trial."""
    settings = _settings(trial.tokenizer)
    given = settings.describe() if settings.is_given else {}
    return TokenizerStage(tokenizer=settings, data=trial.data, perceptual_weights="", **given)


def needs(trial: Trial) -> Mapping[str, Stage]:
    """Its parts, each the stage of a trial that had it alone."""
    found = {}
    for name, part in _settings(trial.tokenizer).parts.items():
        try:
            found[name] = stage_of(replace(trial, tokenizer=part))
        except ConfigError as error:
            path = error.path.replace("trial.tokenizer", f"trial.tokenizer.{name}", 1)
            raise ConfigError(error.message, path=path, source=error.source) from error
    return found


def build(config: TokenizerStage) -> CompositeTokenizer:
    """Builds both networks with untrained weights."""
    settings = _settings(config.tokenizer)
    texture, semantic = (
        kind_of(part).build(replace(config, tokenizer=part)) for part in settings.parts.values()
    )
    return CompositeTokenizer(texture, semantic, settings.texture.latent_dim)


def make(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """Copies both, so that whoever encodes or decodes needs this artifact alone."""
    parts = [context.inputs[name] for name in (TEXTURE, SEMANTIC)]
    for name, part in zip((TEXTURE, SEMANTIC), parts, strict=True):
        embed(part, context.work.payload / name)
    given = [part.result["checkpoint"] for part in parts if "checkpoint" in part.result]
    return {
        "parameters": sum(part.result["parameters"] for part in parts),
        "images": parts[0].result["images"],
        **({"checkpoint": "; ".join(given)} if given else {}),
    }


def load(config: TokenizerStage, artifact: Artifact) -> CompositeTokenizer:
    """Builds both networks with the weights of an artifact."""
    texture, semantic = (network_of(embedded(artifact, name)) for name in (TEXTURE, SEMANTIC))
    return CompositeTokenizer(texture, semantic, _settings(config.tokenizer).texture.latent_dim)


def _settings(config: AnyTokenizerConfig) -> CompositeTokenizerConfig:
    assert isinstance(config, CompositeTokenizerConfig)
    return config


KIND = TokenizerKind(
    stage=stage,
    build=build,
    make=make,
    load=load,
    needs=needs,
    measured=TEXTURE,
    built_from_files=True,
)
