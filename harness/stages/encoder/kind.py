"""The configuration of the stage `encoder`, and the contract of a kind of feature network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.config.data import DataConfig
from harness.config.encoders import AlignmentEncoder, MetricExtractor
from harness.config.trial import Trial
from harness.data.missing import MissingItem
from harness.metrics.extractors import ExtractionConfig, FeatureExtractor
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact
from models.foundation import EncoderNetwork


@dataclass(frozen=True, kw_only=True)
class EncoderStage:
    """Configuration of the stage, which has no inputs."""

    encoder: AlignmentEncoder | MetricExtractor
    data: DataConfig | None
    """Images it is trained on; None where it comes from elsewhere."""
    weights: str
    """Hash or origin of weights from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a trial has a feature network, and what it is asked for there."""

    role: str
    """What it is for, in words."""
    path: str
    """Key path in the trial."""
    grid: int | None
    """Side of the grid on which its dense features are wanted; None: pooled ones are."""


METRIC = Place(role="metric extractor", path="evaluation.extractor", grid=None)
"""Where distances between images are measured."""


def given(config: Any, _trial: Trial, _place: Place) -> EncoderStage:
    """The stage of a network that sees no image of the trial before it is used."""
    return EncoderStage(encoder=config, data=None, weights=config.describe())


def only_file(artifact: Artifact) -> str:
    """The name of an artifact's one file."""
    (name,) = artifact.record["files"]
    return name


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """All that stages know of one kind of feature network.

    A network whose pooled features alone are used needs no `build` and `load` but an `extractor`,
    a `size` and a `feature_dim`; where these are absent, they follow from `build` and `load`.
    """

    make: Callable[[EncoderStage, StageContext], Mapping[str, Any]]
    """Trains the network, or copies given weights, into the stage's payload."""
    build: Callable[[EncoderStage], EncoderNetwork] | None = None
    """Builds the network with untrained weights."""
    load: Callable[[EncoderStage, Artifact], EncoderNetwork] | None = None
    """Builds the network with the weights that `make` has left."""
    stage: Callable[[Any, Trial, Place], EncoderStage] = given
    """Says what the stage of a configuration reads, and refuses what its place cannot use."""
    extractor: (
        Callable[[EncoderStage, Artifact, torch.device, ExtractionConfig], FeatureExtractor] | None
    ) = None
    """Loads it as the feature network of a metric."""
    classifies_labels: bool = False
    """Whether its class scores are of the classes of the data set that it was trained on."""
    size: Callable[[EncoderStage, int | None], tuple[int, float]] | None = None
    """Counts its parameters and the FLOPs of an image, on a grid of so many cells a side."""
    feature_dim: Callable[[EncoderStage], int] | None = None
    """Tells the width of its features."""
    identity: Callable[[Artifact], str] = lambda artifact: artifact.sha256(only_file(artifact))
    """Hash of what its features depend on beside its configuration, for the protocol."""
    trained_images: Callable[[EncoderStage], int] = lambda _config: 0
    """Counts the images that it is trained with here, 0 where its weights are given."""
    missing: Callable[[EncoderStage, str], list[MissingItem]] = lambda _config, _path: []
    """Lists weights that this machine lacks; the second argument is the key path of the network."""
    check_given: Callable[[EncoderStage], None] = lambda _config: None
    """Refuses a file of weights at hand that the network does not fit, by a ValueError."""
    cheapened: Callable[[Any], Any] = lambda config: config
    """A configuration that costs as much to use and nothing to make, for measuring speed."""
