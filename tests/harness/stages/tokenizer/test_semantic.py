"""Semantic tokenizers and composites: planned, trained, encoded, resumed, refused."""

import copy
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from harness.commands.conformance import check, small_sweep
from harness.config.resources import Resources
from harness.data import open_dataset
from harness.data.latents.training_set import LatentSet
from harness.data.pixel_range import to_model_range
from harness.execution import attempts
from harness.execution.stage_run import run_stage
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.encoder.stage import load_encoder
from harness.stages.tokenizer.stage import flops_per_image, load_tokenizer
from harness.storage.artifacts import Store
from models.latent import LatentLayout
from models.posterior import IndexPosterior, Posterior
from models.semantic import SemVAE, SemVAEShape, as_tokens

CPU = torch.device("cpu")
VIT = {
    "kind": "timm",
    "name": "vit_tiny_patch16_224",
    "weights": "random",
    "model_args": {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
    },
}
SEMVAE = {
    "kind": "semvae",
    "encoder": VIT,
    "latent_dim": 3,
    "downsample": 4,
    "shape": {"width": 16, "num_heads": 2, "num_blocks": 1},
    "training": {
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "warmup_steps": 2,
        "warmup_start": 0.01,
        "constant_steps": 2,
        "schedule": "cosine",
        "final_share": 0.1,
    },
}
PCA = {
    "kind": "pca",
    "encoder": VIT,
    "latent_dim": 3,
    "downsample": 4,
    "num_images": 300,
    "batch_size": 100,
}


@pytest.fixture
def compose(tree, write, load):
    """Loads the small sweep with a composite in place of its tokenizer."""

    def composed(semantic, *settings):
        texture = copy.deepcopy(tree["trial"]["tokenizer"])
        if texture.get("kind") != "composite":
            tree["trial"]["tokenizer"] = {
                "kind": "composite",
                "texture": texture,
                "semantic": copy.deepcopy(semantic),
            }
        tree["presets"] = {}
        return load(*settings)

    return composed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def bring(stage, store):
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


def the(plan, kind, word=""):
    (found,) = [s for s in plan.stages if s.kind == kind and word in s.label]
    return found


def test_the_parts_of_a_composite_are_stages_of_their_own_and_its_rfid_is_the_texture_s(
    compose, load
):
    alone = make_plan(load())
    plan = make_plan(compose(SEMVAE))
    (row,), (plain,) = plan.rows, alone.rows
    assert row.tokenizer.inputs["texture"] == plain.tokenizer
    assert row.reconstruction == plain.reconstruction
    assert row.generator
    assert plain.generator
    assert row.generator.training != plain.generator.training
    assert {s.kind for s in row.tokenizer.inputs.values()} == {"tokenizer"}
    layout = row.trial.layout
    assert isinstance(layout, LatentLayout)
    assert [(g.name, g.channels) for g in layout.groups] == [("texture", 2), ("semantic", 3)]


def test_seeds_of_the_parts_follow_the_composite_s(compose):
    tokenizer = compose(SEMVAE, "seed=7", "tokenizer.semantic.seed=2").points[0].trial.tokenizer
    assert (tokenizer.seed, tokenizer.texture.seed, tokenizer.semantic.seed) == (7, 7, 2)


@pytest.mark.parametrize("semantic", [SEMVAE, PCA], ids=["semvae", "pca"])
def test_a_composite_stacks_the_latents_of_its_parts_and_decodes_the_texture(
    compose, store, semantic
):
    plan = make_plan(compose(semantic, "latents.flip=true"))
    (row,) = plan.rows
    whole = load_tokenizer(bring(row.tokenizer, store), CPU)
    parts = {
        name: load_tokenizer(store.get("tokenizer", part.key), CPU)
        for name, part in row.tokenizer.inputs.items()
    }
    data = open_dataset(row.trial.data)
    images = to_model_range(data.images("train", np.arange(5)))
    found = whole.encode(images)
    texture, own = (parts[name].encode(images) for name in ("texture", "semantic"))
    assert isinstance(found, Posterior)
    assert isinstance(texture, Posterior)
    assert not isinstance(own, IndexPosterior)
    assert torch.equal(found.mean, torch.cat([texture.mean, own.mean], 1))
    noise = torch.randn(found.mean.shape)
    sample = found.sample(noise)
    expected = [texture.sample(noise[:, :2]), own.sample(noise[:, 2:])]
    assert torch.equal(sample, torch.cat(expected, 1))
    assert torch.equal(whole.decode(sample), parts["texture"].decode(sample[:, :2]))

    latents = bring(the(plan, "latents"), store)
    assert len(latents.result["mean"]) == 5
    assert [g["name"] for g in latents.result["layout"]["groups"]] == ["texture", "semantic"]


