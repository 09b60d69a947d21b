import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from models.alignment import NoAlignment, VFAlignment
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.batch_part import BatchPart
from models.discriminator import DiscriminatorConfig, NoDiscriminator, PatchDiscriminator
from models.latent import LatentLayout
from models.perceptual import LPIPS, LPIPSConfig, untrained_backbone
from models.regularizers.contract import AdamWConfig, Regularizer, rows_of
from models.regularizers.denoising import DenoisingConfig
from models.regularizers.equivariance import EquivarianceConfig
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig

SHAPE = AutoencoderConfig(
    base_width=8, width_multipliers=(1, 2), num_blocks=1, attention_resolutions=(), norm_groups=4
)
LAYOUT = LatentLayout.single(channels=4, height=8, width=8)
NO_GAN, NO_ALIGNMENT = NoDiscriminator(), NoAlignment()
GAN = DiscriminatorConfig(num_layers=1, base_width=8, start_step=1)


def streams(seed=0):
    return {
        "choices": torch.Generator().manual_seed(seed),
        "noise": torch.Generator().manual_seed(seed),
    }


def draws(config, count=200, layout=LAYOUT):
    regularizer = config.build(layout)
    return [regularizer.draw(4, layout, **streams(seed)) for seed in range(count)]


# ---- EQ-VAE


def test_a_latent_is_scaled_and_turned_as_its_image_is():
    eq = EquivarianceConfig(interpolation="bilinear").build(LAYOUT)
    latent = torch.arange(8.0).reshape(1, 1, 1, 8).expand(1, 1, 4, 8)
    images = latent.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(1, 3, 8, 16)
    # Half the width: the mean of two neighbours each. A quarter turn moves the last column to the
    # top row.
    got, target = eq.perturb(latent, images, {"grid": (4, 4), "turns": 1})
    expected = torch.tensor([6.5, 4.5, 2.5, 0.5]).reshape(1, 1, 4, 1)
    assert torch.equal(got, expected.expand(1, 1, 4, 4))
    assert target.shape == (1, 3, 8, 8)
    assert torch.equal(target[0, 0, :, 0], torch.tensor([7.0, 6, 5, 4, 3, 2, 1, 0]))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_both_are_resized_bicubically_and_turned_by_the_same_angle(turns):
    eq = EquivarianceConfig().build(LAYOUT)
    torch.manual_seed(0)
    latent, images = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 16, 16)
    got, target = eq.perturb(latent, images, {"grid": (3, 5), "turns": turns})
    for ours, whole, size in ((got, latent, (3, 5)), (target, images, (6, 10))):
        scaled = nn.functional.interpolate(whole, size=size, mode="bicubic", align_corners=False)
        turned = scaled
        for _ in range(turns):
            turned = turned.transpose(-2, -1).flip(-2)
        assert torch.equal(ours, turned)


def test_a_transformation_is_drawn_for_the_share_of_batches_that_the_paper_says():
    drawn = draws(EquivarianceConfig())
    transformed = [each for each in drawn if each]
    assert len(transformed) == pytest.approx(100, abs=20)
    sides = {side for each in transformed for side in each["grid"]}
    assert sides == {2, 3, 4, 5, 6, 7}
    assert {each["turns"] for each in transformed} == {1, 2, 3}
    assert any(height != width for height, width in (each["grid"] for each in transformed))
    assert not any(draws(EquivarianceConfig(plain_share=1.0)))
    assert all(draws(EquivarianceConfig(plain_share=0.0)))


def test_an_isotropic_transformation_has_one_factor():
    drawn = draws(EquivarianceConfig(plain_share=0.0, anisotropic=False))
    assert all(height == width for height, width in (each["grid"] for each in drawn))


def test_a_plain_batch_is_left_alone():
    latent, images = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 16, 16)
    got, target = EquivarianceConfig().build(LAYOUT).perturb(latent, images, {})
    assert got is latent
    assert target is images


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_smallest_image_is_the_smallest_that_a_discriminator_takes(num_layers):
    config = dataclasses.replace(GAN, num_layers=num_layers)
    network, side = PatchDiscriminator(config).eval(), config.smallest_image
    assert network(torch.zeros(1, 3, side, side)).shape[-1] == 1
    with pytest.raises(RuntimeError, match=r"[Kk]ernel"):
        network(torch.zeros(1, 3, side - 1, side - 1))


