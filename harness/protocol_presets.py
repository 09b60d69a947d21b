"""Named protocols: the published ones and a quick one, as settings of `evaluation`.

`evaluation: {protocol: [paper_rfid, paper_gfid_50k]}` fills in what the block does not set itself.
A row carries a preset's name only where its evaluation equals the preset's, whether it was asked
for by name or spelled out; one that differs in anything that the preset fixes has no name.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

from harness.configuration import ConfigError, nearest, validate
from harness.keys import content_hash, to_plain
from harness.trial import EvaluationConfig, Guidance

_INCEPTION = {"kind": "inception", "sha256": "6726825d"}
_NO_GUIDANCE = {"kind": "none"}
_SAMPLES = {
    "extractor": _INCEPTION,
    "extraction": {"precision": "float32"},
    "reference": {"kind": "training_split"},
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
}
"""Name -> settings of `evaluation`. Sources: VA-VAE's tokenizer script (`paper_rfid`, split `val`
of ImageNet), Tables 1 and 3 (`paper_gfid_50k`) and Table 2 (`paper_gfid_10k`) of arXiv 2501.01423;
`quick` compares runs of one's own, with any extractor."""

_GUIDED = tuple(
    {"kind": "cfg", "scale": scale, "interval_start": start, "channels": "first3"}
    for scale, start in ((10.0, 0.10), (6.7, 0.125))
)
"""Classifier-free guidance of the 64- and the 800-epoch model of Table 3."""
_PUBLISHED_GUIDANCE = {"paper_gfid_50k": (_NO_GUIDANCE, *_GUIDED)}


def apply_presets(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The block with its `protocol` spelled out; what the block sets itself stays.

    Raises:
        ConfigError: A name is unknown, or two presets contradict each other.
    """
    tree = dict(evaluation)
    names = tree.pop("protocol", [])
    names = [names] if isinstance(names, str) else names
    valid = ", ".join(PRESETS)
    filled: dict[str, Any] = {}
    for name in names if isinstance(names, list) else [names]:
        if name not in PRESETS:
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


def protocol_name(
    evaluation: EvaluationConfig,
    metrics: Literal["reconstruction", "generation"],
    guidance: Guidance | None = None,
) -> str:
    """The preset that an evaluation equals, or an empty text.

    Args:
        evaluation: What was in force.
        metrics: Which metrics the name is for.
        guidance: Guidance of the samples.
    """
    for name, preset in PRESETS.items():
        measures = "reconstruction" if name == "paper_rfid" else "generation"
        if measures == metrics and _equals(evaluation, preset) and _guided_as(name, guidance):
            return name
    return ""


def _equals(evaluation: EvaluationConfig, preset: Mapping[str, Any]) -> bool:
    own = to_plain(evaluation)
    asked = {name: value for name, value in preset.items() if name != "guidance"}
    with_preset = validate(EvaluationConfig, _merged(own, asked))
    return content_hash(with_preset) == content_hash(evaluation)


def _guided_as(name: str, guidance: Guidance | None) -> bool:
    if guidance is None:
        return True
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