def test_whole_posteriors_of_a_part_without_spread_give_its_latent(compose, store):
    plan = make_plan(compose(PCA, "latents.posterior=moments"))
    latents = LatentSet(bring(the(plan, "latents"), store), CPU)
    indices, views = np.arange(3), np.zeros(3, dtype=np.int64)
    noise = latents.noise(0, 0, 3)
    assert noise is not None
    found, _ = latents.batch(indices, views, noise)
    other, _ = latents.batch(indices, views, -noise)
    assert bool(found.isfinite().all())
    assert torch.equal(found[:, 2:], other[:, 2:])
    assert not torch.equal(found[:, :2], other[:, :2])


def test_components_are_those_of_all_features_of_the_images(compose, store):
    plan = make_plan(compose(PCA, "tokenizer.semantic.num_images=100000"))
    (row,) = plan.rows
    stage = row.tokenizer.inputs["semantic"]
    network: Any = load_tokenizer(bring(stage, store), CPU)
    encoder = load_encoder(store.get("encoder", stage.inputs["features"].key), CPU)
    data = open_dataset(row.trial.data)
    images = to_model_range(data.images("train", np.arange(data.num_images("train"))))
    tokens = as_tokens(encoder.features(images, (4, 4))).flatten(0, 1).double()
    values, directions = torch.linalg.eigh(tokens.T.cov(correction=0))
    chosen = directions.flip(1)[:, :3].T.float()
    overlap = (network.codec.components * chosen).sum(1).abs()
    assert torch.allclose(overlap, torch.ones(3), atol=1e-4)
    latent = network.encode(images).mode()
    variance = latent.permute(1, 0, 2, 3).flatten(1).double().var(1)
    assert torch.allclose(variance, values.flip(0)[:3], rtol=1e-3)


@pytest.mark.parametrize("semantic", [SEMVAE, PCA], ids=["semvae", "pca"])
def test_a_resumed_semantic_tokenizer_has_the_bits_of_the_undisturbed(
    compose, store, tmp_path, semantic
):
    (row,) = make_plan(compose(semantic)).rows
    stage = row.tokenizer.inputs["semantic"]
    undisturbed = bring(stage, store)
    other = Store(tmp_path / "resumed")
    stop = tmp_path / "stop"
    stop.write_text("stop", encoding="utf-8")
    for source in stage.inputs.values():
        bring(source, other)
    every_step = Resources(checkpoint_every_s=1e-9)
    assert run_stage(stage, other.root, every_step, 0.0, stop=stop).status == "stopped"
    resumed = bring(stage, other)
    assert resumed.result == undisturbed.result
    assert resumed.record["files"] == undisturbed.record["files"]
    assert resumed.record["history"]


@pytest.mark.parametrize(
    "semantic", [SEMVAE, {**PCA, "num_images": 100}], ids=["semvae", "pca in one round"]
)
def test_the_check_finds_no_fault(compose, semantic):
    said: list[str] = []
    assert check(small_sweep(compose(semantic)), said.append), "\n".join(said)


def test_a_batch_in_slices_trains_the_same_semvae(compose, store, tmp_path, monkeypatch):
    (row,) = make_plan(compose(SEMVAE)).rows
    stage = row.tokenizer.inputs["semantic"]
    whole = bring(stage, store).tensors("model.safetensors")
    monkeypatch.setattr(attempts, "slices", lambda _work: 3)
    sliced = bring(stage, Store(tmp_path)).tensors("model.safetensors")
    for name, value in whole.items():
        # The keys' biases have no gradient but rounding, which Adam divides by its own size.
        if name.endswith("in_proj_bias"):
            continue
        assert torch.allclose(sliced[name], value, rtol=1e-3, atol=1e-5), name


