"""Habits of the published code that a re-implementation loses easily, and no fixture shows."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from models.alignment import NoAlignment
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.foundation import FeatureEncoder, TimmEncoderConfig
from models.latent import LatentLayout
from models.lightningdit_blocks import Attention, RMSNorm, RotaryEmbedding
from models.objectives.flow import FlowConfig, interpolate, sample_time
from models.perceptual import LPIPS, LPIPSConfig, untrained_backbone
from models.positions import rotary_angles, rotate
from models.posterior import Posterior
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig

SHAPE = AutoencoderConfig(
    base_width=8, width_multipliers=(1, 2), num_blocks=1, attention_resolutions=(16,), norm_groups=4
)


def test_the_perceptual_term_counts_for_every_pixel_value():
    torch.manual_seed(0)
    loss = TokenizerLoss(TokenizerLossConfig(), NoAlignment(), latent_dim=4)
    heads = [torch.rand(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]
    loss.perceptual = LPIPS(untrained_backbone(), heads)
    loss.config = dataclasses.replace(loss.config, perceptual=LPIPSConfig())
    images, noise = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 16, 16)
    autoencoder = Autoencoder(SHAPE, latent_dim=4, resolution=32)
    outcome = loss.autoencoder_loss(autoencoder, images, noise, None, 0)
    distance = loss.perceptual(images, outcome.reconstruction).mean().detach()
    torch.testing.assert_close(outcome.terms["perceptual"], 3 * 32 * 32 * distance)


@pytest.mark.parametrize(
    ("name", "side"),
    [("vit_large_patch14_dinov2.lvd142m", 224), ("vit_large_patch16_224.mae", 256)],
)
def test_foundation_models_see_the_published_pixels(name, side):
    config = TimmEncoderConfig(name=name, weights="random", model_args={"depth": 1})
    encoder = FeatureEncoder(config)
    assert (encoder.feature_dim, 16 * encoder.stride) == (1024, side)
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = functional.interpolate(images, (side, side), mode="bilinear", antialias=False)
    assert torch.equal(encoder.prepare(images, (side, side)), expected)


def test_a_norm_in_bfloat16_is_cast_before_it_is_scaled():
    torch.manual_seed(0)
    norm, x = RMSNorm(64), torch.randn(3, 64).bfloat16()
    torch.nn.init.normal_(norm.weight)
    wide = x.float()
    unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(norm(x), unit.bfloat16() * norm.weight)


def test_attention_in_bfloat16_rotates_in_float32_and_needs_no_autocast():
    torch.manual_seed(0)
    attention, rope = Attention(16, 2, qk_norm=False), RotaryEmbedding(2, 2, 8)
    x = torch.randn(3, 4, 16)
    with torch.no_grad():
        exact = attention(x, rope)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = attention(x, rope)
        pure = attention.bfloat16()(x.bfloat16(), rope)
    for rounded in (mixed, pure):
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [8, 12, 64])
def test_without_gradients_queries_are_rotated_to_the_same_bits(dtype, head_dim):
    angles = rotary_angles(3, 4, head_dim)
    qkv = torch.randn(2, 12, 3, 3, head_dim).to(dtype)
    for query in (qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].contiguous().transpose(1, 2)):
        before = query.clone()
        expected = rotate(query, angles.cos(), angles.sin())
        with torch.no_grad():
            assert torch.equal(rotate(query, angles.cos(), angles.sin()), expected)
        assert torch.equal(query, before)


def test_times_and_noisy_latents_stay_in_float32():
    layout = LatentLayout.single(2, 1, 1)
    time = sample_time(FlowConfig(), 4, 1, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        noisy = interpolate(torch.ones(4, 2, 1, 1), torch.zeros(4, 2, 1, 1), time, layout)
    assert time.dtype == noisy.dtype == torch.float32
    assert torch.equal(noisy[:, 0, 0, 0], time[:, 0])


def test_moments_are_split_in_float32():
    posterior = Posterior.from_moments(torch.ones(1, 2, 1, 1, dtype=torch.bfloat16))
    assert posterior.mean.dtype == posterior.log_variance.dtype == torch.float32


def test_channels_last_moves_rounding_only():
    torch.manual_seed(0)
    plain = Autoencoder(SHAPE, latent_dim=4, resolution=32).double()
    last = Autoencoder(SHAPE, latent_dim=4, resolution=32).double()
    last.load_state_dict(plain.state_dict())
    last = last.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32).double()
    with torch.no_grad():
        moments = plain.encoder(images), last.encoder(images)
        left, right = plain.decode(moments[0][:, :4]), last.decode(moments[1][:, :4])
    torch.testing.assert_close(moments[0], moments[1])
    torch.testing.assert_close(left, right)