def test_the_smallest_image_is_the_smallest_that_lpips_takes():
    heads = [torch.rand(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]
    network, side = LPIPS(untrained_backbone(), heads), LPIPSConfig.smallest_image
    assert network(*torch.zeros(2, 1, 3, side, side)).shape == (1,)
    with pytest.raises(RuntimeError, match="too small"):
        network(*torch.zeros(2, 1, 3, side - 1, side - 1))


# ---- Latent denoising


def test_latents_are_mixed_with_noise_of_the_published_deviation():
    denoise = DenoisingConfig().build(LAYOUT)
    latent, images = torch.full((2, 4, 8, 8), 2.0), torch.randn(2, 3, 16, 16)
    drawn = {
        "share": torch.tensor([0.25, 1.0]).reshape(2, 1, 1, 1),
        "noise": torch.full((2, 4, 8, 8), -1.0),
    }
    got, target = denoise.perturb(latent, images, drawn)
    assert torch.equal(got[0], torch.full((4, 8, 8), 0.75 * 2.0 - 0.25 * 3.0))
    assert torch.equal(got[1], torch.full((4, 8, 8), -3.0))
    assert target is images


def test_every_image_draws_a_share_and_noise_of_its_own():
    (drawn,) = draws(DenoisingConfig(), count=1)
    assert drawn["share"].shape == (4, 1, 1, 1)
    assert len(drawn["share"].unique()) == 4
    assert drawn["noise"].shape == (4, 4, 8, 8)
    shares = torch.cat([each["share"].flatten() for each in draws(DenoisingConfig())])
    assert 0 <= shares.min() < shares.max() < 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)


def test_relative_noise_follows_each_channel_so_that_growing_does_not_help():
    denoise = DenoisingConfig(gamma=2.0, unit="latent").build(LAYOUT)
    latent = torch.tensor([[1.0, 10.0], [3.0, 50.0]]).reshape(2, 2, 1, 1)
    drawn = {"share": torch.ones(2, 1, 1, 1), "noise": torch.ones(2, 2, 1, 1)}
    images = torch.zeros(2, 3, 2, 2)
    got, _ = denoise.perturb(latent, images, drawn)
    assert torch.equal(got, torch.tensor([2.0, 40.0]).reshape(1, 2, 1, 1).expand(2, 2, 1, 1))
    drawn["share"] = torch.full((2, 1, 1, 1), 0.5)
    small, large = (denoise.perturb(scale * latent, images, drawn)[0] for scale in (1, 8))
    torch.testing.assert_close(8 * small, large)


def test_relative_noise_of_a_part_is_that_of_the_batch():
    denoise = DenoisingConfig(unit="latent").build(LAYOUT)
    torch.manual_seed(0)
    latent, images = torch.randn(5, 4, 8, 8), torch.randn(5, 3, 16, 16)
    drawn = denoise.draw(5, LAYOUT, **streams())
    expected, _ = denoise.perturb(latent, images, drawn)
    # What a sum over the workers of two parts gives: first of values, then of squares.
    mean = latent.mean(dim=(0, 2, 3), keepdim=True)
    sums = [each.sum(dim=(0, 2, 3), keepdim=True) for each in (latent, (latent - mean).square())]
    denoise.part = BatchPart(first=0, total=5, sum=lambda _: sums.pop(0))
    got, _ = denoise.perturb(latent[:3], images[:3], rows_of(drawn, 5, slice(0, 3)))
    torch.testing.assert_close(got, expected[:3])


def test_what_is_drawn_for_every_image_is_cut_and_all_else_handed_on():
    drawn = {"rows": torch.arange(6.0).reshape(3, 2), "grid": (2, 3), "scalar": torch.tensor(1.0)}
    cut = rows_of(drawn, 3, slice(1, 3))
    assert cut["rows"].tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert (cut["grid"], float(cut["scalar"])) == ((2, 3), 1.0)


# ---- in the loss