def test_official_weights_take_the_place_of_a_training(compose, store, tmp_path):
    torch.manual_seed(0)
    shape = SemVAEShape(width=16, num_heads=2, num_blocks=1)
    official = SemVAE(feature_dim=16, latent_dim=3, shape=shape)
    path = tmp_path / "semantic_ae_final.pt"
    torch.save({"model_state_dict": official.state_dict(), "iteration": 5}, path)
    sweep = compose(SEMVAE, f"tokenizer.semantic.checkpoint={path}")
    (row,) = make_plan(sweep).rows
    artifact = bring(row.tokenizer.inputs["semantic"], store)
    held = artifact.tensors("model.safetensors")
    assert all(torch.equal(held[name], value) for name, value in official.state_dict().items())
    assert "semantic_ae_final.pt" in artifact.result["checkpoint"]

    with pytest.raises(ConfigError, match="of another shape") as error:
        make_plan(compose(SEMVAE, f"tokenizer.semantic.checkpoint={path}", WIDER))
    assert error.value.path == "trial.tokenizer.semantic.checkpoint"


WIDER = "tokenizer.semantic.latent_dim=4"


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("tokenizer.semantic.downsample=8", "tokenizer.semantic.downsample"),
        ("tokenizer.semantic={kind: python, target: 'a:b', latent_dim: 1, downsample: 4}",
         "tokenizer.semantic.kind"),
        (f"tokenizer.texture={json.dumps(PCA)}", "tokenizer.texture.kind"),
        (f"tokenizer={json.dumps(PCA)}", "tokenizer.kind"),
        ("tokenizer.texture={kind: diffusers, source: a/b, latent_dim: 2, downsample: 4}",
         "tokenizer.texture.scaling"),
        ("tokenizer.semantic.shape.num_heads=3", "tokenizer.semantic.shape"),
        ("evaluation.extractor={kind: timm, name: vit_tiny_patch16_224, weights: random, "
         f"model_args: {json.dumps(VIT['model_args'])}}}", "evaluation.extractor"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_with_their_path(compose, setting, path):
    with pytest.raises(ConfigError) as error:
        compose(SEMVAE, setting)
    assert path in error.value.path


def test_images_that_are_too_small_to_be_cut_are_refused(compose):
    settings = ("tokenizer.semantic.encoder.model_args.patch_size=8",)
    with pytest.raises(ConfigError, match="32 pixels") as error:
        make_plan(compose(SEMVAE, *settings))
    assert error.value.path == "trial.tokenizer.semantic.fit"
    make_plan(compose(SEMVAE, *settings, "tokenizer.semantic.fit=resize"))


def test_the_cost_of_a_composite_is_that_of_its_parts(compose):
    (row,) = make_plan(compose(SEMVAE)).rows
    whole, texture, semantic = (
        flops_per_image(stage.config) for stage in (row.tokenizer, *row.tokenizer.inputs.values())
    )
    # It decodes by the texture alone.
    assert texture < whole < texture + semantic
    sizes = [estimate(stage).parameters for stage in row.tokenizer.inputs.values()]
    assert estimate(row.tokenizer).parameters == sum(sizes)
    # The frozen network is no part of it.
    shape = SemVAEShape(width=16, num_heads=2, num_blocks=1)
    codec = SemVAE(feature_dim=16, latent_dim=3, shape=shape)
    assert sizes[1] == sum(p.numel() for p in codec.parameters())


def test_a_composite_runs_to_a_row(compose, write, tree, command):
    compose(SEMVAE)
    assert command(write(tree)).code == 0
    (row,) = pd.read_parquet("results/small/table.parquet").to_dict("records")
    assert row["status"] == "done"
    assert row["latent_dim"] == 5
    assert row["tokenizer"] == "va_vae + semvae vit_tiny_patch16_224"
    assert row["tokenizer_images"] == 24
    for name in ("rfid", "gfid", "tokenizer_s", "train_flops", "tokenizer_params"):
        assert row[name] > 0, name
