from typing import Any

import pytest
import torch

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.autoencoder_blocks import Downsample
from models.parameters import num_parameters
from models.posterior import Posterior

SMALL = AutoencoderConfig(
    base_width=8, width_multipliers=(1, 2), num_blocks=1, attention_resolutions=(8,), norm_groups=4
)


@pytest.mark.parametrize(
    ("latent_dim", "total"), [(16, 69_610_963), (32, 69_836_067), (64, 70_293_955)]
)
def test_published_autoencoders_have_the_published_parameter_counts(latent_dim, total):
    with torch.device("meta"):
        autoencoder = Autoencoder(AutoencoderConfig(), latent_dim=latent_dim, resolution=256)
    assert num_parameters(autoencoder) == total


def test_state_dict_has_the_published_names_and_shapes():
    with torch.device("meta"):
        tensors = Autoencoder(AutoencoderConfig(), latent_dim=32, resolution=256).state_dict()
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert len(shapes) == 342
    assert shapes["encoder.down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["encoder.down.3.downsample.conv.weight"] == (256, 256, 3, 3)
    assert shapes["encoder.conv_out.weight"] == (64, 512, 3, 3)
    assert shapes["decoder.up.1.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert shapes["decoder.up.4.attn.2.proj_out.bias"] == (512,)
    assert shapes["decoder.up.4.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["quant_conv.weight"] == (64, 64, 1, 1)


def test_downsampling_pads_right_and_bottom_only():
    layer = Downsample(1)
    torch.nn.init.zeros_(layer.conv.weight)
    layer.conv.weight.data[0, 0, 0, 0] = 1.0
    assert layer.conv.bias is not None
    torch.nn.init.zeros_(layer.conv.bias)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(layer(x), x[..., ::2, ::2])


def test_network_runs_on_sizes_it_was_not_built_for():
    autoencoder = Autoencoder(SMALL, latent_dim=4, resolution=16)
    posterior = autoencoder.encode(torch.zeros(1, 3, 24, 12))
    assert posterior.mode().shape == (1, 4, 12, 6)
    assert autoencoder.decode(posterior.mode()).shape == (1, 3, 24, 12)


def test_posterior_clamps_and_its_kl_has_the_closed_form():
    moments = torch.tensor([2.0, 100.0])[None, :, None, None]
    assert Posterior.from_moments(moments).log_variance.item() == 20.0
    unit = Posterior(mean=torch.full((3, 2, 4, 4), 2.0), log_variance=torch.zeros(3, 2, 4, 4))
    assert unit.kl().tolist() == [64.0] * 3
    assert torch.equal(unit.sample(torch.ones(3, 2, 4, 4)), torch.full((3, 2, 4, 4), 3.0))


def test_misfitting_sizes_are_refused():
    with pytest.raises(ValueError, match="norm_groups"):
        AutoencoderConfig(base_width=24)
    with pytest.raises(ValueError, match="divisible by the downsampling"):
        Autoencoder(SMALL, latent_dim=4, resolution=16).encode(torch.zeros(1, 3, 15, 16))


def attentions(levels: Any) -> list[int]:
    return [len(level.attn) for level in levels]


def test_attention_of_an_odd_grid_stands_where_the_published_levels_have_it():
    config = AutoencoderConfig(
        base_width=4, width_multipliers=(1, 1, 1), num_blocks=1, norm_groups=2,
        attention_resolutions=(9, 16),
    )  # fmt: skip
    network = Autoencoder(config, latent_dim=2, resolution=36)
    # Downwards 36, 18, 9 and upwards 9, 18, 36.
    assert attentions(network.encoder.down) == [0, 0, 1]
    assert attentions(network.decoder.up) == [0, 0, 2]
    odd = Autoencoder(config, latent_dim=2, resolution=19)
    # Downwards 19, 9, 4 and upwards 4, 8, 16.
    assert attentions(odd.encoder.down) == [0, 1, 0]
    assert attentions(odd.decoder.up) == [2, 0, 0]
