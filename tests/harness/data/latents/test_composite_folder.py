"""Published folders of composite latents: two groups of channels, statistics and features."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.config.resources import Resources
from harness.data import open_dataset
from harness.data.latents.training_set import LatentSet
from harness.data.pixel_range import to_model_range
from harness.execution.stage_run import run_stage
from harness.export_latents import export_latents
from harness.plan.plan import make_plan
from harness.plan.requirements import missing_items
from harness.schema.reading import ConfigError
from harness.stages.encoder.stage import load_encoder
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store

SHARED = Path(os.environ.get("FRONTIER_SHARED", Path(__file__).parents[4].parent / "shared"))
CPU = torch.device("cpu")
ENCODER = (
    "{kind: timm, name: vit_tiny_patch16_224, weights: random, model_args: {img_size: 16, "
    "patch_size: 4, embed_dim: 12, depth: 1, num_heads: 2}}"
)
SEMANTIC = f"{{kind: pca, latent_dim: 4, downsample: 4, encoder: {ENCODER}}}"
REPA = f"generator.repa={{kind: repa, block: 1, hidden_width: 8, encoder: {ENCODER}}}"


@pytest.fixture
def composite(tree, load):
    """Loads the small sweep with 8 texture and 4 semantic channels."""

    def loaded(*settings: str):
        texture = {**tree["trial"]["tokenizer"], "latent_dim": 8}
        if texture.get("kind") != "composite":
            tree["trial"]["tokenizer"] = {"kind": "composite", "texture": texture}
        tree["presets"] = {}
        sweep = load(f"tokenizer.semantic={SEMANTIC}", "latents.flip=true", *settings)
        return make_plan(sweep)

    return loaded


def the(plan, kind):
    (found,) = [stage for stage in plan.stages if stage.kind == kind]
    return found


def close(actual, expected):
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


def source(folder, *, features=False) -> str:
    return f"latents.source={{kind: folder, path: {folder}, features: {str(features).lower()}}}"


@pytest.mark.parametrize("with_statistics", [False, True])
def test_a_published_folder_gives_the_published_items(composite, tmp_path, with_statistics):
    path = SHARED / "fixtures" / "variants" / "sfd_latents.safetensors"
    if not path.is_file():
        pytest.skip(f"the reference tensors are not at {path}")
    published = load_file(path)
    held = {n.removeprefix("in."): t for n, t in published.items() if n.startswith("in.")}
    generated = held.pop("generated")
    folder = tmp_path / "published"
    folder.mkdir()
    for number, rows in enumerate((slice(0, 2), slice(2, None))):
        shard = {name: t[rows].contiguous() for name, t in held.items()}
        save_file(shard, folder / f"latents_rank00_shard{number:03d}.safetensors")
    if with_statistics:
        for name in ("", "_sv"):
            pair = {each: published[f"out.{each}{name}"] for each in ("mean", "std")}
            torch.save(pair, folder / f"latents{name}_stats.pt")
    images = "{kind: parquet, name: digits, root: nowhere, resolution: 16, num_classes: 1000, "
    images += "num_train_images: 12, num_eval_images: 40}"
    small = ("evaluation.num_images=1000", "evaluation.num_reference=12")
    plan = composite(source(folder, features=True), f"data={images}", *small)
    # No tokenizer stands behind this folder.
    config = the(plan, "latents").config
    artifact = bring(Stage(kind="latents", config=config, inputs={}, label=""), Store(tmp_path))
    latents = LatentSet(artifact, CPU)
    for number, view in enumerate(("plain", "flip")):
        indices, views = np.arange(3), np.full(3, number)
        items, labels = latents.batch(indices, views)
        close(items, published[f"out.items_{view}"])
        close(latents.features(indices, views).float(), published[f"out.features_{view}"])
        assert torch.equal(labels, published["out.labels"])
        on_disk, _ = LatentSet(artifact, CPU, on_device=False).batch(indices, views)
        assert torch.equal(on_disk, items)
    # One coin for both groups and the features.
    indices, views = np.array([2, 0, 1]), np.array([1, 0, 1])
    items, _ = latents.batch(indices, views)
    plain, flip = published["out.items_plain"], published["out.items_flip"]
    close(items, torch.stack([flip[2], plain[0], flip[1]]))
    features = latents.features(indices, views)
    assert torch.equal(features[0], held["feats_dino_flip"][2])
    assert torch.equal(features[1], held["feats_dino"][0])
    close(latents.mean, torch.cat([published["out.mean"], published["out.mean_sv"]], 1))
    close(latents.std, torch.cat([published["out.std"], published["out.std_sv"]], 1))
    # What generation undoes and the composite's decoder drops.
    close((generated * latents.std + latents.mean)[:, :8], published["out.to_decoder"])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def bring(stage, store) -> Artifact:
    for each in stage.inputs.values():
        bring(each, store)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


def test_latents_written_and_read_again_train_with_stored_features(composite, store, tmp_path):
    plan = composite()
    encoded = bring(the(plan, "latents"), store)
    folder = tmp_path / "published"
    # The semantic part's network; the other is the metric's.
    encoder = next(s for s in plan.stages if s.kind == "encoder" and "semantic" in s.label)
    assert export_latents(encoded, folder, store.get("encoder", encoder.key)) == 1437
    (shard,) = folder.glob("*.safetensors")
    tensors = load_file(shard)
    channels = {"latents": 8, "latents_flip": 8, "latents_sv": 4, "latents_sv_flip": 4}
    channels |= {"feats_dino": 12, "feats_dino_flip": 12}
    assert {name: t.shape[1] for name, t in tensors.items() if name != "labels"} == channels
    row = plan.rows[0].trial
    images = to_model_range(open_dataset(row.data).images("train", np.array([700])))
    network = load_encoder(store.get("encoder", encoder.key), CPU)
    for view, seen in (("", images), ("_flip", images.flip(-1))):
        expected = network.features(seen, (4, 4))[0].half()
        torch.testing.assert_close(tensors[f"feats_dino{view}"][700], expected)
    semantic = torch.load(folder / "latents_sv_stats.pt", weights_only=True)
    assert semantic["std"].flatten().tolist() == encoded.result["std"][8:]

    read = bring(the(composite(source(folder)), "latents"), store)
    ours, theirs = LatentSet(encoded, CPU), LatentSet(read, CPU)
    indices, views = np.array([0, 700, 1436]), np.array([0, 1, 1])
    assert torch.equal(ours.batch(indices, views)[0], theirs.batch(indices, views)[0])

    with pytest.raises(ConfigError, match="whose order of images is not known"):
        composite(source(folder), REPA)
    settings = (source(folder, features=True), REPA, "generator.patch_size=1")
    generator = the(composite(*settings), "generator")
    assert "representation" not in generator.inputs
    assert missing_items([generator]) == []
    # The same features as of the images themselves, but for their 16 bits.
    computed = the(composite(REPA, "generator.patch_size=1"), "generator")
    ours, theirs = (
        bring(stage, store).tensors("ema-step000000004.safetensors")
        for stage in (generator, computed)
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-2, atol=1e-4)
    stage = the(composite(*settings[:2], "generator.patch_size=2"), "generator")
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "failed"
    assert "grid of tokens" in outcome.error


def test_a_folder_without_the_semantic_group_is_named(composite, store, tmp_path):
    encoded = bring(the(composite(), "latents"), store)
    export_latents(encoded, tmp_path / "published")
    (shard,) = (tmp_path / "published").glob("*.safetensors")
    tensors = load_file(shard)
    del tensors["latents_sv"]
    save_file(tensors, shard)
    stage = the(composite(source(tmp_path / "published")), "latents")
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "failed"
    assert "has no latents_sv" in outcome.error
