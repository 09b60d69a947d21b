"""Encoder kind `python`: an object of the user's own with `features`, `pooled` or both."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from harness.config.python_encoder import PythonEncoderConfig
from harness.config.trial import Trial
from harness.config.weights import missing_checkpoint
from harness.data.missing import MissingItem
from harness.schema.imported import code_of
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError
from harness.stages.encoder.kind import EncoderKind, EncoderStage, Place, given
from harness.stages.flops import count_forward, empty_image
from harness.stages.running import own_code
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact
from models.foundation import EncoderNetwork, EncoderOutputs


class PythonEncoder(EncoderNetwork):
    """Holds an object of the user's own to the contract of a feature network.

    Args:
        config: What builds it and what it declares, with `input_size`.

    Raises:
        ConfigError: It cannot be built.
    """

    def __init__(self, config: PythonEncoderConfig) -> None:
        super().__init__()
        assert config.input_size is not None
        self.config = config
        self.inner: Any = config.build()

    @property
    def feature_dim(self) -> int:
        """As declared."""
        return self.config.feature_dim

    @property
    def stride(self) -> int:
        """As declared."""
        assert self.config.stride is not None
        return self.config.stride

    @property
    def input_size(self) -> tuple[int, int]:
        """As declared; all images are resized to it."""
        assert self.config.input_size is not None
        return self.config.input_size, self.config.input_size

    def offers(self, method: str) -> bool:
        """Whether the object has a method."""
        return callable(getattr(self.inner, method, None))

    def require(self, method: str, use: str) -> None:
        """Refuse an object without a method that its place needs."""
        if not self.offers(method):
            raise ConfigError(
                f"{self.config.target} must return an object with `{method}`, which {use} needs, "
                f"but {type(self.inner).__name__} has none; add the method",
                path="target",
            )

    @torch.no_grad()
    def features(
        self, images: Float[Tensor, "b c h_in w_in"], grid: tuple[int, int]
    ) -> Float[Tensor, "b d h w"]:
        """Its dense features, outside of the caller's autocast."""
        with torch.autocast(images.device.type, enabled=False):
            return self._ask("features", images, (self.feature_dim, *grid)).float()

    @torch.no_grad()
    def outputs(self, images: Float[Tensor, "b c h w"]) -> EncoderOutputs:
        """Its pooled features, and its feature map and class scores where it has them."""
        dense = logits = None
        pooled = self._ask("pooled", images, (self.feature_dim,)).float()
        if self.config.stride is not None and self.offers("features"):
            cells = self.input_size[0] // self.stride
            dense = self._ask("features", images, (self.feature_dim, cells, cells)).float()
        if self.offers("logits"):
            logits = self._ask("logits", images, (None,)).float()
        return EncoderOutputs(pooled=pooled, dense=dense, logits=logits)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Any:
        """What a metric asks for, or dense features where it has no pooled ones."""
        if self.offers("pooled"):
            return self.outputs(images)
        cells = self.input_size[0] // self.stride
        return self.features(images, (cells, cells))

    def _ask(self, method: str, images: Tensor, shape: tuple[int | None, ...]) -> Tensor:
        low, high = self.config.image_range
        if tuple(images.shape[2:]) != self.input_size:
            images = functional.interpolate(images, self.input_size, mode="bilinear")
        found = getattr(self.inner, method)(low + (images + 1.0) * ((high - low) / 2.0))
        said = f"`{method}` of {self.config.target} must return"
        own_code.require_floats(found, said, images.device)
        expected = [len(images), *("k" if size is None else size for size in shape)]
        fits = [None if size == "k" else size for size in expected]
        if len(found.shape) != len(fits) or any(
            size not in (None, came) for size, came in zip(fits, found.shape, strict=True)
        ):
            raise ConfigError(
                f"{said} shape [{', '.join(map(str, expected))}] for images of "
                f"{self.input_size[0]} pixels, but returned {list(found.shape)}; correct "
                "`feature_dim`, `stride`, `input_size` or the code",
                path="target",
            )
        return found


