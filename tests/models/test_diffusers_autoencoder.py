"""Pretrained autoencoders: the outputs of diffusers, under this program's interface."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.diffusers_autoencoder import (
    DiffusersAutoencoder,
    build_diffusers_autoencoder,
    check_geometry,
    load_diffusers_autoencoder,
    own_scaling,
    read_network_config,
    weight_files,
)
from models.posterior import PointPosterior

diffusers = pytest.importorskip("diffusers", reason="the optional package diffusers is absent")

KL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
DC: dict[str, Any] = {
    "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16),
    "decoder_block_out_channels": (8, 16),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), (5,)),
    "decoder_qkv_multiscales": ((), (5,)),
    "attention_head_dim": 8,
    "latent_channels": 4,
    "scaling_factor": 0.5,
}
ASYMMETRIC: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "down_block_out_channels": (8, 16),
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "up_block_out_channels": (8, 16),
    "norm_num_groups": 4,
}
TINY: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}
VQ: dict[str, Any] = {**KL, "num_vq_embeddings": 16, "latent_channels": 4}
SETTINGS = {
    "AutoencoderKL": KL,
    "AutoencoderDC": DC,
    "AsymmetricAutoencoderKL": ASYMMETRIC,
    "AutoencoderTiny": TINY,
    "VQModel": VQ,
}

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a random autoencoder as diffusers does."""

    def save_random(name: str = "AutoencoderKL", **changes: Any) -> Path:
        torch.manual_seed(0)
        network = getattr(diffusers, name)(**{**SETTINGS[name], **changes})
        network.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save_random


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def test_a_gaussian_encoder_and_its_decoder_agree_with_diffusers(save, images):
    folder = save("AutoencoderKL")
    model = load_diffusers_autoencoder(folder)
    network = diffusers.AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    expected = network.encode(images).latent_dist
    posterior = model.encode(images)
    assert torch.equal(posterior.mode(), expected.mode())
    noise = torch.randn(expected.mean.shape, generator=torch.Generator().manual_seed(2))
    drawn = expected.sample(torch.Generator().manual_seed(2))
    torch.testing.assert_close(posterior.sample(noise), drawn)
    assert torch.equal(model.decode(drawn), network.decode(drawn).sample)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "field"),
    [("AutoencoderDC", "latent"), ("AutoencoderTiny", "latents"), ("VQModel", "latents")],
)
def test_a_deterministic_encoder_agrees_with_diffusers_and_ignores_noise(save, images, name, field):
    folder = save(name)
    model = load_diffusers_autoencoder(folder)
    network = getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False)
    expected = getattr(network.encode(images), field)
    posterior = model.encode(images)
    assert isinstance(posterior, PointPosterior)
    assert torch.equal(posterior.mode(), expected)
    assert torch.equal(posterior.sample(torch.randn_like(expected)), expected)
    assert torch.equal(model.decode(expected), network.decode(expected).sample)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_is_rebuilt_from_its_configuration_and_tensors(save, images, name):
    model = load_diffusers_autoencoder(save(name)).eval()
    rebuilt = build_diffusers_autoencoder(json.loads(json.dumps(model.network_config))).eval()
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        first, second = (m.decode(m.encode(images).mode()) for m in (model, rebuilt))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    check_geometry(model, latent_dim=4, downsample=2)


@torch.no_grad()
def test_bfloat16_is_an_arithmetic_and_results_stay_float32(save, images):
    folder = save()
    exact, rounded = (load_diffusers_autoencoder(folder, precision=p) for p in ("fp32", "bf16"))
    latents = exact.encode(images).mode()
    assert rounded.encode(images).mode().dtype == rounded.decode(latents).dtype == torch.float32
    assert not torch.equal(rounded.encode(images).mode(), latents)
    torch.testing.assert_close(rounded.encode(images).mode(), latents, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("declared", "mean", "std"),
    [
        ({}, [0.0] * 4, [1 / 0.18215] * 4),
        ({"scaling_factor": 0.25, "shift_factor": 0.5}, [0.5] * 4, [4.0] * 4),
        (
            {"scaling_factor": 0.5, "latents_mean": [1, 2, 3, 4], "latents_std": [1, 1, 2, 2]},
            [1.0, 2.0, 3.0, 4.0],
            [2.0, 2.0, 4.0, 4.0],
        ),
        ({"scaling_factor": 1.0, "shift_factor": None}, [0.0] * 4, [1.0] * 4),
    ],
)
def test_the_own_scaling_is_that_of_diffusers_pipelines(save, declared, mean, std):
    model = load_diffusers_autoencoder(save(**declared))
    found = own_scaling(model, 4)
    assert found is not None
    assert found[0] == mean
    assert found[1] == pytest.approx(std)


def test_normalising_by_the_own_scaling_is_undone(save, images):
    model = load_diffusers_autoencoder(save(scaling_factor=0.36, shift_factor=0.11))
    latents = model.encode(images).mode()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in own_scaling(model, 4) or ())
    normalised = (latents - mean) / std
    torch.testing.assert_close(normalised, (latents - 0.11) * 0.36)
    torch.testing.assert_close(normalised * std + mean, latents)


def test_an_absent_scaling_is_none_and_a_wrong_one_refused(save):
    folder = save()
    change_config(folder, scaling_factor=None)
    assert own_scaling(load_diffusers_autoencoder(folder), 4) is None
    change_config(folder, scaling_factor=-1.0)
    with pytest.raises(ValueError, match="must be positive"):
        own_scaling(load_diffusers_autoencoder(folder), 4)
    change_config(folder, scaling_factor=1.0, latents_mean=[0.0], latents_std=[1.0])
    with pytest.raises(ValueError, match=r"one a channel \(4\)"):
        own_scaling(load_diffusers_autoencoder(folder), 4)


