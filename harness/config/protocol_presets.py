"""Named protocols: the published ones and a quick one, as settings of `evaluation`.

`evaluation: {protocol: [paper_rfid, paper_gfid_50k]}` fills in what the block does not set itself.
A row carries a preset's name only where its evaluation equals the preset's, whether it was asked
for by name or spelled out; one that differs in anything that the preset fixes has no name. The
`paper_` names stand for ImageNet at 256x256 and for the published weights.

- `paper_rfid`: VA-VAE's tokenizer script on all 50,000 validation images. (The script feeds
  unrounded pixels after its resize; here they are rounded to 8 bits, as its PNG originals are.)
- `paper_gfid_50k`, `paper_gfid_10k`: Tables 1 and 3, and Table 2, of arXiv 2501.01423, held to
  ADM's statistics; held to statistics computed here they are called `..._own_reference`.
- `quick`: for comparing runs of one's own, with any data and extractor.
- `fd_dinov2` is no protocol of a number but the extractor of FD-DINOv2 (arXiv 2306.04675); it goes
  with one of the others.
"""

import copy
from collections.abc import Mapping
from typing import Any

from harness.config.data import DataConfig
from harness.config.evaluation import EvaluationConfig, Guidance
from harness.config.perceptual import VGG16_SHA256
from harness.config.reference import ReferenceSource, StatisticsFile
from harness.config.trial import Trial
from harness.metrics.extractors import INCEPTION_SHA256
from harness.schema.keys import content_hash, to_plain
from harness.schema.reading import ConfigError, nearest, validate

_INCEPTION = {"kind": "inception", "sha256": INCEPTION_SHA256}
_NO_GUIDANCE = {"kind": "none"}
_SAMPLES = {
    "extractor": _INCEPTION,
    "extraction": {"precision": "float32"},
    "reference_crop": "adm_center",
    "num_reference": None,
    "label_policy": "random",
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper_rfid": {
        "extractor": _INCEPTION,
        "extraction": {"precision": "float32"},
        "perceptual": {"kind": "lpips"},
        "reconstruction_crop": "resize_center",
        "posterior": "sample",
        "num_reconstructions": None,
    },
    "paper_gfid_50k": {
        **_SAMPLES,
        "num_images": 50_000,
        "sampler": {"kind": "euler", "num_steps": 250, "timestep_shift": 0.3},
        "guidance": [_NO_GUIDANCE],
    },
    "paper_gfid_10k": {
        **_SAMPLES,
        "num_images": 10_000,
        "sampler": {"kind": "dopri5", "atol": 1e-6, "rtol": 1e-3},
        "guidance": [_NO_GUIDANCE],
    },
    "quick": {
        "num_images": 5_000,
        "label_policy": "random",
        "sampler": {"kind": "euler", "num_steps": 50, "timestep_shift": 0.3},
        "guidance": [_NO_GUIDANCE],
    },
    "fd_dinov2": {
        "extractor": {
            "kind": "timm",
            "name": "vit_large_patch14_dinov2.lvd142m",
            "normalisation": "imagenet",
            "interpolation": "bicubic",
            "antialias": True,
            "input_size": 224,
            "position_resize": "dinov2",
        },
        "extraction": {"precision": "float32"},
    },
}
"""Name -> settings of `evaluation`."""

_IMAGENET = ("imagenet", "imagenet1k", "imagenet-1k", "ilsvrc2012")
_IMAGENET_TRAIN, _IMAGENET_EVAL, _PAPER_RESOLUTION = 1_281_167, 50_000, 256
_GUIDED = tuple(
    {"kind": "cfg", "scale": scale, "interval_start": start, "channels": "first3"}
    for scale, start in ((10.0, 0.10), (6.7, 0.125))
)
"""Classifier-free guidance of the 64- and the 800-epoch model of Table 3."""
_PUBLISHED_GUIDANCE = {"paper_gfid_50k": (_NO_GUIDANCE, *_GUIDED)}


def apply_presets(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The block with its `protocol` spelled out; what the block sets itself stays."""
    tree = dict(evaluation)
    names = tree.pop("protocol", [])
    names = [names] if isinstance(names, str) else names
    valid = ", ".join(PRESETS)
    filled: dict[str, Any] = {}
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str) or name not in PRESETS:
            raise ConfigError(
                f"unknown protocol {name!r}{nearest(str(name), list(PRESETS))} (valid: {valid})",
                path="evaluation.protocol",
            )
        for field, value in PRESETS[name].items():
            if field in filled and filled[field] != value:
                raise ConfigError(
                    f"{' and '.join(names)} set {field!r} to different values; name one of them, "
                    f"or set evaluation.{field}",
                    path="evaluation.protocol",
                )
            filled[field] = copy.deepcopy(value)
    return _merged(filled, tree)


def reconstruction_name(trial: Trial, *, num_images: int, perceptual_weights: str) -> str:
    """The preset that a row's reconstruction metrics equal, or an empty text."""
    evaluation, data = trial.evaluation, trial.data
    published = f"backbone sha256 {VGG16_SHA256}" in perceptual_weights
    published = published and perceptual_weights.endswith("heads published")
    whole = num_images == data.num_eval_images == _IMAGENET_EVAL
    if _is_papers(data) and whole and published and _equals(evaluation, PRESETS["paper_rfid"]):
        return "paper_rfid"
    return ""


def generation_name(trial: Trial, guidance: Guidance) -> str:
    """The preset that metrics of samples equal, or an empty text."""
    evaluation = trial.evaluation
    if evaluation.sampling_precision == "bf16":
        return ""
    for name in ("paper_gfid_50k", "paper_gfid_10k", "quick"):
        if not _equals(evaluation, PRESETS[name]) or not _guided_as(name, guidance):
            continue
        if name == "quick":
            return name
        if _is_papers(trial.data):
            return name + _suffix(evaluation.reference)
    return ""


def _is_papers(data: DataConfig) -> bool:
    same_size = data.resolution == _PAPER_RESOLUTION and data.num_train_images == _IMAGENET_TRAIN
    return data.name.lower() in _IMAGENET and same_size


def _suffix(reference: ReferenceSource) -> str:
    given = isinstance(reference, StatisticsFile) and reference.num_images == _IMAGENET_TRAIN
    return "" if given else "_own_reference"


def _equals(evaluation: EvaluationConfig, preset: Mapping[str, Any]) -> bool:
    own = _with_short_hash(to_plain(evaluation))
    asked = {name: value for name, value in preset.items() if name != "guidance"}
    with_preset = validate(EvaluationConfig, _merged(own, asked))
    return content_hash(with_preset) == content_hash(validate(EvaluationConfig, own))


def _with_short_hash(evaluation: dict[str, Any]) -> dict[str, Any]:
    """More digits of the published weights' hash don't make them others."""
    extractor = evaluation["extractor"]
    if extractor.get("sha256", "").startswith(INCEPTION_SHA256):
        return {**evaluation, "extractor": {**extractor, "sha256": INCEPTION_SHA256}}
    return evaluation


def _guided_as(name: str, guidance: Guidance) -> bool:
    return to_plain(guidance) in [
        to_plain(validate(Guidance, tree))
        for tree in _PUBLISHED_GUIDANCE.get(name, (_NO_GUIDANCE,))
    ]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks of one kind are merged field by field; everything else of `over` replaces."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, Mapping) and _same_kind(below, value):
            merged[name] = _merged(below, value)
        else:
            merged[name] = value
    return merged


def _same_kind(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return value.get("kind", below.get("kind")) == below.get("kind")
