"""Tokenizer kind `python`: an object of the user's own with `encode` and `decode`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.python_tokenizer import PythonTokenizerConfig
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.trial import Trial
from harness.config.weights import missing_checkpoint
from harness.data.missing import MissingItem
from harness.schema.imported import code_of
from harness.schema.reading import ConfigError
from harness.stages.running import own_code
from harness.stages.running.context import StageContext
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage
from harness.storage.artifacts import Artifact
from models.posterior import LOG_VARIANCE_RANGE, AnyPosterior, PointPosterior, Posterior, draw
from models.tokenizer import TokenizerNetwork


class PythonTokenizer(TokenizerNetwork):
    """Holds an object of the user's own to the contract of a tokenizer; ConfigError where it cannot
    be built, or lacks a method."""

    def __init__(self, config: PythonTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.inner: Any = config.build()
        for name in ("encode", "decode"):
            if not callable(getattr(self.inner, name, None)):
                raise ConfigError(
                    f"{config.target} must return an object with `encode` and `decode`, but "
                    f"{type(self.inner).__name__} has no `{name}`; add the method",
                    path="target",
                )

    def encode(self, images: Float[Tensor, "b 3 h w"], /) -> AnyPosterior:
        """Its latent, or its mean and log-variance."""
        low, high = self.config.image_range
        given = low + (images + 1.0) * ((high - low) / 2.0)
        found = self.inner.encode(given)
        mean: Any = found
        spread: Any = None
        if isinstance(found, tuple) and len(found) == 2:
            mean, spread = found
        side = images.shape[2] // self.config.downsample
        shape = (
            len(images),
            self.config.latent_dim,
            side,
            images.shape[3] // self.config.downsample,
        )
        where = images.device
        self._require("encode", mean, shape, where, "latents, or a pair of mean and log-variance")
        if spread is None:
            return PointPosterior(mean=mean.float())
        self._require("encode", spread, shape, where, "a log-variance of the mean's shape")
        return Posterior(mean=mean.float(), log_variance=spread.float().clamp(*LOG_VARIANCE_RANGE))

    def decode(self, latent: Float[Tensor, "b c h_z w_z"], /) -> Float[Tensor, "b 3 h w"]:
        """Its images, brought to [-1, 1]."""
        low, high = self.config.image_range
        height, width = (side * self.config.downsample for side in latent.shape[2:])
        images = self.inner.decode(latent)
        self._require("decode", images, (len(latent), 3, height, width), latent.device, "images")
        return (images.float() - low) * (2.0 / (high - low)) - 1.0

    def _require(
        self, method: str, found: Any, shape: tuple[int, ...], device: torch.device, what: str
    ) -> None:
        said = f"`{method}` of {self.config.target} must return"
        own_code.require_floats(found, said, device, f"{what} as a")
        if tuple(found.shape) != shape:
            raise ConfigError(
                f"{said} {what} of shape {list(shape)}, "
                f"but returned {list(found.shape)}; correct latent_dim, downsample or the code",
                path="target",
            )


def try_out(config: PythonTokenizerConfig, resolution: int) -> PythonTokenizer:
    """Build it and send two grey images through it, so that what is wrong is told at planning:
    ConfigError says in words which part of the contract it does not keep."""
    network = PythonTokenizer(config).eval()
    images = torch.linspace(-1.0, 1.0, 2)[:, None, None, None].expand(2, 3, resolution, resolution)
    try:
        with torch.no_grad():
            posterior = network.encode(images.contiguous())
            sampled = draw(posterior, torch.Generator().manual_seed(0))
            decoded = network.decode(posterior.mode())
    except ConfigError:
        raise
    except Exception as error:
        # Whatever it is: the code is the user's, and so is the error.
        raise ConfigError(
            f"{config.target} failed on images of {resolution} pixels: {type(error).__name__}: "
            f"{error}; it must take float tensors [b, 3, {resolution}, {resolution}]",
            path="target",
        ) from error
    for name, tensor in (("encode", sampled), ("decode", decoded)):
        if not bool(tensor.isfinite().all()):
            raise ConfigError(
                f"`{name}` of {config.target} must return finite numbers, but some are not; check "
                "its weights and `image_range`",
                path="target",
            )
    own_code.require_range(decoded, config.image_range, f"`decode` of {config.target}")
    return network


def stage(trial: Trial) -> TokenizerStage:
    """Make the configuration of the stage from a trial."""
    settings = _settings(trial.tokenizer)
    if settings.weights is None or Path(settings.weights).expanduser().is_file():
        try:
            _tried(settings.identity, trial.data.resolution)
        except ConfigError as error:
            raise error.within(path="trial.tokenizer") from error
    return TokenizerStage(tokenizer=settings.identity, data=trial.data, perceptual_weights="")


_known: set[str] = set()


def _tried(settings: PythonTokenizerConfig, resolution: int) -> None:
    """Try it out, once in this process."""
    name = f"{settings} {resolution} {code_of(settings)}"
    if name not in _known:
        try_out(settings, resolution)
        _known.add(name)


def build(config: TokenizerStage) -> PythonTokenizer:
    """Builds the user's object."""
    return PythonTokenizer(_settings(config.tokenizer))


def make(stage: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """Copies the file of weights, where there is one: it cannot change under the results then."""
    config = _settings(stage.tokenizer)
    network = try_out(config, stage.data.resolution)
    own_code.keep_weights(config, context.work.payload)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        # Its training is not ours to know.
        "images": None,
        "checkpoint": own_code.origin_of(config),
    }


def load(stage: TokenizerStage, artifact: Artifact) -> PythonTokenizer:
    """Builds the user's object with the weights that `make` has copied."""
    return PythonTokenizer(own_code.with_kept_weights(_settings(stage.tokenizer), artifact))


def missing(config: TokenizerStage, path: str) -> list[MissingItem]:
    """The file of weights."""
    settings = _settings(config.tokenizer)
    return missing_checkpoint("the tokenizer's weights", settings.weights, f"{path}.weights")


def _settings(config: AnyTokenizerConfig) -> PythonTokenizerConfig:
    assert isinstance(config, PythonTokenizerConfig)
    return config


KIND = TokenizerKind(
    stage=stage, build=build, make=make, load=load, missing=missing, built_from_files=True
)
