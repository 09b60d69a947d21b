"""One suite for every kind of tokenizer that a sweep file can ask for."""

import pytest
import torch

from harness.config.tokenizer import TokenizerConfig
from harness.schema.reading import validate
from models.autoencoder import Autoencoder
from models.tokenizer_loss import TokenizerLoss

FEATURES = 6
VF = {"kind": "vf", "encoder": {"kind": "timm", "name": "unused", "weights": "random"}}
GAN = {"discriminator": {"kind": "patchgan", "num_layers": 1, "base_width": 4, "start_step": 0}}

CHOICES = {
    "plain": {},
    "aligned": {"alignment": VF},
    "aligned, projecting features": {"alignment": {**VF, "project": "features"}},
    "aligned, weight as it is": {"alignment": {**VF, "adaptive": False}},
    "aligned, frozen projection": {"alignment": {**VF, "freeze_projection": True}},
    "adversarial": {"loss": GAN},
    "adversarial and aligned": {"loss": GAN, "alignment": VF},
    "with attention": {"architecture": {"attention_resolutions": [4]}},
    "two levels, latent of one channel": {
        "latent_dim": 1,
        "architecture": {"width_multipliers": [1, 2]},
    },
    "with dropout": {"architecture": {"dropout": 0.2}},
}


@pytest.fixture(params=CHOICES)
def settings(request) -> TokenizerConfig:
    choice = CHOICES[request.param]
    architecture = {
        "base_width": 8,
        "width_multipliers": [1, 1, 2],
        "num_blocks": 1,
        "attention_resolutions": [],
        "norm_groups": 4,
        **choice.get("architecture", {}),
    }
    tokenizer = {
        "latent_dim": 3,
        "seed": 0,
        "training": {"steps": 1, "batch_size": 2, "learning_rate": 1e-3},
        **choice,
        "architecture": architecture,
    }
    return validate(TokenizerConfig, tokenizer)


def build(settings: TokenizerConfig) -> Autoencoder:
    return Autoencoder(settings.architecture, latent_dim=settings.latent_dim, resolution=16)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_images_become_latents_of_the_declared_shape_and_images_again(settings, images):
    model = build(settings).eval()
    side = 16 // settings.architecture.downsample
    posterior = model.encode(images)
    assert posterior.mode().shape == (2, settings.latent_dim, side, side)
    assert model.decode(posterior.mode()).shape == images.shape
    noise = torch.zeros_like(posterior.mean)
    assert torch.equal(posterior.sample(noise), posterior.mode())


def test_the_loss_is_finite_and_its_gradient_reaches_every_trained_parameter(settings, images):
    torch.manual_seed(0)
    model = build(settings)
    criterion = TokenizerLoss(
        settings.loss, settings.alignment, latent_dim=settings.latent_dim, feature_dim=FEATURES
    )
    side = 16 // settings.architecture.downsample
    noise = torch.randn(2, settings.latent_dim, side, side)
    features = None if criterion.alignment is None else torch.randn(2, FEATURES, side, side)
    loss = criterion.autoencoder_loss(model, images, noise, features, 0)
    assert torch.isfinite(loss.total)
    assert set(loss.terms) == set(loss.weights)
    loss.total.backward()
    trained = [*model.parameters(), *criterion.autoencoder_parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    if criterion.discriminator_is_on(0):
        criterion.discriminator_loss(images, loss.reconstruction).backward()
        assert all(p.grad is not None for p in criterion.discriminator_parameters())


def test_equal_seeds_build_equal_networks(settings):
    def weights() -> torch.Tensor:
        torch.manual_seed(1)
        return torch.cat([p.flatten() for p in build(settings).parameters()])

    assert torch.equal(weights(), weights())
