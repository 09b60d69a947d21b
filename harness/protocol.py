"""Protocols: everything that moves a metric without moving a model, frozen and hashed.

Two numbers may be compared when their protocols are equal. Seeds are columns of the table and not
part of a protocol: rows that differ in them are repetitions of one measurement.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.keys import to_plain
from harness.plan import PlannedRow
from harness.stages.encoder import extractor_identity
from harness.store import Artifact

UINT8_ROUNDING = "floor(clamp(127.5 x + 128, 0, 255))"
"""How images leave the range [-1, 1] before any metric sees them, as published."""


@dataclass(frozen=True)
class Protocol:
    """The fields of one protocol."""

    fields: Mapping[str, Any]

    @property
    def text(self) -> str:
        """JSON with sorted keys."""
        return json.dumps(self.fields, sort_keys=True)

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the text's sha256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def reconstruction_protocol(row: PlannedRow, extractor: Artifact) -> Protocol:
    """How rfid, psnr, ssim and lpips of a row were measured."""
    config = row.reconstruction.config
    return Protocol(
        {
            **_shared(row, extractor),
            "split": config.split,
            "crop": _crop(row, config.crop),
            "num_images": config.num_images,
            "posterior": config.posterior,
            "perceptual": config.perceptual.kind,
            "perceptual_weights": config.perceptual_weights,
        }
    )


def generation_protocol(row: PlannedRow, extractor: Artifact) -> Protocol:
    """How gfid and label_accuracy of a row were measured."""
    config, reference = row.generation.config, row.generation.inputs["reference"].config
    adaptive = config.sampler.kind == "dopri5"
    unused = {"num_steps", "timestep_shift"} if adaptive else {"atol", "rtol"}
    sampler = {k: v for k, v in to_plain(config.sampler).items() if k not in unused}
    if adaptive:
        # The step sizes follow the error over the whole batch.
        sampler["batch_size"] = config.batch_size
    return Protocol(
        {
            **_shared(row, extractor),
            "reference_split": getattr(row.trial.data, "train_split", "train"),
            "reference_crop": _crop(row, reference.crop),
            "num_reference": reference.num_images,
            "num_images": config.num_images,
            "label_policy": config.label_policy,
            "sampler": sampler,
            "guidance": to_plain(config.guidance),
            "weights": "moving average",
        }
    )


def _shared(row: PlannedRow, extractor: Artifact) -> dict[str, Any]:
    # Where its weights come from is told by their hash.
    config = to_plain(row.trial.evaluation.extractor)
    seen = {k: v for k, v in config.items() if k not in ("weights", "sha256", "training", "seed")}
    return {
        "dataset": row.trial.data.name,
        "resolution": row.trial.data.resolution,
        "extractor": seen,
        "extractor_sha256": extractor_identity(extractor),
        "uint8": UINT8_ROUNDING,
        "statistics": "float64 moments, symmetric eigen-decomposition",
    }


def _crop(row: PlannedRow, crop: str) -> str:
    own = getattr(row.trial.data, "crop", "none")
    return own if crop == "training" else crop
