"""Alignment of a generator's tokens (REPA): what it adds, and that nothing stays when off."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.data import DigitsDataset, open_dataset
from harness.data.pixel_range import to_model_range
from harness.execution.stage_run import run_stage
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.encoder.stage import load_encoder
from harness.stages.generator.kinds import kind_of
from harness.stages.generator.lightningdit import build
from harness.stages.generator.representation import TokenAlignment
from harness.stages.generator.stage import load_generator
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store
from models.latent import LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
from models.repa import REPAConfig, REPAHead

ENCODER = (
    "{kind: timm, name: vit_tiny_patch16_224, weights: random, "
    "model_args: {img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}}"
)
BASE = ("latents.flip=true", "generator.training.steps=3")


def repa(weight: float = 1.0, block: int = 1) -> str:
    numbers = f"block: {block}, weight: {weight}, hidden_width: 8"
    return f"generator.repa={{kind: repa, {numbers}, encoder: {ENCODER}}}"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def generator(load, *settings: str) -> Stage:
    return next(s for s in make_plan(load(*BASE, *settings)).stages if s.kind == "generator")


def bring(stage: Stage, store: Store) -> Artifact:
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


def weights_of(artifact: Artifact) -> dict[str, torch.Tensor]:
    return dict(artifact.tensors("ema-step000000003.safetensors"))


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in right)


def test_the_term_is_in_the_loss_and_the_head_stays_out_of_the_average(load, store):
    plain, aligned = (bring(generator(load, *s), store) for s in ((), (repa(),)))
    curve = [json.loads(line) for line in (aligned.path / "curve.jsonl").read_text().splitlines()]
    assert all(0.0 <= line["repa"] <= 2.0 for line in curve)
    terms = {"velocity_mse", "velocity_direction", "repa"}
    assert curve[0].keys() == {"step", "largest_loss", *terms}
    assert weights_of(aligned).keys() == weights_of(plain).keys()
    assert not equal(weights_of(aligned), weights_of(plain))


def test_a_head_within_the_generator_is_averaged_kept_and_started_from(load, store, tmp_path):
    within = (repa().replace("weight:", "head: within, mode: cos_mse, weight:"),)
    still = ("generator.training.learning_rate=1e-12", *within)
    made = weights_of(artifact := bring(generator(load, *within), store))
    head = {name for name in made if name.startswith("repa_projector.")}
    assert head == {f"repa_projector.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")}
    model = load_generator(artifact, 3, torch.device("cpu"))
    assert model.state_dict().keys() == made.keys() - head
    apart = bring(generator(load, repa()), store)
    assert artifact.result["parameters"] == apart.result["parameters"]
    save_file(made, tmp_path / "whole.safetensors")
    start = f"generator.initial_weights={tmp_path / 'whole.safetensors'}"
    again = bring(generator(load, *still, start), store)
    assert again.result["initial_weights"]["left"] == {}
    for name, tensor in weights_of(again).items():
        torch.testing.assert_close(tensor, made[name])
    # As weights of others, with the head where the settings have one, and without it.
    given = f"generator.checkpoint={tmp_path / 'whole.safetensors'}"
    assert equal(weights_of(bring(generator(load, *within, given), store)), made)
    without = weights_of(bring(generator(load, given), store))
    assert equal(without, {name: made[name] for name in made.keys() - head})


def test_a_weight_of_zero_gives_the_bits_of_training_without(load, store):
    plain, aligned = (bring(generator(load, *s), store) for s in ((), (repa(weight=0.0),)))
    assert equal(weights_of(aligned), weights_of(plain))


def test_off_moves_no_key_and_on_moves_the_generator_alone(load):
    def keys(*settings: str) -> dict[str, str]:
        return {s.kind: s.key for s in make_plan(load(*settings)).stages if s.kind != "encoder"}

    assert keys("generator.repa={kind: none}") == keys()
    moved = {kind for kind, key in keys(repa()).items() if key != keys()[kind]}
    assert moved == {"generator", "generation"}


def test_gradients_reach_the_head_and_the_blocks_up_to_the_tap():
    torch.manual_seed(0)
    shape = DiTShape(depth=3, width=16, num_heads=2)
    layout = LatentLayout.single(2, 4, 4)
    model = LightningDiT(LightningDiTConfig(size=shape), layout=layout, num_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.requires_grad else None
    head = REPAHead(REPAConfig(block=2, hidden_width=8), width=16, feature_dim=5)
    inputs = torch.randn(2, 2, 4, 4), torch.rand(2, 1), torch.tensor([0, 3])
    _, tokens = model.forward_with_tap(*inputs, 2)
    head(tokens, torch.randn(2, 5, 4, 4)).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    before = ("x_embedder", "t_embedder", "y_embedder", "blocks.0", "blocks.1")
    expected = {n for n, p in model.named_parameters() if n.startswith(before) and p.requires_grad}
    assert reached == expected
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_features_are_those_of_the_image_or_its_mirror_image(load, store):
    stage = generator(load, repa())
    artifact = bring(stage.inputs["representation"], store)
    config, cpu = stage.config, torch.device("cpu")
    alignment = TokenAlignment(
        config.generator.repa,
        build(config),
        artifact,
        device=cpu,
        data=config.data,
        crop=config.crop,
        views=("latents", "latents_flip"),
    )
    indices = np.array([3, 5])
    images = to_model_range(open_dataset(config.data).images("train", indices))
    expected = torch.stack([images[0], images[1].flip(-1)])
    features = load_encoder(artifact, cpu).features(expected, (2, 2))
    assert torch.equal(alignment.features(alignment.images(indices, np.array([0, 1]))), features)


def test_images_other_than_those_behind_the_latents_are_refused(load, store, monkeypatch):
    stage = generator(load, repa(), "generator.seed=7")
    for source in stage.inputs.values():
        bring(source, store)
    monkeypatch.setattr(DigitsDataset, "content_fingerprint", lambda _: "others")
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "failed"
    assert "must be those that the latents were encoded from" in outcome.error
    assert "are others (others)" in outcome.error


def test_the_estimate_counts_the_encoder(load):
    plain, aligned = (estimate(generator(load, *s)).flops for s in ((), (repa(),)))
    assert aligned > plain


def test_the_published_ladder_is_planned_with_its_published_parameters():
    sweep = load_sweep(Path(__file__).parents[4] / "sweeps" / "sfd_imagenet256.yaml")
    planned = [stage for stage in make_plan(sweep).stages if stage.kind == "generator"]
    offset = next(stage for stage in planned if stage.config.generator.flow.offset == 0.3)
    # With position table and projection 137.63M, without both 130.09M (variants_corrections.md).
    assert estimate(offset).parameters == pytest.approx(137.63e6, abs=5e3)
    assert estimate(offset).disk_bytes == 4 * estimate(offset).parameters
    assert kind_of(offset.config.generator).size(offset.config)[0] - 256 * 768 == pytest.approx(
        130.09e6, abs=5e3
    )


def test_a_generator_is_not_graded_by_the_network_it_is_aligned_with(load):
    with pytest.raises(ConfigError, match="graded by what it was trained to match"):
        load(repa(), f"evaluation.extractor={ENCODER}")


def test_a_tap_beyond_the_last_block_is_refused(load):
    with pytest.raises(ConfigError, match=r"`repa.block` must be at most the depth 1, but got 2"):
        load(repa(block=2))
