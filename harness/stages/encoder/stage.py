"""Stage `encoder`: a frozen feature network of any kind, trained here or taken from elsewhere."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from harness.config.encoders import ENCODERS, EXTRACTORS, EncoderSettings
from harness.config.trial import Trial
from harness.metrics.extractors import EncoderExtractor, ExtractionConfig, FeatureExtractor
from harness.schema.kinds import num_added
from harness.schema.reading import ConfigError
from harness.stages.encoder import in_domain, inception, python, timm
from harness.stages.encoder.kind import EncoderKind, EncoderStage, Place
from harness.stages.flops import (
    ADAM_STATE,
    BYTES,
    FORWARDS_A_STEP,
    count_forward,
    empty_image,
    of_network,
)
from harness.stages.running.context import StageContext
from harness.stages.stage import Estimate, Stage, StageKind
from harness.storage.artifacts import Artifact
from models.foundation import EncoderNetwork

for kinds in (ENCODERS, EXTRACTORS):
    kinds.implement("in_domain", in_domain.KIND)
    kinds.implement("timm", timm.KIND)
    kinds.implement("python", python.KIND)
EXTRACTORS.implement("inception", inception.KIND)


def kind_of(config: EncoderSettings) -> EncoderKind:
    """Look up the kind of a configuration."""
    # A plug-in may give one name to an encoder and to another class of extractors.
    known = config.kind in ENCODERS and isinstance(config, ENCODERS.config_of(config.kind))
    return (ENCODERS if known else EXTRACTORS).of(config, EncoderKind)


def stage_of(config: EncoderSettings, trial: Trial, place: Place) -> Stage:
    """The stage of a feature network, trained on a trial's data where it is trained here."""
    stage = kind_of(config).stage(config, trial, place)
    return Stage(kind="encoder", config=stage, inputs={}, label=f"{config.name} ({place.role})")


def run(config: EncoderStage, context: StageContext) -> Mapping[str, Any]:
    """Train or fetch the network and store its weights."""
    return kind_of(config.encoder).make(config, context)


def load_encoder(
    artifact: Artifact, device: torch.device, *, compiled: bool = False
) -> EncoderNetwork:
    """Build the network of an encoder artifact on a device, frozen."""
    stage = _stage_behind(artifact)
    load = kind_of(stage.encoder).load
    assert load is not None
    network = load(stage, artifact)
    if compiled:
        network.compile_features()
    return network.eval().requires_grad_(False).to(device)


def load_extractor(
    artifact: Artifact, device: torch.device, extraction: ExtractionConfig
) -> FeatureExtractor:
    """Build the feature extractor of a metric from an encoder artifact."""
    stage = _stage_behind(artifact)
    kind = kind_of(stage.encoder)
    if kind.extractor is not None:
        return kind.extractor(stage, artifact, device, extraction)
    network = load_encoder(artifact, device)
    return EncoderExtractor(
        network.outputs,
        name=stage.encoder.feature_name,
        identity=kind.identity(artifact),
        feature_dim=network.feature_dim,
        device=device,
        has_logits=kind.classifies_labels,
        extraction=extraction,
    )


def extractor_identity(artifact: Artifact) -> str:
    """Hash of an extractor's weights, for the protocol."""
    return kind_of(_stage_behind(artifact).encoder).identity(artifact)


def _stage_behind(artifact: Artifact) -> EncoderStage:
    return _adapter(num_added()).validate_python(artifact.record["config"])


@lru_cache(maxsize=4)
def _adapter(_kinds_added: int) -> Any:
    """Kept, because building one takes longer than using it."""
    return TypeAdapter(EncoderStage)


def estimate(stage: Stage) -> Estimate:
    """The training, where the network is trained here."""
    config: EncoderStage = stage.config
    parameters, per_image = _size(config)
    images = kind_of(config.encoder).trained_images(config)
    size = BYTES * parameters
    return Estimate(
        flops=images * FORWARDS_A_STEP * per_image,
        disk_bytes=size,
        parameters=parameters,
        images=images,
        state_bytes=(ADAM_STATE if images else 1) * size,
    )


def flops_per_image(config: EncoderStage, cells: int | None = None) -> float:
    """FLOPs of one image through the network, at its own input size or with `cells` as the side of
    the grid of dense features that is asked of it."""
    return _size(config, cells)[1]


def feature_dim_of(config: EncoderStage) -> int:
    """Width of the network's features."""
    kind = kind_of(config.encoder)
    if kind.feature_dim is not None:
        return kind.feature_dim(config)

    def learn() -> tuple[float, ...]:
        with torch.device("meta"):
            return (build_encoder(config).feature_dim,)

    return int(of_network("feature dim", config, learn)[0])


def stride_of(config: EncoderStage) -> int:
    """Pixels of its images a cell of its dense features."""

    def learn() -> tuple[float, ...]:
        with torch.device("meta"):
            return (build_encoder(config).stride,)

    return int(of_network("feature stride", config, learn)[0])


def _size(config: EncoderStage, cells: int | None = None) -> tuple[int, float]:
    """Parameters, and FLOPs of an image of the network's own size or of the size behind a grid."""
    size = kind_of(config.encoder).size
    if size is not None:
        return size(config, cells)

    def forward() -> tuple[nn.Module, tuple[Any, ...]]:
        network = build_encoder(config)
        side = network.input_size if cells is None else (cells * network.stride,) * 2
        return network, empty_image(*side)

    return count_forward(config if cells is None else [config, cells], forward)


def build_encoder(config: EncoderStage) -> EncoderNetwork:
    """The network with untrained weights."""
    build = kind_of(config.encoder).build
    assert build is not None
    return build(config)


def check_given(stage: Stage) -> None:
    """Refuse a file of weights that the network does not fit."""
    try:
        kind_of(stage.config.encoder).check_given(stage.config)
    except ValueError as error:
        raise ConfigError(str(error), path="trial.encoder.weights") from error


KIND = StageKind(
    version=1,
    run=run,
    estimate=estimate,
    check_given=check_given,
    missing=lambda config, path: kind_of(config.encoder).missing(config, path),
    shares_work=False,
    convolves=True,
)
