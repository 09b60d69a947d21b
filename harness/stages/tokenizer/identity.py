"""Tokenizer kind `identity`: pixels as latents."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from harness.config.identity import IdentityTokenizerConfig
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.trial import Trial
from harness.stages.running.context import StageContext
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage
from harness.storage.artifacts import Artifact
from models.posterior import PointPosterior
from models.tokenizer import TokenizerNetwork


class IdentityTokenizer(TokenizerNetwork):
    """Moves blocks of `block` x `block` pixels into channels and back, without a parameter."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def encode(self, images: Float[Tensor, "b 3 h w"], /) -> PointPosterior:
        """The pixels."""
        return PointPosterior(mean=functional.pixel_unshuffle(images.float(), self.block))

    def decode(self, latent: Float[Tensor, "b c h_z w_z"], /) -> Float[Tensor, "b 3 h w"]:
        """The same pixels."""
        return functional.pixel_shuffle(latent, self.block)


def stage(trial: Trial) -> TokenizerStage:
    """Make the configuration of the stage from a trial; one serves all seeds."""
    settings = replace(_settings(trial.tokenizer), seed=None)
    return TokenizerStage(tokenizer=settings, data=trial.data, perceptual_weights="")


def build(config: TokenizerStage) -> IdentityTokenizer:
    """Builds it."""
    return IdentityTokenizer(_settings(config.tokenizer).space_to_depth)


def make(_config: TokenizerStage, _context: StageContext) -> Mapping[str, Any]:
    """Leaves nothing but the result: there is nothing to train."""
    return {"parameters": 0, "images": 0}


def load(config: TokenizerStage, _artifact: Artifact) -> IdentityTokenizer:
    """Builds it."""
    return build(config)


def _settings(config: AnyTokenizerConfig) -> IdentityTokenizerConfig:
    assert isinstance(config, IdentityTokenizerConfig)
    return config


KIND = TokenizerKind(stage=stage, build=build, make=make, load=load)
