"""Feature networks of the metrics behind one interface: 8-bit images in, float32 features out."""

import io
import pickle
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.store import file_sha256

_DEFAULT_FILE = "weights-inception-2015-12-05-6726825d.pth"
_DEFAULT_ADDRESS = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_DEFAULT_FILE}"
)


class FeatureExtractor(ABC):
    """A frozen network that turns images into the features in which sets are compared."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for columns and axis labels."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells its weights from all others (a sha256 or a key); part of the protocol."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Width of the features."""

    @abstractmethod
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Features of a batch, on the network's device and without gradient."""

    @abstractmethod
    def logits(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b k"] | None:
        """Class scores of a batch, or none where the network is no classifier of this data."""


@runtime_checkable
class PooledEncoder(Protocol):
    """What `EncoderExtractor` asks of a network: one feature vector and class scores per image."""

    def pooled(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Feature vectors of images in [-1, 1]."""
        ...

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Class scores of images in [-1, 1]."""
        ...


@final
class EncoderExtractor(FeatureExtractor):
    """An encoder of this project, in-domain for instance, as the feature network of a metric.

    Args:
        encoder: Network in evaluation mode.
        name: Name for columns and axis labels.
        identity: Key of the artifact that holds its weights.
        feature_dim: Width of its pooled features.
        device: Where the network is.
        has_logits: Its class scores are of this data set's classes.
    """

    def __init__(
        self,
        encoder: PooledEncoder,
        *,
        name: str,
        identity: str,
        feature_dim: int,
        device: torch.device | str = "cpu",
        has_logits: bool = True,
    ) -> None:
        self._encoder = encoder
        self._name, self._identity, self._feature_dim = name, identity, feature_dim
        self._device, self._has_logits = torch.device(device), has_logits

    @property
    def name(self) -> str:
        """Name for columns and axis labels."""
        return self._name

    @property
    def identity(self) -> str:
        """Key of the artifact that holds the weights."""
        return self._identity

    @property
    def feature_dim(self) -> int:
        """Width of the pooled features."""
        return self._feature_dim

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Pooled features of a batch."""
        return self._encoder.pooled(to_model_range(images.to(self._device))).float()

    @torch.no_grad()
    def logits(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b k"] | None:
        """Class scores of a batch, or none where they are not of this data set's classes."""
        if not self._has_logits:
            return None
        return self._encoder.logits(to_model_range(images.to(self._device))).float()


@final
@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Inception-v3, ported from TensorFlow by torch-fidelity: the network of the published FID."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: Literal["inception"] = "inception"
    weights: str = field(default="default", metadata={"key": False})
    """Path of the weights (.pth or .safetensors); `default` is torch-fidelity's file in the cache
    of torch.hub."""
    sha256: str = "6726825d"
    """First hexadecimal digits (8 to 64) of the file's sha256; the preset is torch-fidelity's."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("`weights` must be a path or 'default', but got ''; use 'default'")
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256):
            raise ValueError(
                "`sha256` must be the first 8 to 64 lower-case hexadecimal digits of the weights' "
                f"sha256, but got {self.sha256!r}; run `sha256sum` on the file"
            )

    @property
    def path(self) -> Path:
        """Where the weights are looked for."""
        if self.weights == "default":
            return Path(torch.hub.get_dir()) / "checkpoints" / _DEFAULT_FILE
        return Path(self.weights).expanduser()

    def missing(self) -> list[MissingItem]:
        """The weights file if it is absent; nothing is opened or fetched."""
        if self.path.is_file():
            return []
        remedy = (
            f"download {_DEFAULT_ADDRESS} to that place, or set `weights` to the path of a copy"
            if self.weights == "default"
            else "set `weights` to the path of the file"
        )
        what = "the Inception-v3 weights of torch-fidelity"
        return [MissingItem(what=what, location=str(self.path), remedy=remedy)]


@final
class InceptionExtractor(FeatureExtractor):
    """torch-fidelity's FID-compatible Inception-v3: 2048 pooled features, ImageNet class scores.

    Images are resized to 299x299 inside, as TensorFlow 1 did. Nothing is downloaded.

    Raises:
        ValueError: The weights are absent, have another sha256 or other tensors.
    """

    def __init__(self, config: InceptionConfig, device: torch.device | str = "cpu") -> None:
        if absent := config.missing():
            raise ValueError(str(absent[0]))
        self._sha256 = file_sha256(config.path)
        if not self._sha256.startswith(config.sha256):
            raise ValueError(
                f"the sha256 of {str(config.path)!r} must begin with {config.sha256}, but it is "
                f"{self._sha256}; get the file again, or set `sha256` if these weights are meant"
            )
        self._device = torch.device(device)
        self._network = _load_inception(config.path).to(self._device)

    @property
    def name(self) -> str:
        """torch-fidelity's name of the network."""
        return "inception-v3-compat"

    @property
    def identity(self) -> str:
        """sha256 of the weights file."""
        return self._sha256

    @property
    def feature_dim(self) -> int:
        """Width of the last pooled layer."""
        return 2048

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Pooled features of a batch."""
        return self._network(images.to(self._device))[0]

    def logits(self, images: UInt8[Tensor, "b 3 h w"]) -> None:
        """Nothing: its 1008 classes are no data set's labels."""


def _load_inception(path: Path) -> nn.Module:
    # Importing torch-fidelity takes seconds, and most sweeps never need it.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever its path holds; it is given a copy of checked tensors only.
    checked = io.BytesIO()
    torch.save(_read_tensors(path), checked)
    checked.seek(0)
    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=checked
        )
    except RuntimeError as error:
        raise ValueError(
            f"{str(path)!r} must hold torch-fidelity's Inception-v3 tensors, but does not: "
            f"{error}; give its file"
        ) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} must hold tensors and nothing else, but other objects came; save its "
            "state dict as .safetensors"
        ) from error
