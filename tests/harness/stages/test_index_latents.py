"""Latents that are indices of codes: encoded, read, trained on, exported, taken back, refused."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.commands.conformance import STOP
from harness.config.generator import GENERATORS
from harness.config.resources import Resources
from harness.config.tokenizer import TOKENIZERS
from harness.data import open_dataset
from harness.data.latents.training_set import LatentSet
from harness.data.pixel_range import to_model_range
from harness.execution.stage_run import run_stage
from harness.export_latents import export_latents
from harness.plan.plan import make_plan
from harness.schema import reading
from harness.schema.reading import ConfigError
from harness.stages import latents as latents_stage
from harness.storage.artifacts import Store
from models.latent import IndexLayout

CPU = torch.device("cpu")
CODES = (
    "tokenizer={kind: greys}",
    "latents.flip=true",
    "generator={kind: tally, training: {steps: 30, batch_size: 8, learning_rate: 0.1}}",
    "evaluation.sampler={kind: euler}",
)


@pytest.fixture(autouse=True)
def own_codes(monkeypatch) -> Iterator[Any]:
    """The module that holds the kinds, which registers them for the time of a test."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for kinds in (TOKENIZERS, GENERATORS):
        for name in ("_configs", "_implementations", "_origins"):
            monkeypatch.setattr(kinds, name, dict(getattr(kinds, name)))
    yield importlib.import_module("own_codes")
    del sys.modules["own_codes"]
    reading._adapter.cache_clear()


def stages(load, *settings: str):
    return {s.kind: s for s in make_plan(load(*CODES, *settings)).stages}


def bring(stage, store, resources=None):
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, resources or Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(latents_stage, "SHARD_IMAGES", 700)
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("codes", "held"), [(256, torch.uint8), (257, torch.int16), (2**15 + 1, torch.int32)]
)
def test_the_smallest_type_that_holds_the_codebook_is_stored(load, store, codes, held):
    stage = stages(load, f"tokenizer.codebook_size={codes}", "latents.num_images=40")["latents"]
    shard = load_file(next(bring(stage, store).path.glob("latents_shard*")))
    assert {name: tensor.dtype for name, tensor in shard.items() if name != "labels"} == {
        "latents": held,
        "latents_flip": held,
    }


def test_indices_reach_a_generator_unchanged_from_memory_and_from_disk(load, store, own_codes):
    stage = stages(load)["latents"]
    artifact = bring(stage, store)
    dataset = open_dataset(stage.config.data)
    chosen, views = np.array([0, 700, 1436]), np.array([0, 1, 0])
    images = to_model_range(dataset.images("train", chosen))
    images[1] = images[1].flip(-1)
    expected = own_codes.Greys(stage.config.layout).encode(images).indices
    assert expected.unique().numel() > 5
    for on_device in (True, False):
        latents = LatentSet(artifact, CPU, "bf16", on_device=on_device)
        found, labels = latents.batch(chosen, views)
        assert torch.equal(found, expected)
        assert torch.equal(labels, torch.from_numpy(dataset.labels("train")[chosen]))
        assert latents.noise(0, 0, 4) is None
    counts = artifact.tensors("statistics.safetensors")["counts"]
    assert int(counts.sum()) == 5 * 1437
    assert artifact.result["mean"] is None


def test_exported_and_taken_back_the_indices_are_the_same(load, store, tmp_path):
    artifact = bring(stages(load)["latents"], store)
    export_latents(artifact, tmp_path / "out")
    assert not (tmp_path / "out" / "latents_stats.pt").exists()
    source = f"latents.source={{kind: folder, path: {tmp_path / 'out'}}}"
    taken = bring(stages(load, source)["latents"], store)
    everything, views = np.arange(1437), np.arange(1437) % 2
    mine, yours = (LatentSet(each, CPU).batch(everything, views) for each in (artifact, taken))
    assert torch.equal(mine[0], yours[0])
    assert torch.equal(mine[1], yours[1])
    # A shard of another codebook is found before anything learns from it.
    path = next((tmp_path / "out").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["latents_flip"][3, 1] = 300
    save_file(tensors, path)
    outcome = run_stage(stages(load, source)["latents"], store.root, Resources(), 0.0)
    assert "must hold indices in 0..299, but holds" in outcome.error


def test_a_stopped_training_on_indices_goes_on_with_the_same_bits(load, store, tmp_path):
    stage = stages(load)["generator"]
    whole = bring(stage, store).tensors("ema-step000000030.safetensors")
    assert whole["logits"].abs().max() > 0
    other = Store(tmp_path / "other")
    bring(stage.inputs["latents"], other)
    stop = tmp_path / "stop"
    stop.write_text(STOP, encoding="utf-8")
    stopped = run_stage(stage, other.root, Resources(checkpoint_every_s=1e-9), 0.0, stop=stop)
    assert stopped.status == "stopped", stopped
    resumed = bring(stage, other).tensors("ema-step000000030.safetensors")
    assert torch.equal(whole["logits"], resumed["logits"])


def test_codes_are_generated_scored_and_diagnosed(command, write, tree):
    tree["trial"]["evaluation"]["diagnostics"] = {"kind": "latents", "num_images": 1000}
    asked = (*CODES, "tokenizer.codebook_size=8")
    settings = [word for setting in asked for word in ("--set", setting)]
    ended = command(write(tree), *settings)
    assert ended.code == 0, ended.err
    (row,) = (json.loads(path.read_text()) for path in Path("results/small/rows").iterdir())
    assert row["status"] == "done"
    assert row["gfid"] > 0
    assert row["channel_std_ratio"] is None
    # Chance is 0.1; the grey of an image and its quarters say something about the digit.
    assert row["linear_probe_accuracy"] > 0.15


@pytest.mark.parametrize(
    ("settings", "path", "says"),
    [
        (("generator={size: pico, TRAINING}",), "generator.kind",
         "generates indices, the latents of tokenizer greys, but 'lightningdit' generates chan"),
        (("tokenizer={latent_dim: 2, TRAINING}",), "generator.kind",
         "generates channels, the latents of tokenizer va_vae, but 'tally' generates indices"),
        (("latents.posterior=moments",), "latents.posterior", "which have no variance"),
        (("latents.precision=bf16",), "latents.precision", "are not rounded"),
        (("tokenizer.codebook_size=3000000000",), "tokenizer", "2 to 2,147,483,648 codes"),
    ],
)  # fmt: skip
def test_what_indices_cannot_have_is_refused_at_planning(load, settings, path, says):
    training = "training: {steps: 2, batch_size: 2, learning_rate: 0.1}"
    with pytest.raises(ConfigError) as refused:
        load(*CODES, *(setting.replace("TRAINING", training) for setting in settings))
    assert f"{path}: " in str(refused.value)
    assert says in str(refused.value)


def test_a_latent_splits_into_its_grids_from_coarse_to_fine():
    layout = IndexLayout(codebook_size=9, grids=((1, 1), (2, 3)))
    assert layout.shape == (7,)
    coarse, fine = layout.split(torch.arange(14).view(2, 7))
    assert coarse.tolist() == [[[0]], [[7]]]
    assert fine[1].tolist() == [[8, 9, 10], [11, 12, 13]]
