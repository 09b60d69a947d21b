"""A kind of generator that this program has never heard of, with an objective of its own."""

import csv
import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness.bench import main as bench
from harness.config.generator import GENERATORS
from harness.config.regularizers import REGULARIZERS
from harness.config.resources import Resources
from harness.config.tokenizer import TOKENIZERS
from harness.execution.stage_run import run_stage
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema import reading
from harness.schema.reading import ConfigError
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Store

SETTINGS = {
    "kind": "denoiser",
    "width": 8,
    "training": {"steps": 6, "batch_size": 8, "learning_rate": 1e-3},
}


@pytest.fixture(autouse=True)
def denoiser(monkeypatch) -> Iterator[Any]:
    """The module that holds the kind, which registers it for the time of a test."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for name in ("_configs", "_implementations", "_origins"):
        monkeypatch.setattr(GENERATORS, name, dict(getattr(GENERATORS, name)))
    yield importlib.import_module("denoiser")
    del sys.modules["denoiser"]
    reading._adapter.cache_clear()


@pytest.fixture
def tree(tree):
    tree["trial"]["generator"] = SETTINGS
    tree["trial"]["evaluation"]["sampler"] = {"num_steps": 3, "timestep_shift": 0}
    return tree


def stages(load, *settings: str):
    return {stage.kind: stage for stage in make_plan(load(*settings)).stages}


def bring(stage, store: Store, resources: Resources | None = None):
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, resources or Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


def test_it_gives_a_row_with_its_own_size_and_provenance(command, write, tree):
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    (row,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert (row["status"], row["generator"], row["generator_size"]) == (
        "done",
        "denoiser",
        "width 8",
    )
    assert (row["patch_size"], row["provenance"]) == ("", "reconstruction")
    assert float(row["gfid"]) > 0
    generator = Store(Path("artifacts")).get("generator", row["generator_key"])
    curve = [json.loads(line) for line in (generator.path / "curve.jsonl").read_text().splitlines()]
    assert [line.keys() for line in curve] == 6 * [{"step", "clean_mse", "largest_loss"}]
    assert int(row["generator_params"]) == generator.result["parameters"] > 0
    assert float(row["generator_flops_per_image"]) > 0


def test_it_is_drawn_from_as_it_says(load, tmp_path):
    generation = bring(stages(load)["generation"], Store(tmp_path / "store"))
    assert generation.result["num_function_evaluations"] == 1.5


def test_the_estimate_counts_its_evaluations(denoiser, load):
    found = stages(load)
    per_image = denoiser.KIND.size(found["generator"].config)[1]
    assert per_image == 2 * (8 * 33 + 8 * 32)
    assert estimate(found["generator"]).flops == 3 * 6 * 8 * per_image
    twice = estimate(stages(load, "evaluation.num_images=80")["generation"]).flops
    assert twice == 2 * estimate(found["generation"]).flops


def test_a_resumed_training_equals_the_uninterrupted_one(load, tmp_path, monkeypatch):
    stage = stages(load, "generator.training.max_grad_norm=0.5")["generator"]
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    expected = bring(stage, whole)
    for source in stage.inputs.values():
        bring(source, broken)
    after_step = StageContext.after_step

    def interrupted(self, done, *arguments, **named):
        after_step(self, done, *arguments, **named)
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "after_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, broken.root, Resources(checkpoint_every_s=1e-9), 0.0)
    assert bring(stage, broken).record["files"] == expected.record["files"]


def test_slices_train_as_the_whole_batch_does(denoiser, load, tmp_path, monkeypatch):
    stage, name = stages(load)["generator"], "ema-step000000006.safetensors"
    whole = bring(stage, Store(tmp_path / "whole")).tensors(name)
    forward_whole = denoiser.Denoiser.forward

    def short_of_memory(self, noisy, *arguments):
        if self.training and len(noisy) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward_whole(self, noisy, *arguments)

    monkeypatch.setattr(denoiser.Denoiser, "forward", short_of_memory)
    sliced = bring(stage, Store(tmp_path / "sliced")).tensors(name)
    for tensor, other in zip(whole.values(), sliced.values(), strict=True):
        torch.testing.assert_close(tensor, other)


def test_its_weights_come_from_a_file_too(load, tmp_path):
    store = Store(tmp_path / "store")
    trained = bring(stages(load)["generator"], store)
    given = tmp_path / "given.safetensors"
    shutil.copyfile(trained.path / "ema-step000000006.safetensors", given)
    taken = bring(stages(load, f"generator.checkpoint={given}")["generator"], store)
    name = "ema-step000000006.safetensors"
    mine, yours = trained.tensors(name), taken.tensors(name)
    assert all(torch.equal(mine[key], yours[key]) for key in yours)


@pytest.mark.parametrize(
    ("setting", "path", "words"),
    [
        ("evaluation.sampler.kind=heun", "evaluation.sampler.kind", "'heun'"),
        (
            "evaluation.guidance=[{kind: none}, {kind: cfg, scale: 2.0}]",
            "evaluation.guidance.1.kind",
            "'cfg'",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_with_its_name(load, setting, path, words):
    with pytest.raises(ConfigError, match="that a generator of kind 'denoiser' can be") as refused:
        load(setting)
    assert refused.value.path == f"trial.{path}"
    assert words in refused.value.message


def test_unknown_keys_and_kinds_are_told_with_what_is_valid(load):
    with pytest.raises(ConfigError, match=r"unknown key 'widht'; did you mean 'width'"):
        load("generator.widht=3")
    with pytest.raises(
        ConfigError,
        match=r"'python', 'autoregressive', 'next_scale', 'lowdiff', 'denoiser', but got 'dit'",
    ):
        load("generator.kind=dit")


def test_a_weak_model_of_another_kind_is_refused(denoiser, load, tree, monkeypatch):
    monkeypatch.setattr(denoiser.DenoiserConfig, "guidances", ("none", "autoguidance"))
    tree["trial"]["generator"] = {"training": SETTINGS["training"], "size": "pico"}
    weak = {"generator": SETTINGS}
    guidance = [{"kind": "autoguidance", "scale": 2.0, "weak": weak}]
    with pytest.raises(ConfigError) as refused:
        make_plan(load(f"evaluation.guidance={json.dumps(guidance)}"))
    assert "of the same kind, lightningdit, but is denoiser" in refused.value.message


def test_benchmarks_measure_it_as_it_can_be_used(write, tree, tmp_path, capsys):
    quick = ("--quick", "--repeats", "1", "--json", "--out", str(tmp_path / "bench"))
    assert bench([str(write(tree)), "--only", "generator", "sampling", *quick]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    named = [row for row in rows if row["part"] in ("generator training", "sampling")]
    assert {row["what"] for row in named} == {"Denoiser denoiser"}
    assert {row["status"] for row in named} == {"measured"}
    sampled = {row["variant"] for row in named if row["part"] == "sampling"}
    assert sampled == {"no guidance, fp32", "no guidance, bf16"}


def test_only_its_own_modules_name_a_kind():
    own = {"config/generator.py", "stages/generator/lightningdit.py", "stages/generator/kinds.py"}
    # The layout of exported latents is called after the code that reads it.
    own.add("export_latents.py")
    # A cascade is a LightningDiT at several resolutions.
    own |= {"config/lowdiff.py", "stages/generator/lowdiff.py"}
    root = Path(harness.__path__[0])
    naming = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if "lightningdit" in path.read_text(encoding="utf-8").lower()
    }
    assert naming == own


def test_bench_cost_dry_run_and_requirements_name_no_kind():
    root = Path(harness.__path__[0])
    rooms = ("benchmarks", "plan", "reporting", "execution", "executors", "results", "tuning")
    files = [root / "bench.py", root / "commands" / "planning.py"]
    files += [path for room in rooms for path in (root / room).rglob("*.py")]
    unions = (TOKENIZERS, GENERATORS, REGULARIZERS)
    names = {f'"{kind}"' for union in unions for kind in union}
    names |= {union.config_of(kind).__name__ for union in unions for kind in union}
    for path in files:
        text = path.read_text(encoding="utf-8")
        named = [name for name in names if re.search(rf"(?<!\w){name}(?!\w)", text)]
        assert not named, f"{path} names {named}"
