"""The content keys of every stage of every shipped file, held to a list.

A key that moves makes finished artifacts run again. Where that is meant (a stage's `VERSION` was
raised, a shipped file was changed), write the list anew and say so in the CHANGELOG:

    FRONTIER_PIN_KEYS=1 .venv/bin/python -m pytest tests/harness/schema/test_pinned_keys.py
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.config.sweep import load_sweep
from harness.plan.plan import Plan, make_plan
from harness.tuning.tune_file import load_tune

SWEEPS = Path(__file__).parents[3] / "sweeps"
PINNED = Path(__file__).parent / "pinned_keys.json"
ENCODER = (
    "{kind: in_domain, name: test_resnet, training: {steps: 9, batch_size: 8, learning_rate: 1e-3}}"
)
CASES: Mapping[str, tuple[str, ...]] = {
    "cifar10.yaml": (),
    "cifar10_cpu.yaml": (),
    "crt.yaml": (),
    "crt_imagenet256.yaml": (),
    "fewer_steps.yaml": (),
    "frontier.yaml": (),
    "imagenet256.yaml": (),
    "imagenet64_subset.yaml": (),
    "imagenet64_subset_cpu.yaml": (),
    "lowdiff.yaml": (),
    "lowdiff_cifar10.yaml": (),
    "lowdiff_imagenet256.yaml": (),
    "regularizers.yaml": (),
    "sfd.yaml": (),
    "sfd_imagenet256.yaml": (),
    "released.yaml": (),
    "sdvae_baseline.yaml": (),
    "sfd_released.yaml": (),
    "systems.yaml": (),
    "tokenflow.yaml": (),
    "tokenflow_imagenet256.yaml": (),
    "tune_alignment.yaml": (),
    "vavae_released.yaml": (),
    "frontier.yaml with REPA": (f"generator.repa={{kind: repa, block: 1, encoder: {ENCODER}}}",),
    "frontier.yaml without a generator": ("trial.generator=null", "grid={seed: [0, 1]}"),
    "frontier.yaml with snapshots and guidance": (
        "generator.snapshots=[100, 200]",
        "evaluation.guidance=[{kind: none}, {kind: cfg, scale: 1.5, interval_start: 0.1}, "
        "{kind: autoguidance, scale: 2, weak: {generator.training.steps: 500}}]",
        "evaluation.sampling_seeds=2",
        "evaluation.sampler.kind=dopri5",
    ),
    "frontier.yaml with other latents": (
        "latents={posterior: moments, precision: bf16, num_images: 600, flip: true}",
    ),
    "frontier.yaml with samples kept in the earlier form": ("evaluation.keep_samples=true",),
    "frontier.yaml on a statistics file": (
        "evaluation.reference={kind: statistics_file, path: GIVEN, num_images: 50}",
    ),
    "vavae_released.yaml from given weights": (
        "tokenizer.checkpoint=GIVEN",
        "generator.checkpoint=GIVEN",
    ),
    "imagenet256.yaml with given encoder and LPIPS": (
        "presets.alignment.dinov2.tokenizer.alignment.encoder.weights=GIVEN",
        "tokenizer.loss.perceptual.backbone_weights=GIVEN",
        "evaluation.perceptual={kind: lpips, backbone_weights: GIVEN, head_weights: GIVEN}",
    ),
}
"""Name of a case, beginning with its file -> settings; GIVEN is a file that the test makes."""


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights in any cache, and one file to give; returns its path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    given = tmp_path / "given.safetensors"
    given.write_bytes(b"what stands for weights")
    monkeypatch.chdir(SWEEPS.parent)
    return given


def plan_of(name: str, settings: tuple[str, ...], given: Path) -> Plan:
    path = SWEEPS / name.partition(" ")[0]
    settings = tuple(setting.replace("GIVEN", str(given)) for setting in settings)
    if path.name.startswith("tune"):
        tuning = load_tune(path, settings)
        return tuning.plan(tuning.point(axes) for axes in tuning.file.first.values())
    return make_plan(load_sweep(path, settings))


def keys_of(plan: Plan) -> dict[str, Any]:
    """Stage kind -> first digits of the keys, in the plan's order, and the ids of the rows."""
    keys: dict[str, list[str]] = {}
    for stage in plan.stages:
        # A further metric is meant to move this one, and what it reads is kept.
        if stage.kind != "scores":
            keys.setdefault(stage.kind, []).append(stage.key[:16])
    return {**keys, "rows": [row.row_id for row in plan.rows]}


def test_every_shipped_file_has_a_case():
    assert {path.name for path in SWEEPS.glob("*.yaml")} == {n.partition(" ")[0] for n in CASES}


@pytest.mark.parametrize("name", CASES)
def test_no_key_has_moved(name: str, bare_machine: Path):
    found = keys_of(plan_of(name, CASES[name], bare_machine))
    if os.environ.get("FRONTIER_PIN_KEYS"):
        pinned = json.loads(PINNED.read_text()) if PINNED.is_file() else {}
        PINNED.write_text(json.dumps({**pinned, name: found}, indent=1, sort_keys=True) + "\n")
        pytest.skip("the list was written anew")
    assert found == json.loads(PINNED.read_text())[name]
