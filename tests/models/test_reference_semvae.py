"""SemVAE and the images of its frozen network, held to tensors of Semantic-First Diffusion."""

import json

import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import load_strictly, read_tensors
from models.foundation import FeatureEncoder, TimmEncoderConfig
from models.posterior import Posterior
from models.semantic import (
    PrincipalComponents,
    SemVAE,
    SemVAELossConfig,
    SemVAEShape,
    as_tokens,
    semvae_loss,
)

from .conftest import SHARED

FOLDER = SHARED / "fixtures" / "variants"
OUTPUT, GRADIENT = 1e-5, 1e-4


@pytest.fixture(scope="module")
def tensors():
    if not FOLDER.is_dir():
        pytest.skip(f"the reference tensors are not at {FOLDER}")
    return load_file(FOLDER / "sfd_semvae.safetensors")


@pytest.fixture(scope="module")
def described():
    return json.loads((FOLDER / "sfd_fixtures.json").read_text())["sfd_semvae"]


@pytest.fixture
def network(tensors, tmp_path):
    official = {
        name.removeprefix("sd."): t for name, t in tensors.items() if name.startswith("sd.")
    }
    torch.save({"model_state_dict": official, "config": "text"}, tmp_path / "official.pt")
    made = SemVAE(
        feature_dim=24, latent_dim=4, shape=SemVAEShape(width=32, num_heads=2, num_blocks=2)
    )
    load_strictly(made, read_tensors(tmp_path / "official.pt"), source="the fixture")
    return made


def as_map(tokens):
    return tokens.transpose(1, 2).unflatten(2, (4, 4))


def apart(actual, expected):
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


def test_semvae_encodes_samples_and_decodes_as_published(network, tensors):
    block = network.encoder[1]
    assert apart(block(tensors["in.block_input"]), tensors["out.block_output"]) < OUTPUT
    features = as_map(tensors["in.features"])
    moments = network.encoder(tensors["in.features"])
    assert apart(moments, tensors["out.encoder_tokens"]) < OUTPUT
    posterior = network.encode(features)
    sample = posterior.sample(tensors["in.posterior_noise"])
    for actual, name in (
        (posterior.mean, "mean"),
        (posterior.log_variance, "logvar"),
        (sample, "sample_map"),
        (as_tokens(sample), "sample_tokens"),
        (posterior.kl(), "kl"),
        (as_tokens(network.decode(sample)), "reconstruction"),
    ):
        assert apart(actual, tensors[f"out.{name}"]) < OUTPUT, name
    clamped = Posterior.from_moments(tensors["in.raw_moments"])
    assert apart(clamped.log_variance, tensors["out.raw_logvar"]) < OUTPUT
    assert apart(clamped.kl(), tensors["out.raw_kl"]) < OUTPUT


@pytest.mark.parametrize(
    ("axis", "total", "cosine", "gradients"),
    [
        ("tokens", "total (published)", "cos_loss_token_axis (published)", "grad."),
        ("features", "total_feature_axis", "cos_loss_feature_axis (paper)", "grad_feature_axis."),
    ],
)
def test_the_loss_of_both_cosine_axes_is_the_published_one(
    network, tensors, described, axis, total, cosine, gradients
):
    scalars = described["scalars"]
    features = as_map(tensors["in.features"])
    posterior = network.encode(features)
    found = network.decode(posterior.sample(tensors["in.posterior_noise"]))
    loss, terms = semvae_loss(SemVAELossConfig(cosine_axis=axis), features, found, posterior)
    names = {"mse": "mse", "l1": "l1", "kl": "kl_mean", "cosine": cosine}
    for ours, theirs in names.items():
        assert float(terms[ours].detach()) == pytest.approx(scalars[theirs], rel=OUTPUT)
    assert float(loss.detach()) == pytest.approx(scalars[total], rel=OUTPUT)
    loss.backward()
    held = {name.removeprefix(gradients) for name in tensors if name.startswith(gradients)}
    assert held
    parameters = dict(network.named_parameters())
    for name in held:
        assert apart(parameters[name].grad, tensors[gradients + name]) < GRADIENT, name


def test_every_term_counts_with_its_weight(network, tensors):
    features = as_map(tensors["in.features"])
    posterior = network.encode(features)
    config = SemVAELossConfig(mse_weight=2.0, cosine_weight=3.0, l1_weight=5.0, kl_weight=7.0)
    loss, terms = semvae_loss(config, features, network.decode(posterior.mean), posterior)
    expected = 2 * terms["mse"] + 3 * terms["cosine"] + 5 * terms["l1"] + 7 * terms["kl"]
    assert torch.allclose(loss, expected)


def test_the_official_shapes_are_those_of_the_published_size():
    shapes = json.loads((FOLDER / "sfd_shapes.json").read_text())
    official = shapes["SemVAE (dinov2_vitb14_reg, 16 channels)"]
    with torch.device("meta"):
        made = SemVAE(feature_dim=768, latent_dim=16, shape=SemVAEShape())
    ours = {name: list(value.shape) for name, value in made.state_dict().items()}
    assert ours == official["tensors"]
    assert sum(p.numel() for p in made.parameters()) == official["n_params"]


def test_the_frozen_network_sees_the_published_pixels():
    published = load_file(FOLDER / "sfd_preprocess.safetensors")
    config = TimmEncoderConfig(
        name="vit_tiny_patch16_224",
        weights="random",
        normalisation="imagenet",
        interpolation="bicubic_unrounded",
    )
    images = published["in.image"].float() / 127.5 - 1.0
    seen = FeatureEncoder(config).prepare(images, (224, 224))[:, :, ::16]
    assert apart(seen, published["out.network_input_rows"]) < OUTPUT


def test_components_are_the_directions_of_largest_variance():
    torch.manual_seed(0)
    scales = torch.tensor([0.1, 3.0, 0.5, 2.0])
    directions, _ = torch.linalg.qr(torch.randn(4, 4))
    tokens = (torch.randn(4000, 4) * scales) @ directions + 5.0
    pca = PrincipalComponents(feature_dim=4, latent_dim=2)
    pca.fit(tokens.mean(0), tokens.T.cov())
    features = tokens.T.reshape(1, 4, 40, 100)
    latent = pca.encode(features).mode()
    assert torch.allclose(latent.std(dim=(0, 2, 3)), torch.tensor([3.0, 2.0]), rtol=0.05)
    assert abs(float(latent.mean())) < 1e-3
    # What is left is the variance of the other two directions.
    left = (pca.decode(latent) - features).square().sum(1).mean()
    assert float(left) == pytest.approx(0.1**2 + 0.5**2, rel=0.1)
