import pickle

import pytest
import torch

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.checkpoint import (
    export_generator,
    export_tokenizer,
    load_strictly,
    load_tokenizer,
    read_checkpoint,
    read_generator,
)
from models.latent import LatentLayout
from models.lightningdit import LightningDiT, LightningDiTConfig


def tokenizer(seed, latent_dim=4) -> Autoencoder:
    torch.manual_seed(seed)
    config = AutoencoderConfig(base_width=4, width_multipliers=(1, 2), num_blocks=1, norm_groups=2)
    return Autoencoder(config, latent_dim=latent_dim, resolution=32)


def generator(seed, channels=4) -> LightningDiT:
    torch.manual_seed(seed)
    layout = LatentLayout.single(channels, 4, 4)
    return LightningDiT(LightningDiTConfig(size="pico"), layout=layout, num_classes=10)


def assert_equal_bits(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "safetensors"])
def test_tokenizer_survives_export_and_load(tmp_path, suffix):
    original, copy = tokenizer(0), tokenizer(1)
    export_tokenizer(original, tmp_path / f"vae.{suffix}")
    load_tokenizer(copy, tmp_path / f"vae.{suffix}")
    assert_equal_bits(original, copy)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_generator_survives_export_and_load(tmp_path, suffix):
    original, averaged, copy = generator(0), generator(1), generator(2)
    export_generator(original, tmp_path / f"dit.{suffix}", ema=averaged)
    load_strictly(copy, read_generator(tmp_path / f"dit.{suffix}"), source="the file")
    assert_equal_bits(averaged, copy)


def test_exported_generator_has_the_official_layout(tmp_path):
    original, copy = generator(0), generator(1)
    export_generator(original, tmp_path / "dit.pt")
    content = read_checkpoint(tmp_path / "dit.pt")
    assert all(name.startswith("module.") for name in content["model"])
    assert set(content["ema"]) == set(original.state_dict())
    load_strictly(copy, read_generator(tmp_path / "dit.pt", weights="model"), source="the file")
    assert_equal_bits(original, copy)


def test_training_entries_of_a_tokenizer_are_dropped(tmp_path):
    original, copy = tokenizer(0), tokenizer(1)
    extras = {"loss.logvar": torch.zeros(()), "linear_proj.weight": torch.zeros(2, 4, 1, 1)}
    state = original.state_dict() | extras | {"foundation_model.model.x": torch.zeros(1)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "official.ckpt")
    load_tokenizer(copy, tmp_path / "official.ckpt")
    assert_equal_bits(original, copy)


def test_every_misfit_is_listed(tmp_path):
    state = tokenizer(0, latent_dim=8).state_dict()
    del state["encoder.conv_in.bias"]
    torch.save(state | {"encoder.extra": torch.zeros(1)}, tmp_path / "vae.pt")
    with pytest.raises(ValueError, match=r"missing: encoder\.conv_in\.bias") as failure:
        load_tokenizer(tokenizer(0), tmp_path / "vae.pt")
    assert "foreign: encoder.extra" in str(failure.value)
    assert "quant_conv.weight (16, 16, 1, 1) for (8, 8, 1, 1)" in str(failure.value)


def test_files_with_foreign_objects_are_refused(tmp_path):
    path = tmp_path / "objects.pt"
    torch.save({"state_dict": pickle.Pickler}, path)
    with pytest.raises(ValueError, match="tensors and plain values only"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="must be a file"):
        read_checkpoint(tmp_path / "absent.pt")
