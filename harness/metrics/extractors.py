"""Feature networks of the metrics behind one interface: 8-bit images in, float32 features out.

One pass through a network gives everything that metrics want of a batch: pooled features (Fréchet
and kernel distance, precision, recall), spatial features (sFID) and class scores (inception score,
label accuracy). `ExtractionConfig` says in which precision, and whether compiled.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.machine.float32 import exact_float32
from harness.metrics.inception_network import InceptionNetwork
from harness.schema.keys import NO_KEY
from harness.storage.durable import file_sha256
from models.foundation import EncoderOutputs

INCEPTION_SHA256 = "6726825d"
"""First hexadecimal digits of the sha256 of torch-fidelity's weights, those of published FID."""
_DEFAULT_FILE = f"weights-inception-2015-12-05-{INCEPTION_SHA256}.pth"
_DEFAULT_ADDRESS = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_DEFAULT_FILE}"
)
INCEPTION_NAME = "inception-v3-compat"
"""torch-fidelity's name of the network of the published FID."""
_SPATIAL_CHANNELS = 7
_CPU_BATCH = 16
"""Images that Inception-v3 takes at a time on a CPU: its first layers then stay in the cache. With
fewer, and one thread, torch takes slower convolutions."""


@final
@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """How a feature network is run; part of the protocol, since it moves features slightly."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and products inside the network. Both exclude TensorFloat-32; means
    over the feature map and class scores are float32 in both."""
    compile: bool = False
    """Whether the network is compiled, which takes a minute or more. On a CPU it gains a quarter on
    a ResNet-18 and nothing on Inception-v3."""


@final
@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Features of a batch from one pass, on the network's device."""

    features: Float32[Tensor, "b d"]
    spatial: Float32[Tensor, "b s"] | None
    """First 7 channels of an inner feature map in the order row, column, channel; None where the
    network has no map."""
    logits: Float32[Tensor, "b k"] | None
    """Class scores, not always of this data set's classes; None where the network has none."""


class FeatureExtractor(ABC):
    """A frozen network that turns images into the features in which sets are compared."""

    name: str
    """Name for columns and axis labels."""
    identity: str
    """Identity of its weights (a sha256 or a key); part of the protocol."""
    feature_dim: int
    classifies_labels: bool
    """Whether `logits` score the classes of the evaluated data set, in the order of labels."""

    @abstractmethod
    def extract(self, images: UInt8[Tensor, "b 3 h w"]) -> Extracted:
        """Everything about a batch from one pass, without gradient."""

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Pooled features of a batch, where nothing else is wanted."""
        return self.extract(images).features


@final
class _Runner:
    """Runs a function of images in the asked precision, compiled if asked.

    A compiled function sees one batch size only, its first: shorter batches are padded.
    """

    def __init__(
        self, function: Callable[[Tensor], Any], config: ExtractionConfig, device: torch.device
    ) -> None:
        self._function = function
        if config.compile:
            self._function = torch.compile(function, dynamic=False)
        self._config, self._device = config, device
        self._size = 0

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Any:
        """The function's result; where it is compiled, that of a batch padded with black."""
        images = images.to(self._device)
        if self._config.compile:
            self._size = max(self._size, len(images))
            padding = images.new_zeros(self._size - len(images), *images.shape[1:])
            images = torch.cat([images, padding])
        low = self._config.precision == "bfloat16"
        with exact_float32(), torch.autocast(self._device.type, torch.bfloat16, enabled=low):
            return self._function(images)


@final
class EncoderExtractor(FeatureExtractor):
    """An encoder of this project, in-domain for instance, as the feature network of a metric.

    Args:
        outputs: Pooled features, feature map and class scores of images in [-1, 1], from one pass.
        identity: Key of the artifact that holds its weights.
        has_logits: Its class scores are of this data set's classes.
    """

    def __init__(
        self,
        outputs: Callable[[Tensor], EncoderOutputs],
        *,
        name: str,
        identity: str,
        feature_dim: int,
        device: torch.device | str = "cpu",
        has_logits: bool = True,
        extraction: ExtractionConfig = ExtractionConfig(),
    ) -> None:
        self.name, self.identity, self.feature_dim = name, identity, feature_dim
        self.classifies_labels = has_logits

        def of_pixels(images: Tensor) -> EncoderOutputs:
            return outputs(to_model_range(images))

        self._run = _Runner(of_pixels, extraction, torch.device(device))

    def extract(self, images: UInt8[Tensor, "b 3 h w"]) -> Extracted:
        """Pooled features, 7 channels of the feature map, and class scores."""
        count, found = len(images), self._run(images)
        spatial = None
        if found.dense is not None:
            channels = found.dense[:count, :_SPATIAL_CHANNELS].float()
            spatial = channels.permute(0, 2, 3, 1).flatten(1)
        logits = None if found.logits is None else found.logits[:count].float()
        return Extracted(features=found.pooled[:count].float(), spatial=spatial, logits=logits)


