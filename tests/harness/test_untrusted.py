"""Files from elsewhere are data: none of them runs code, wherever its path can be written; and no
name from a file leads out of its folder or into a shell."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.image_sets import NpzImages, open_image_set
from harness.data.latents.folder import _read_statistics as read_latent_statistics
from harness.data.sample_archive import SampleArchive
from harness.metrics.inception_network import _load_layers as read_inception
from harness.metrics.statistics_files import read_statistics
from harness.schema.reading import ConfigError, parse_yaml
from models.checkpoint import read_checkpoint
from models.diffusers_autoencoder import load_diffusers_autoencoder
from models.foundation import FeatureEncoder, TimmEncoderConfig
from models.perceptual import LPIPSConfig, build_lpips


class Attack:
    """Unpickled, it leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def into_timm(path: Path) -> None:
    FeatureEncoder(TimmEncoderConfig(name="test_vit", weights=str(path)))


def into_lpips(path: Path) -> None:
    build_lpips(LPIPSConfig(backbone_weights=str(path)))


def into_lpips_heads(path: Path) -> None:
    build_lpips(LPIPSConfig(backbone_weights=str(path), head_weights=str(path)))


def into_diffusers(path: Path) -> None:
    folder = path.with_suffix("")
    folder.mkdir()
    path.rename(folder / "diffusion_pytorch_model.bin")
    described = {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [32]}
    (folder / "config.json").write_text(json.dumps(described))
    load_diffusers_autoencoder(folder)


TORCH_FILES: dict[str, Callable[[Path], object]] = {
    "tokenizer.checkpoint, generator.checkpoint": read_checkpoint,
    "evaluation.extractor.weights": read_inception,
    "tokenizer.alignment.encoder.weights": into_timm,
    "backbone_weights": into_lpips,
    "head_weights": into_lpips_heads,
    "evaluation.reference.path": read_statistics,
    "latents folder": lambda path: read_latent_statistics(path, 4),
    "tokenizer.source": into_diffusers,
}


@pytest.mark.parametrize("entry", TORCH_FILES)
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_no_torch_file_runs_code(tmp_path, entry, form):
    marker, path = tmp_path / "attacked", tmp_path / "weights.pt"
    content = {"state_dict": Attack(marker), "mean": Attack(marker), "mu": Attack(marker)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises((ValueError, OSError)):
        TORCH_FILES[entry](path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "read",
    [
        read_statistics,
        lambda path: SampleArchive(path).array("arr_0"),
        lambda path: open_image_set(NpzImages(path=str(path))),
    ],
    ids=["evaluation.reference.path", "samples", "images"],
)
def test_no_archive_of_objects_is_unpickled(tmp_path, read):
    marker, path = tmp_path / "attacked", tmp_path / "samples.npz"
    objects = np.array([Attack(marker)], dtype=object)
    np.savez(path, arr_0=objects, mu=objects, sigma=objects)
    with pytest.raises(ValueError):
        read(path).images(np.arange(1))
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch attacked']",
        "name: !!python/object/new:os.system ['touch attacked']",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_yaml_tags_make_no_objects(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(text)
    assert not Path("attacked").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "a/b", "..", ".hidden", "a b", "$(touch x)"])
def test_a_sweeps_name_stays_in_the_results_folder(load, tree, name):
    tree["name"] = name
    with pytest.raises(ConfigError, match="it names a folder"):
        load()


def test_names_in_a_sweep_reach_no_path_and_no_shell(command, write, tree, tmp_path):
    nasty = "../../out; touch $(pwd)/attacked `touch attacked`"
    tree["presets"] = {nasty: {nasty: {"tokenizer.alignment": {"kind": "none"}}}}
    tree["grid"] = {nasty: [nasty]}
    tree["description"] = nasty
    before = {path for path in tmp_path.rglob("*") if path.is_dir()}
    assert command(write(tree)).code == 0
    outside = {path for path in tmp_path.rglob("*") if "here" not in path.parts} - before
    assert {path.name for path in outside} <= {"sweep.yaml"}
    assert not list(tmp_path.rglob("attacked*"))
    assert not list(tmp_path.rglob("out*"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"name": "hf-hub:somebody/net"}, "must be one of timm's own networks"),
    ({"name": "local-dir:/tmp/net"}, "must be one of timm's own networks"),
    ({"model_args": {"checkpoint_path": "evil.pt"}}, "'checkpoint_path' says where timm finds"),
    ({"model_args": {"pretrained": True}}, "'pretrained' says where timm finds"),
    ({"model_args": {"pretrained_cfg": "x"}}, "'pretrained_cfg' says where timm finds"),
    ({"model_args": {"weights_file": "./evil.pt"}}, "texts in `model_args` must be names"),
])  # fmt: skip
def test_an_encoder_opens_no_file_and_no_hub_but_its_weights(changes, message):
    with pytest.raises(ValueError, match=message):
        TimmEncoderConfig(**{"name": "test_vit", "weights": "random", **changes})


def test_timm_never_reads_the_file_of_weights(tmp_path, monkeypatch):
    """Some versions that are allowed unpickle what they read."""
    import timm.models._builder

    original = FeatureEncoder(TimmEncoderConfig(name="test_vit", weights="random"))
    path = tmp_path / "weights.pt"
    torch.save({"model": original.model.state_dict()}, path)
    monkeypatch.delattr(timm.models._builder, "load_state_dict")
    copy = FeatureEncoder(TimmEncoderConfig(name="test_vit", weights=str(path)))
    for name, value in original.model.state_dict().items():
        assert torch.equal(copy.model.state_dict()[name], value)
    assert "state_dict" not in copy.model.pretrained_cfg