def try_out(config: PythonEncoderConfig, place: Place) -> PythonEncoder:
    """Build it and ask it for what its place needs, so that what is wrong is told at planning:
    ConfigError says in words which part of the contract it does not keep."""
    network = PythonEncoder(config).eval()
    assert config.input_size is not None
    if place.grid is None:
        network.require("pooled", f"the {place.role}")
    else:
        network.require("features", f"the {place.role}")
        _require_grid(config, place.grid)
    images = torch.linspace(-1.0, 1.0, 2)[:, None, None, None]
    images = images.expand(2, 3, *network.input_size).contiguous()
    try:
        if place.grid is None:
            found = network.outputs(images)
            asked = {"pooled": found.pooled, "features": found.dense, "logits": found.logits}
        else:
            asked = {"features": network.features(images, (place.grid, place.grid))}
    except ConfigError:
        raise
    except Exception as error:
        # Whatever it is: the code is the user's, and so is the error.
        side = config.input_size
        raise ConfigError(
            f"{config.target} failed on images of {side} pixels: {type(error).__name__}: {error}; "
            f"it must take float tensors [b, 3, {side}, {side}]",
            path="target",
        ) from error
    for name, tensor in asked.items():
        if tensor is not None and not bool(tensor.isfinite().all()):
            raise ConfigError(
                f"`{name}` of {config.target} must return finite numbers, but some are not; check "
                "its weights and `image_range`",
                path="target",
            )
    return network


def _require_grid(config: PythonEncoderConfig, grid: int) -> None:
    if config.stride is None:
        raise ConfigError(
            f"a value is required where features are wanted on a grid of {grid} x {grid}, but none "
            "came; give the image pixels per cell of `features`",
            path="stride",
        )
    if config.input_size != grid * config.stride:
        raise ConfigError(
            f"must be {grid * config.stride}, for features on the grid of {grid} x {grid} cells "
            f"that they are compared on, at a stride of {config.stride}, but is "
            f"{config.input_size}; set it, or use another network",
            path="input_size",
        )


def stage(config: PythonEncoderConfig, trial: Trial, place: Place) -> EncoderStage:
    """Make the configuration of the stage, with the size of images written out."""
    config = replace(config, input_size=config.input_size or trial.data.resolution)
    if config.weights is None or Path(config.weights).expanduser().is_file():
        try:
            _tried(config, place)
        except ConfigError as error:
            raise error.within(path=f"trial.{place.path}") from error
    return given(config, trial, place)


_known: set[str] = set()


def _tried(config: PythonEncoderConfig, place: Place) -> None:
    """Try it out, once in this process."""
    name = f"{config} {place} {code_of(config)}"
    if name not in _known:
        try_out(config, place)
        _known.add(name)


def make(config: EncoderStage, context: StageContext) -> Mapping[str, Any]:
    """Copies the file of weights, where there is one: it cannot change under the results then."""
    settings = _settings(config)
    network = PythonEncoder(settings)
    own_code.keep_weights(settings, context.work.payload)
    return {
        "feature_dim": network.feature_dim,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def load(config: EncoderStage, artifact: Artifact) -> PythonEncoder:
    """Builds the user's object with the weights that `make` has copied."""
    return PythonEncoder(own_code.with_kept_weights(_settings(config), artifact))


def size(config: EncoderStage, _cells: int | None) -> tuple[int, float]:
    """Parameters and FLOPs; 0 where the user's code cannot be counted, on the meta device."""
    settings = _settings(config)
    if missing(config, ""):
        return 0, 0.0

    def forward() -> tuple[PythonEncoder, tuple[Any, ...]]:
        network = PythonEncoder(settings)
        return network, empty_image(*network.input_size)

    try:
        return count_forward(config, forward)
    except Exception:
        # Whatever it is: a cost that is not known is no reason not to run.
        return 0, 0.0


def missing(config: EncoderStage, path: str) -> list[MissingItem]:
    """The file of weights."""
    settings = _settings(config)
    return missing_checkpoint(
        f"the weights of {settings.name}", settings.weights, f"{path}.weights"
    )


def _settings(config: EncoderStage) -> PythonEncoderConfig:
    assert isinstance(config.encoder, PythonEncoderConfig)
    return config.encoder


KIND = EncoderKind(
    stage=stage,
    build=lambda config: PythonEncoder(_settings(config)),
    make=make,
    load=load,
    size=size,
    feature_dim=lambda config: _settings(config).feature_dim,
    # The artifact may hold no file at all; code and weights are in its record.
    identity=lambda artifact: content_hash(artifact.record.get("code", {})),
    missing=missing,
)