class Halved(Regularizer):
    """Decodes a learnt multiple of the latent and asks for the image times two."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(7.0))
        self.optimizer = optimizer

    def perturb(self, latent, images, drawn):
        return self.scale * latent, 2 * images

    def loss(self, mean, latent, drawn, step):
        return {"power": mean.square().mean(), "offset": (latent - self.unused).mean()}

    def weights_at(self, step):
        return {"power": 0.25 * step}


def setting(
    regularizers: dict[str, Regularizer],
    discriminator: NoDiscriminator | DiscriminatorConfig = NO_GAN,
    alignment: NoAlignment | VFAlignment = NO_ALIGNMENT,
) -> tuple[Autoencoder, TokenizerLoss, dict[str, Any]]:
    torch.manual_seed(0)
    autoencoder = Autoencoder(SHAPE, latent_dim=4, resolution=16)
    criterion = TokenizerLoss(
        TokenizerLossConfig(discriminator=discriminator),
        alignment,
        latent_dim=4,
        feature_dim=6,
        regularizers=regularizers,
    )
    batch = {
        "images": torch.randn(2, 3, 16, 16),
        "noise": torch.randn(2, 4, 8, 8),
        "features": torch.randn(2, 6, 8, 8),
    }
    return autoencoder, criterion, batch


@pytest.mark.parametrize("discriminator", [NoDiscriminator(), GAN])
@pytest.mark.parametrize("alignment", [NoAlignment(), VFAlignment(), VFAlignment(adaptive=False)])
def test_the_total_and_all_gradients_are_those_of_the_plain_computation(discriminator, alignment):
    own = Halved()
    autoencoder, criterion, batch = setting({"halved": own}, discriminator, alignment)
    outcome = criterion.autoencoder_loss(
        autoencoder, **batch, batch_index=9, step=3, drawn={"halved": {}}
    )
    outcome.total.backward()
    posterior = autoencoder.encode(batch["images"])
    z = posterior.sample(batch["noise"])
    reconstruction = autoencoder.decode(own.scale * z)
    target = 2 * batch["images"]
    terms = {
        "l1": (target - reconstruction).abs().sum() / 2,
        "kl": posterior.kl().mean(),
        "halved.power": posterior.mean.square().mean(),
        "halved.offset": (z - own.unused).mean(),
    }
    if criterion.discriminator is not None:
        terms["gan"] = -criterion.discriminator(reconstruction).mean()
    if criterion.alignment is not None:
        terms |= criterion.alignment(z, batch["features"])
    assert set(terms) == set(outcome.terms)
    for name, term in terms.items():
        torch.testing.assert_close(outcome.terms[name], term.detach(), rtol=1e-4, atol=1e-5)
    assert float(outcome.weights["halved.power"]) == 0.75
    assert float(outcome.weights["halved.offset"]) == 1.0
    total = torch.stack([outcome.weights[name] * term for name, term in terms.items()]).sum()
    parameters = [*autoencoder.parameters(), *criterion.autoencoder_parameters()]
    assert own.scale in set(parameters)
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)
    assert torch.equal(outcome.target, target)


@pytest.mark.parametrize(
    "config", [EquivarianceConfig(plain_share=0.0, min_scale=0.5), DenoisingConfig()]
)
@pytest.mark.parametrize("alignment", [NoAlignment(), VFAlignment()])
def test_the_gradient_reaches_the_encoder_through_what_was_perturbed(config, alignment):
    regularizer = config.build(LAYOUT)
    autoencoder, criterion, batch = setting({config.kind: regularizer}, GAN, alignment)
    drawn = {config.kind: regularizer.draw(2, LAYOUT, **streams())}
    outcome = criterion.autoencoder_loss(autoencoder, **batch, batch_index=9, drawn=drawn)
    outcome.total.backward()
    weight = autoencoder.encoder.conv_in.weight
    assert weight.grad is not None
    assert float(weight.grad.abs().min()) > 0
    perturbed, target = regularizer.perturb(
        autoencoder.encode(batch["images"]).sample(batch["noise"]),
        batch["images"],
        drawn[config.kind],
    )
    torch.testing.assert_close(outcome.reconstruction, autoencoder.decode(perturbed).detach())
    assert torch.equal(outcome.target, target)
    criterion.discriminator_loss(outcome.target, outcome.reconstruction).backward()


def test_parameters_with_an_optimiser_of_their_own_are_not_the_autoencoders():
    _, criterion, _ = setting({"halved": Halved(AdamWConfig())})
    assert criterion.autoencoder_parameters() == []


def test_without_regularisers_the_state_has_the_names_that_it_always_had():
    _, criterion, _ = setting({}, alignment=VFAlignment())
    assert list(criterion.state_dict()) == ["alignment.linear_proj.weight"]


def test_adamw_warms_up_and_then_stays():
    config = AdamWConfig(learning_rate=0.4, warmup_steps=4)
    assert [config.learning_rate_at(step) for step in (0, 1, 3, 99)] == [0.1, 0.2, 0.4, 0.4]
    assert math.isclose(AdamWConfig(learning_rate=0.4).learning_rate_at(0), 0.4)
    with pytest.raises(ValueError, match="`learning_rate` must be positive"):
        AdamWConfig(learning_rate=0.0)
