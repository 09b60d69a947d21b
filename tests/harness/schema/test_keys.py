"""Content keys: equal for equal configurations everywhere, different where numbers move."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.plan.plan import make_plan
from harness.schema.keys import NO_KEY, canonical_json, content_hash

ALL = {"encoder", "reference", "tokenizer", "reconstruction", "latents", "generator", "generation"}
AFTER_TOKENIZER = {"tokenizer", "reconstruction", "latents", "generator", "generation"}
AFTER_LATENTS = {"latents", "generator", "generation"}
AFTER_GENERATOR = {"generator", "generation"}
MEASUREMENTS = {"reference", "reconstruction", "generation"}

CHANGES = {
    "seed=1": AFTER_TOKENIZER,
    "data.max_shift=0": ALL,
    "data.resolution=32": ALL,
    "tokenizer.latent_dim=3": AFTER_TOKENIZER,
    "tokenizer.seed=5": AFTER_TOKENIZER,
    "tokenizer.architecture.num_blocks=2": AFTER_TOKENIZER,
    "tokenizer.loss.kl_weight=1e-5": AFTER_TOKENIZER,
    "tokenizer.training.steps=5": AFTER_TOKENIZER,
    "tokenizer.training.precision=bf16": AFTER_TOKENIZER,
    "tokenizer.alignment={kind: vf, encoder: {kind: timm, name: vit_tiny_patch16_224, "
    "weights: random}}": AFTER_TOKENIZER,
    "tokenizer.training.precision=tf32": AFTER_TOKENIZER,
    "evaluation.sampling_precision=tf32": {"generation"},
    "latents.posterior=mode": AFTER_LATENTS,
    "latents.flip=true": AFTER_LATENTS,
    "generator.size=pico": AFTER_GENERATOR,
    "generator.seed=5": AFTER_GENERATOR,
    "generator.flow.time=uniform": AFTER_GENERATOR,
    "generator.ema.decay=0.9": AFTER_GENERATOR,
    "generator.training.batch_size=9": AFTER_GENERATOR,
    "evaluation.extractor.seed=2": {"encoder", *MEASUREMENTS},
    "evaluation.extractor.training.steps=3": {"encoder", *MEASUREMENTS},
    "evaluation.num_images=50": {"generation"},
    "evaluation.sampler.num_steps=4": {"generation"},
    "evaluation.guidance=[{kind: cfg, scale: 2.0}]": {"generation"},
    "evaluation.label_policy=balanced": {"generation"},
    "evaluation.num_reference=90": {"reference", "generation"},
    "evaluation.num_reconstructions=30": {"reconstruction"},
    "evaluation.posterior=mode": {"reconstruction"},
    "evaluation.seed=5": {"reconstruction", "generation"},
}


def keys_by_kind(sweep) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for stage in make_plan(sweep).stages:
        keys.setdefault(stage.kind, set()).add(stage.key)
    return keys


@pytest.mark.parametrize("setting", CHANGES)
def test_a_setting_moves_the_keys_of_what_it_changes_and_no_others(load, setting):
    before, after = keys_by_kind(load()), keys_by_kind(load(f"trial.{setting}"))
    moved = {kind for kind in before if not before[kind] & after[kind]}
    assert moved == CHANGES[setting]


@pytest.mark.parametrize(
    "setting",
    [
        "name=other",
        "description=words",
        "resources={default: {cpus: 2}, generator: {compile: true}}",
        "resources={generator: {activation_checkpointing: true}}",
        "resources={default: {compile: true, channels_last: true, fused_optimizer: false}}",
    ],
)
def test_names_and_resources_move_no_key(load, setting):
    assert keys_by_kind(load(setting)) == keys_by_kind(load())


def test_where_the_images_lie_moves_no_key_but_what_they_are_does(load):
    data = (
        "data={{kind: image_folder, name: {name}, root: {root}, resolution: 16, "
        "num_classes: 10, num_train_images: 1437, num_eval_images: 360}}"
    )
    here = keys_by_kind(load(data.format(name="photographs", root="/here")))
    assert keys_by_kind(load(data.format(name="photographs", root="/there"))) == here
    other = keys_by_kind(load(data.format(name="paintings", root="/here")))
    assert not any(here[kind] & other[kind] for kind in ALL)


@dataclass(frozen=True)
class Settings:
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")
    path: str = field(default="/here", metadata=NO_KEY)


@dataclass(frozen=True)
class Twin:
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")


def test_the_canonical_text_is_pinned():
    assert canonical_json(Settings()) == '{"names":["a","b"],"rate":0.5,"type":"Settings"}'


def test_the_type_is_part_of_the_key_and_an_exempt_field_is_not():
    assert content_hash(Settings()) != content_hash(Twin())
    assert content_hash(Settings(path="/there")) == content_hash(Settings())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_what_json_cannot_say_has_no_key(value):
    with pytest.raises(ValueError, match="a configuration holds"):
        content_hash({"value": value})


def test_keys_are_the_same_in_every_process(load, write, tree):
    program = (
        "import json, sys; from pathlib import Path; from harness.plan.plan import make_plan; "
        "from harness.config.sweep import load_sweep; "
        "print(json.dumps([s.key for s in make_plan(load_sweep(Path(sys.argv[1]))).stages]))"
    )
    tree["grid"] = {"alignment": ["none", "vf"]}
    path = write(tree)
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert json.loads(done.stdout) == [stage.key for stage in make_plan(load()).stages]


def test_the_keys_of_the_small_sweep_are_pinned(load):
    """A change here makes every stored artifact of that kind run again: is it meant?"""
    keys = {stage.kind: stage.key[:12] for stage in make_plan(load()).stages}
    assert keys == {
        "encoder": "32e250b0d18c",
        "reference": "babdc20d305a",
        "tokenizer": "e4c3c605c509",
        "reconstruction": "b461b70a844b",
        "latents": "e655ea55ec8a",
        "generator": "6fda8055ba72",
        "generation": "e1c0509b8e67",
    }