def test_names_of_early_versions_load(save):
    """Stable Diffusion's released autoencoders name their attention as diffusers once did."""
    folder = save()
    file = folder / "diffusion_pytorch_model.safetensors"
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    now, then = load_file(file), {}
    for name, tensor in now.items():
        for new, old in renamed.items():
            name = name.replace(f".{new}.", f".{old}.")
        then[name] = tensor
    assert set(now) != set(then)
    save_file(then, file)
    loaded = load_diffusers_autoencoder(folder).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in now.items())


def test_torch_files_and_shards_load_too(save):
    folder = save()
    whole = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert weight_files(folder) == ()
    torch.save(whole, folder / "diffusion_pytorch_model.bin")
    assert [file.suffix for file in weight_files(folder)] == [".bin"]
    loaded = load_diffusers_autoencoder(folder).network
    loaded.save_pretrained(folder, max_shard_size="8KB")
    shards = weight_files(folder)
    assert shards[0].name == "diffusion_pytorch_model.safetensors.index.json"
    assert len(shards) > 2
    again = load_diffusers_autoencoder(folder).network.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    shards[-1].unlink()
    assert weight_files(folder) == ()
    shards[0].write_text("[]")
    assert weight_files(folder) == ()


@pytest.mark.parametrize(("field", "value"), [("latent_dim", 8), ("downsample", 4)])
def test_a_wrong_declaration_is_refused_with_the_right_one(save, field, value):
    model = load_diffusers_autoencoder(save())
    right = {"latent_dim": 4, "downsample": 2}
    with pytest.raises(ValueError, match=rf"`{field}` must be .* {right[field]}, but got {value}"):
        check_geometry(model, **{**right, field: value})


def test_images_of_other_channels_are_refused(save):
    model = load_diffusers_autoencoder(save(in_channels=4, out_channels=4))
    with pytest.raises(ValueError, match="3 channels, but this one takes 4"):
        check_geometry(model, latent_dim=4, downsample=2)


def test_weights_of_another_network_are_refused(save):
    folder = save()
    change_config(folder, block_out_channels=[8, 24])
    with pytest.raises(ValueError, match=r"must fit its config\.json exactly"):
        load_diffusers_autoencoder(folder)
    change_config(folder, block_out_channels=[8, 16], layers_per_block=2)
    with pytest.raises(ValueError, match="missing_keys"):
        load_diffusers_autoencoder(folder)


def test_classes_that_are_not_offered_or_not_the_files_are_refused(save):
    folder = save()
    with pytest.raises(ValueError, match="but got AutoencoderDC for AutoencoderKL"):
        read_network_config(folder, "AutoencoderDC")
    change_config(folder, _class_name="UNet2DModel")
    with pytest.raises(ValueError, match=r"one of AutoencoderKL, .* but got UNet2DModel"):
        load_diffusers_autoencoder(folder)
    change_config(folder, _class_name=None)
    assert read_network_config(folder, "AutoencoderKL")["_class_name"] == "AutoencoderKL"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_configuration_is_refused(save, text):
    folder = save()
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="fetch it again"):
        read_network_config(folder)


def test_a_configuration_that_builds_nothing_is_refused():
    config = {"_class_name": "AutoencoderKL", "norm_num_groups": 7}
    with pytest.raises(ValueError, match="cannot be built"):
        build_diffusers_autoencoder(config)


def test_an_absent_package_is_named_with_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match="pip install diffusers"):
        build_diffusers_autoencoder({"_class_name": "AutoencoderKL"})


def test_the_wrapper_adds_no_tensor_of_its_own(save):
    model = load_diffusers_autoencoder(save())
    assert isinstance(model, DiffusersAutoencoder)
    assert set(model.state_dict()) == {f"network.{name}" for name in model.network.state_dict()}


@pytest.mark.parametrize("shards", [False, True])
def test_files_of_a_variant_load_by_its_name(save, shards):
    folder = save()
    network = load_diffusers_autoencoder(folder).network
    whole = network.state_dict()
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    size = {"max_shard_size": "8KB"} if shards else {}
    network.save_pretrained(folder, variant="fp16", **size)
    assert weight_files(folder) == ()
    assert len(weight_files(folder, "fp16")) > shards
    again = load_diffusers_autoencoder(folder, variant="fp16").network.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_means_and_deviations_may_have_the_axes_of_the_latent(save):
    folder = save()
    nested = {"latents_mean": [[[[0.0]], [[1.0]], [[2.0]], [[3.0]]]], "latents_std": [[2.0] * 4]}
    change_config(folder, scaling_factor=1.0, **nested)
    assert own_scaling(load_diffusers_autoencoder(folder), 4) == ([0.0, 1.0, 2.0, 3.0], [2.0] * 4)
    change_config(folder, scaling_factor=1.0, latents_mean="x", latents_std=[{}])
    with pytest.raises(ValueError, match=r"one a channel \(4\)"):
        own_scaling(load_diffusers_autoencoder(folder), 4)


def test_a_cut_file_or_a_pointer_in_its_place_is_worded(save):
    folder = save()
    file = folder / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for content in (
        whole[:100],
        whole[:-9],
        b"version https://git-lfs.github.com/spec/v1\noid x\n",
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"must fit its config\.json exactly, but .*from one"):
            load_diffusers_autoencoder(folder)
