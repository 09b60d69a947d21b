from typing import Any

import pytest
import torch

from models.alignment import (
    AlignmentLoss,
    NoAlignment,
    VFAlignment,
    marginal_cosine_loss,
    marginal_distance_matrix_loss,
)
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.discriminator import DiscriminatorConfig, NoDiscriminator, PatchDiscriminator
from models.parameters import num_parameters
from models.posterior import Posterior
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig, balance_weight

SHAPE = AutoencoderConfig(
    base_width=8, width_multipliers=(1, 2), num_blocks=1, attention_resolutions=(), norm_groups=4
)
GAN = DiscriminatorConfig(num_layers=1, base_width=8, start_step=1)
BATCH = {"images": (2, 3, 16, 16), "noise": (2, 4, 8, 8), "features": (2, 6, 8, 8)}


def setting(discriminator, alignment):
    torch.manual_seed(0)
    autoencoder = Autoencoder(SHAPE, latent_dim=4, resolution=16)
    loss = TokenizerLoss(
        TokenizerLossConfig(discriminator=discriminator), alignment, latent_dim=4, feature_dim=6
    )
    batch: dict[str, Any] = {name: torch.randn(shape) for name, shape in BATCH.items()}
    return autoencoder, loss, batch


def naive_total(autoencoder, loss, batch):
    """The published order of work: differentiate the terms, weigh them, differentiate again."""
    posterior = autoencoder.encode(batch["images"])
    z = posterior.sample(batch["noise"])
    reconstruction = autoencoder.decode(z)
    nll = (batch["images"] - reconstruction).abs().sum() / 2
    total = nll + 1e-6 * posterior.kl().mean()

    def gradient(value, weight):
        return torch.autograd.grad(value, weight, retain_graph=True)[0]

    if loss.discriminator is not None:
        term, weight = -loss.discriminator(reconstruction).mean(), autoencoder.last_decoder_weight
        ratio = balance_weight(gradient(nll, weight), gradient(term, weight), 1e4)
        total = total + 0.5 * ratio * term
    if loss.alignment is not None:
        term = loss.alignment.total(loss.alignment(z, batch["features"]))
        weight, ratio = autoencoder.last_encoder_weight, torch.tensor(1.0)
        if loss.alignment.config.adaptive:
            ratio = balance_weight(gradient(nll, weight), gradient(term, weight), 1e8)
        total = total + loss.alignment.config.vf_weight * ratio * term
    return total


@pytest.mark.parametrize("discriminator", [NoDiscriminator(), GAN])
@pytest.mark.parametrize(
    "alignment",
    [
        NoAlignment(),
        VFAlignment(),
        VFAlignment(adaptive=False),
        VFAlignment(project="features"),
        VFAlignment(freeze_projection=True),
    ],
)
def test_reusing_gradients_changes_neither_value_nor_gradient(discriminator, alignment):
    autoencoder, loss, batch = setting(discriminator, alignment)
    parameters = [*autoencoder.parameters(), *loss.autoencoder_parameters()]
    expected = naive_total(autoencoder, loss, batch)
    expected_gradients = torch.autograd.grad(expected, parameters)
    outcome = loss.autoencoder_loss(autoencoder, **batch, batch_index=9)
    outcome.total.backward()
    torch.testing.assert_close(outcome.total.detach(), expected.detach(), rtol=1e-5, atol=0.0)
    for parameter, gradient in zip(parameters, expected_gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


def test_total_is_the_sum_of_weight_times_term():
    autoencoder, loss, batch = setting(GAN, VFAlignment())
    outcome = loss.autoencoder_loss(autoencoder, **batch, batch_index=9)
    assert set(outcome.terms) == {"l1", "kl", "gan", "vf_cos", "vf_distmat"}
    total = sum(outcome.weights[name] * term for name, term in outcome.terms.items())
    torch.testing.assert_close(outcome.total.detach(), total)


def test_each_network_is_differentiated_once():
    autoencoder, loss, batch = setting(GAN, VFAlignment())
    calls = {"discriminator": 0, "decoder": 0}
    assert loss.discriminator is not None
    last = {"discriminator": loss.discriminator.main[0], "decoder": autoencoder.decoder.conv_in}

    def count(name):
        def hook(module, inputs, output):
            output.register_hook(lambda gradient: calls.update({name: calls[name] + 1}))

        return hook

    for name, layer in last.items():
        layer.register_forward_hook(count(name))
    loss.autoencoder_loss(autoencoder, **batch, batch_index=9).total.backward()
    assert calls == {"discriminator": 1, "decoder": 2}


def test_adversarial_terms_start_at_the_published_batches():
    config = DiscriminatorConfig()
    assert [config.discriminator_is_on(i) for i in (2499, 2500)] == [False, True]
    assert [config.generator_term_is_on(i) for i in (2500, 2501)] == [False, True]
    autoencoder, loss, batch = setting(DiscriminatorConfig(base_width=8), NoAlignment())
    assert "gan" not in loss.autoencoder_loss(autoencoder, **batch, batch_index=0).terms


def test_published_discriminator_has_the_published_size():
    discriminator = PatchDiscriminator(DiscriminatorConfig())
    assert num_parameters(discriminator) == 2_765_633
    assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    assert discriminator.main[2].bias is None


def test_margins_forgive_small_differences():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T[None, :, :, None]
    assert float(marginal_cosine_loss(features, features, 0.0)) == 0.0
    assert float(marginal_cosine_loss(-features, features, 0.5)) == 1.5
    collapsed = torch.ones_like(features)
    assert float(marginal_distance_matrix_loss(collapsed, features, 0.0)) == pytest.approx(0.5)
    assert float(marginal_distance_matrix_loss(collapsed, features, 0.25)) == pytest.approx(0.375)
    assert float(marginal_distance_matrix_loss(collapsed, features, 1.0)) == 0.0


def test_projection_has_the_official_shape_and_bias_rule():
    forward = AlignmentLoss(VFAlignment(), latent_dim=4, feature_dim=6).linear_proj
    backward = AlignmentLoss(VFAlignment(project="features"), latent_dim=4, feature_dim=6)
    assert forward.weight.shape == (6, 4, 1, 1)
    assert forward.bias is None
    assert backward.linear_proj.weight.shape == (4, 6, 1, 1)
    assert backward.linear_proj.bias is not None


def test_frozen_projection_is_not_trained():
    _, loss, _ = setting(NoDiscriminator(), VFAlignment(freeze_projection=True))
    assert loss.autoencoder_parameters() == []


def test_adaptive_weights_are_clamped():
    assert balance_weight(torch.ones(4), torch.zeros(4), 1e4).item() == 1e4
    assert balance_weight(torch.ones(4), torch.ones(4), 1e4).item() == pytest.approx(2 / 2.0001)


def test_the_kl_term_is_taken_after_decoding(monkeypatch):
    """Gradients are summed in the reverse order: the other one moves the last bits of trainings
    whose keys stay."""
    autoencoder, loss, batch = setting(NoDiscriminator(), NoAlignment())
    order: list[str] = []
    decode, kl = autoencoder.decode_channels, Posterior.kl

    def decoding(latent):
        order.append("decode")
        return decode(latent)

    def divergence(posterior):
        order.append("kl")
        return kl(posterior)

    monkeypatch.setattr(autoencoder, "decode_channels", decoding)
    monkeypatch.setattr(Posterior, "kl", divergence)
    loss.autoencoder_loss(autoencoder, batch["images"], batch["noise"], None, 0)
    assert order == ["decode", "kl"]
