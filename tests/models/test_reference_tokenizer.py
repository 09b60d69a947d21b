"""Our VA-VAE step against tensors computed with the published implementation."""

import pytest
import torch

from models.alignment import (
    AlignmentLoss,
    VFAlignment,
    marginal_cosine_loss,
    marginal_distance_matrix_loss,
)
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.checkpoint import TRAINING_ONLY_PREFIXES, load_strictly
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig

NAMES = ["vavae_adaptive_margins", "vavae_fixed_weight"]
LATE = 500_000


def build(fixture) -> tuple[Autoencoder, TokenizerLoss, PatchDiscriminator, AlignmentLoss]:
    network, loss = fixture.config["ddconfig"], fixture.config["loss"]
    config = AutoencoderConfig(
        base_width=network["ch"],
        width_multipliers=tuple(network["ch_mult"]),
        num_blocks=network["num_res_blocks"],
        attention_resolutions=tuple(network["attn_resolutions"]),
    )
    latent_dim = fixture.config["embed_dim"]
    autoencoder = Autoencoder(config, latent_dim=latent_dim, resolution=network["resolution"])
    discriminator = DiscriminatorConfig(
        weight=loss["disc_weight"],
        start_step=loss["disc_start"],
        num_layers=loss.get("disc_num_layers", 3),
    )
    alignment = VFAlignment(
        vf_weight=loss["vf_weight"],
        adaptive=loss["adaptive_vf"],
        cos_margin=float(loss["cos_margin"]),
        distmat_margin=float(loss["distmat_margin"]),
    )
    tokenizer_loss = TokenizerLoss(
        TokenizerLossConfig(kl_weight=loss["kl_weight"], discriminator=discriminator),
        alignment,
        latent_dim=latent_dim,
        feature_dim=fixture.config["vf_dim"],
    )
    tensors = fixture.under("sd.")
    kept = {k: v for k, v in tensors.items() if not k.startswith(TRAINING_ONLY_PREFIXES)}
    load_strictly(autoencoder, kept, source="the fixture")
    assert tokenizer_loss.discriminator is not None
    assert tokenizer_loss.alignment is not None
    load_strictly(
        tokenizer_loss.discriminator, fixture.under("sd.loss.discriminator."), source="the fixture"
    )
    load_strictly(
        tokenizer_loss.alignment.linear_proj, fixture.under("sd.linear_proj."), source="the fixture"
    )
    return autoencoder, tokenizer_loss, tokenizer_loss.discriminator, tokenizer_loss.alignment


def autoencoder_step(fixture):
    autoencoder, loss, _, alignment = build(fixture)
    outcome = loss.autoencoder_loss(
        autoencoder,
        fixture["in.image"],
        fixture["in.posterior_noise"],
        fixture["in.foundation_features"],
        LATE,
    )
    outcome.total.backward()
    return autoencoder, alignment, outcome


@pytest.mark.parametrize("name", NAMES)
def test_forward_equals_the_published_one(name, reference, error):
    fixture = reference(name)
    autoencoder, _, _, alignment = build(fixture)
    with torch.no_grad():
        moments = autoencoder.quant_conv(autoencoder.encoder(fixture["in.image"]))
        z = autoencoder.encode(fixture["in.image"]).sample(fixture["in.posterior_noise"])
        assert error(moments, fixture["out.moments"]) < 1e-5
        assert error(z, fixture["out.z"]) < 1e-5
        assert error(autoencoder.decode(z), fixture["out.reconstruction"]) < 1e-5
        assert error(alignment.linear_proj(z), fixture["out.z_projected"]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_terms_and_adaptive_weights_equal_the_published_ones(name, reference):
    fixture = reference(name)
    _, alignment, outcome = autoencoder_step(fixture)
    expected = fixture.config["scalars"]
    actual = {
        "total_loss": outcome.total,
        "nll_loss": outcome.terms["l1"],
        "rec_loss": outcome.per_element["l1"],
        "kl_loss": outcome.terms["kl"],
        "g_loss": outcome.terms["gan"],
        "d_weight": outcome.weights["gan"],
        "vf_loss": alignment.total(outcome.terms),
        "vf_weight": outcome.weights["vf_cos"],
    }
    for key, value in actual.items():
        assert float(value.detach()) == pytest.approx(expected[key], rel=1e-4), key


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_published_ones(name, reference, error):
    fixture = reference(name)
    autoencoder, alignment, _ = autoencoder_step(fixture)
    parameters: dict[str, torch.Tensor] = dict(autoencoder.named_parameters())
    parameters["linear_proj.weight"] = alignment.linear_proj.weight
    for key, expected in fixture.under("grad.").items():
        if not key.startswith("loss."):
            assert error(parameters[key].grad, expected) < 1e-4, key


@pytest.mark.parametrize("name", NAMES)
def test_discriminator_step_equals_the_published_one(name, reference, error):
    fixture = reference(name)
    _, loss, discriminator, _ = build(fixture)
    value = loss.discriminator_loss(fixture["in.image"], fixture["out.reconstruction"])
    value.backward()
    assert float(value.detach()) == pytest.approx(fixture.config["scalars"]["disc_loss"], rel=1e-4)
    gradient = discriminator.get_parameter("main.0.weight").grad
    assert error(gradient, fixture["grad.loss.discriminator.main.0.weight"]) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_alignment_terms_equal_the_published_ones_at_both_margins(name, reference):
    fixture = reference(name)
    projected, features = fixture["out.z_projected"], fixture["in.foundation_features"]
    expected = fixture.config["scalars"]
    for margin in (0.0, 0.5):
        value = float(marginal_cosine_loss(projected, features, margin))
        assert value == pytest.approx(expected[f"mcos_margin{margin}"], rel=1e-4)
    for margin in (0.0, 0.25):
        value = float(marginal_distance_matrix_loss(projected, features, margin))
        assert value == pytest.approx(expected[f"mdms_margin{margin}"], rel=1e-4)
