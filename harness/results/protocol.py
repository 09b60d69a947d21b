"""Protocols: everything that moves a metric without moving a model, frozen and hashed.

Two numbers may be compared when their protocols are equal. Seeds are columns of the table and not
part of a protocol: rows that differ in them are repetitions of one measurement.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from harness.config.data import Crop, DataConfig
from harness.metrics.extractors import ExtractionConfig
from harness.schema.keys import to_plain
from harness.stages.encoder.kind import EncoderStage
from harness.stages.encoder.stage import extractor_identity
from harness.stages.generation import GenerationStage
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.reference import ReferenceStage
from harness.storage.artifacts import Artifact

UINT8_ROUNDING = "floor(clamp(127.5 x + 128, 0, 255))"
"""How images leave the range [-1, 1] before any metric sees them, as published."""


def protocol_columns(fields: Mapping[str, Any], column: str, name: str) -> dict[str, str]:
    """The table's three columns of a protocol, which begin with `column`."""
    text = json.dumps(fields, sort_keys=True)
    digits = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {column: text, f"{column}_hash": digits, f"{column}_name": name}


def reconstruction_protocol(
    config: ReconstructionStage, network: EncoderStage, weights: Artifact
) -> dict[str, Any]:
    """How rfid, psnr, ssim and lpips were measured, in the features of a network."""
    return {
        **_data(config.data),
        **_extractor(network, weights, config.extraction),
        "uint8": UINT8_ROUNDING,
        "split": config.split,
        "crop": _crop(config.data, config.crop),
        "num_images": config.num_images,
        "posterior": config.posterior,
        "perceptual": config.perceptual.kind,
        "perceptual_weights": config.perceptual_weights,
    }


def generation_protocol(
    config: GenerationStage, reference: ReferenceStage, network: EncoderStage, weights: Artifact
) -> dict[str, Any]:
    """How gfid and the other metrics of samples were measured, in the features of a network."""
    adaptive = config.sampler.kind == "dopri5"
    unused = {"num_steps", "timestep_shift"} if adaptive else {"atol", "rtol"}
    sampler = {k: v for k, v in to_plain(config.sampler, for_key=True).items() if k not in unused}
    if adaptive:
        # The step sizes follow the error over the whole batch.
        sampler["batch_size"] = config.batch_size
    precision = {} if config.precision == "fp32" else {"precision": config.precision}
    return {
        **reference_fields(reference, network, weights),
        **precision,
        "uint8": UINT8_ROUNDING,
        "num_images": config.num_images,
        "label_policy": config.label_policy,
        "sampler": sampler,
        "num_function_evaluations": config.sampler.num_function_evaluations,
        "guidance": to_plain(config.guidance, for_key=True),
        "weights": "moving average",
    }


def drawn_by_itself(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of a generator whose steps and solver are its own and not the evaluation's."""
    return {**protocol, "sampler": "the generator's own", "num_function_evaluations": None}


def made_elsewhere(protocol: Mapping[str, Any], content: str) -> dict[str, Any]:
    """The protocol of images of which nobody says how they were made, only how they are scored.

    Args:
        content: What tells these images from all others: two unknown ways are not one.
    """
    unknown = {
        "split", "crop", "posterior", "label_policy", "sampler", "num_function_evaluations",
        "guidance", "precision", "weights", "uint8",
    }  # fmt: skip
    known = {name: v for name, v in protocol.items() if name not in unknown}
    return {**known, "made": f"unknown, images {content[:12]}"}


def reference_fields(
    reference: ReferenceStage, network: EncoderStage, weights: Artifact
) -> dict[str, Any]:
    """Fields of the reference that samples are compared with, and of its features."""
    shared = {
        **_data(reference.data),
        **_extractor(network, weights, reference.extraction),
        "num_reference_features": reference.num_features,
    }
    if reference.content:
        return {**shared, "reference": f"{reference.source.kind}, {reference.content}"}
    return {
        **shared,
        "reference": "training split",
        "reference_split": getattr(reference.data, "train_split", "train"),
        "reference_crop": _crop(reference.data, reference.crop),
        "num_reference": reference.num_images,
    }


def _data(config: DataConfig) -> dict[str, Any]:
    return {"dataset": config.name, "resolution": config.resolution}


def _extractor(
    network: EncoderStage, weights: Artifact, extraction: ExtractionConfig
) -> dict[str, Any]:
    # Where its weights come from is told by their hash.
    unused = ("weights", "sha256", "training", "seed")
    return {
        "extractor": {k: v for k, v in to_plain(network.encoder).items() if k not in unused},
        "extractor_sha256": extractor_identity(weights),
        "extraction": to_plain(extraction),
        "statistics": "float64 moments, symmetric eigen-decomposition",
    }


def _crop(data: DataConfig, crop: Crop) -> str:
    own = getattr(data, "crop", "none")
    return own if crop == "training" else crop
