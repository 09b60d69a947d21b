"""Encoder kind `inception`: the network of the published FID, with weights from elsewhere."""

import shutil
from collections.abc import Mapping
from typing import Any

import torch

from harness.config.encoders import TimmEncoderConfig
from harness.metrics.extractors import (
    ExtractionConfig,
    FeatureExtractor,
    InceptionConfig,
    InceptionExtractor,
)
from harness.stages.encoder.kind import EncoderKind, EncoderStage, only_file
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact

FLOPS = 11.4e9
"""Inception-v3 at 299x299: 5.7e9 multiply-adds (Szegedy et al., arXiv 1512.00567)."""
PARAMETERS = 23_900_000
FEATURES = 2048


def make(config: EncoderStage, context: StageContext) -> Mapping[str, Any]:
    """Copies the file of weights, after it was read and its hash compared."""
    settings = _settings(config)
    InceptionExtractor(settings)
    # The suffix says how the file is read.
    shutil.copyfile(settings.path, context.work.payload / f"inception{settings.path.suffix}")
    return {}


def extractor(
    config: EncoderStage, artifact: Artifact, device: torch.device, extraction: ExtractionConfig
) -> FeatureExtractor:
    """Builds the network with the weights that `make` has left."""
    path = artifact.file(only_file(artifact))
    copied = InceptionConfig(weights=str(path), sha256=_settings(config).sha256)
    return InceptionExtractor(copied, device, extraction)


def check_given(config: EncoderStage) -> None:
    """Refuse a file of weights that is another than asked for, or another network's."""
    if _settings(config).path.is_file():
        InceptionExtractor(_settings(config))


def _settings(config: EncoderStage) -> InceptionConfig:
    assert isinstance(config.encoder, InceptionConfig)
    return config.encoder


KIND = EncoderKind(
    make=make,
    extractor=extractor,
    size=lambda _config, _cells: (PARAMETERS, FLOPS),
    feature_dim=lambda _config: FEATURES,
    missing=lambda config, path: _settings(config).missing(path),
    check_given=check_given,
    # timm's costs the same, and takes random weights.
    cheapened=lambda _config: TimmEncoderConfig(
        name="inception_v3", weights="random", input_size=299
    ),
)
