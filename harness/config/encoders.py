"""Feature networks of a trial: what tokenizers and generators are aligned with, and what grades."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from harness.config.python_encoder import PythonEncoderConfig
from harness.config.training import TrainingConfig
from harness.config.weights import describe_file
from harness.metrics.extractors import InceptionConfig
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.schema.kinds import Kinds
from harness.schema.reading import ConfigError
from models import foundation


@runtime_checkable
class EncoderSettings(Protocol):
    """What every kind of feature network says of itself, for others to read: a kind is a frozen
    dataclass with these members, and its other fields are its own."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def kind(self) -> str:
        """Name of the kind."""
        ...

    @property
    def name(self) -> str:
        """Name of the network, for people."""
        ...

    @property
    def feature_name(self) -> str:
        """Name of its features in the table and in files of statistics."""
        ...

    @property
    def distance_name(self) -> str:
        """Name of a Fréchet distance in its features."""
        ...

    def describe(self) -> str:
        """Hash or origin of weights from elsewhere, for keys."""
        ...

    def check(self, resolution: int) -> None:
        """Refuse settings that don't fit images of `resolution` pixels: a ConfigError with the key
        path inside the block."""
        ...


@dataclass(frozen=True, kw_only=True)
class InDomainEncoder:
    """A timm network trained here as a classifier of the training split, as a stage of its own."""

    kind: Literal["in_domain"] = "in_domain"
    name: str
    """timm model name."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `timm.create_model`, beside the number of classes."""
    input_size: int | None = None
    """Images are resized to this side in pixels first (bilinear); absent: the data's resolution."""
    max_shift: int = field(default=0, metadata=KEY_UNLESS_DEFAULT)
    """Training images are moved by up to so many pixels along either axis, edges mirrored; beside
    the data set's own augmentation."""
    seed: int = 0
    """Seed of its weights and batches; it does not follow the trial's seed."""
    training: TrainingConfig

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise ValueError(
                f"`max_shift` must not be negative, but got {self.max_shift}; use 4 for CIFAR-10"
            )

    @property
    def feature_name(self) -> str:
        """Its kind and network."""
        return f"{self.kind} {self.name}"

    @property
    def distance_name(self) -> str:
        """Its features are those of this data set."""
        return "in-domain Fréchet distance"

    def describe(self) -> str:
        """It takes no weights from elsewhere."""
        return "trained here"

    def check(self, resolution: int) -> None:
        """Refuse shifts that leave nothing of an image."""
        if self.max_shift >= resolution:
            raise ConfigError(
                f"must be less than the {resolution} pixels of an image, but got "
                f"{self.max_shift}; use {resolution // 8}",
                path="max_shift",
            )


# Of the same name as the class of `models` that says how the network is run: the name stands in
# keys, and nobody has both.
@dataclass(frozen=True, kw_only=True)
class TimmEncoderConfig(foundation.TimmEncoderConfig):
    """A timm network with weights from elsewhere."""

    @property
    def feature_name(self) -> str:
        """Its kind and network."""
        return f"{self.kind} {self.name}"

    @property
    def distance_name(self) -> str:
        """Named after the network."""
        return f"Fréchet distance ({self.name})"

    def describe(self) -> str:
        """The hash of a file, or what stands for it."""
        if self.weights in ("pretrained", "random"):
            return self.weights
        return describe_file(self.weights)

    def check(self, resolution: int) -> None:
        """Any image is resized to what the network takes."""


ENCODERS: Kinds[Any] = Kinds("alignment encoder", EncoderSettings)
"""Every kind of network that a tokenizer or generator can be aligned with: it has dense features.
`harness.stages.encoder` says how each is made and loaded."""
ENCODERS.add("in_domain", InDomainEncoder)
ENCODERS.add("timm", TimmEncoderConfig)
ENCODERS.add("python", PythonEncoderConfig)

EXTRACTORS: Kinds[Any] = Kinds("metric extractor", EncoderSettings)
"""Every kind of network whose features a Fréchet distance can be measured in, pooled ones."""
EXTRACTORS.add("in_domain", InDomainEncoder)
EXTRACTORS.add("timm", TimmEncoderConfig)
EXTRACTORS.add("python", PythonEncoderConfig)
EXTRACTORS.add("inception", InceptionConfig)

AlignmentEncoder = Annotated[EncoderSettings, ENCODERS]
"""A network that a tokenizer or generator is aligned with."""

MetricExtractor = Annotated[EncoderSettings, EXTRACTORS]
"""A network whose features a Fréchet distance is measured in."""