@final
@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Inception-v3, ported from TensorFlow by torch-fidelity: the network of the published FID."""

    kind: Literal["inception"] = "inception"
    weights: str = field(default="default", metadata=NO_KEY)
    """Path of the weights (.pth or .safetensors); `default` is torch-fidelity's file in the cache
    of torch.hub."""
    sha256: str = INCEPTION_SHA256
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
    def name(self) -> str:
        """Name of the network, for people."""
        return self.kind

    @property
    def feature_name(self) -> str:
        """The name that torch-fidelity gives its features."""
        return INCEPTION_NAME

    @property
    def distance_name(self) -> str:
        """Plain FID in the features of the published weights only."""
        if self.sha256.startswith(INCEPTION_SHA256):
            return "FID"
        return "Fréchet distance (Inception-v3 of other weights)"

    def describe(self) -> str:
        """The digits that the weights are held to."""
        return f"sha256 {self.sha256}"

    def check(self, resolution: int) -> None:
        """Any image is resized to what the network takes."""

    @property
    def path(self) -> Path:
        """Where the weights are looked for."""
        if self.weights == "default":
            return Path(torch.hub.get_dir()) / "checkpoints" / _DEFAULT_FILE
        return Path(self.weights).expanduser()

    def missing(self, path: str = "evaluation.extractor") -> list[MissingItem]:
        """The weights file if it is absent; nothing is opened or fetched."""
        if self.path.is_file():
            return []
        what, fetch = "the Inception-v3 weights of torch-fidelity", None
        remedy = f"set `{path}.weights` to the path of a copy"
        if self.weights == "default":
            remedy = f"download {_DEFAULT_ADDRESS} to that place, or {remedy}"
            fetch = self.fetch
        return [MissingItem(what=what, location=str(self.path), remedy=remedy, fetch=fetch)]

    def fetch(self) -> None:
        """Download torch-fidelity's file to the default place; no other content is kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                _DEFAULT_ADDRESS, str(self.path), hash_prefix=self.sha256, progress=False
            )
        except RuntimeError as error:
            raise ValueError(
                f"the sha256 of {_DEFAULT_ADDRESS} must begin with {self.sha256}, but the download "
                f"differs ({error}); try again, or set `sha256` if these weights are meant"
            ) from error


@final
class InceptionExtractor(FeatureExtractor):
    """torch-fidelity's FID-compatible Inception-v3: 2048 pooled features, 1008 class scores. Images
    are resized to 299x299 inside, as TensorFlow 1 did. Nothing is downloaded."""

    name = INCEPTION_NAME
    feature_dim = 2048
    # Its 1008 classes are no data set's labels.
    classifies_labels = False

    def __init__(
        self,
        config: InceptionConfig,
        device: torch.device | str = "cpu",
        extraction: ExtractionConfig = ExtractionConfig(),
    ) -> None:
        if absent := config.missing():
            raise ValueError(str(absent[0]))
        # The sha256 of the weights file.
        self.identity = file_sha256(config.path)
        if not self.identity.startswith(config.sha256):
            raise ValueError(
                f"the sha256 of {str(config.path)!r} must begin with {config.sha256}, but it is "
                f"{self.identity}; get the file again, or set `sha256` if these weights are meant"
            )
        self._device = torch.device(device)
        network = InceptionNetwork(config.path).to(self._device)
        self._run = _Runner(network, extraction, self._device)

    def extract(self, images: UInt8[Tensor, "b 3 h w"]) -> Extracted:
        """2048 features, 2023 spatial ones (`mixed_6/conv`) and the scores without bias."""
        size = _CPU_BATCH if self._device.type == "cpu" else len(images)
        parts = [
            [output[: len(part)] for output in self._run(part)]
            for part in images.split(max(1, size))
        ]
        features, spatial, logits = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return Extracted(features=features, spatial=spatial, logits=logits)
