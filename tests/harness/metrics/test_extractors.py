"""Feature networks: in-domain encoders, and Inception with its weights file."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inception
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from harness.data.pixel_range import to_model_range
from harness.machine.float32 import exact_float32
from harness.metrics import extractors
from harness.metrics.extractors import (
    EncoderExtractor,
    ExtractionConfig,
    InceptionConfig,
    InceptionExtractor,
    file_sha256,
)
from harness.metrics.inception_network import resize_as_tensorflow
from models.foundation import EncoderOutputs, FeatureEncoder, TimmEncoderConfig


class _Encoder(nn.Module):
    def outputs(self, images: Tensor) -> EncoderOutputs:
        pooled = images.mean(dim=(2, 3)).double()
        dense = images.repeat(1, 3, 1, 1)[:, :, ::8, ::8]
        return EncoderOutputs(pooled=pooled, dense=dense, logits=-pooled[:, :2])


@pytest.fixture
def images() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 16, 16), generator=random, dtype=torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of torch-fidelity's file, built without fetching it."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = inception.FeatureExtractorInceptionV3("random", ["2048"])
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def config(weights: Path) -> InceptionConfig:
    return InceptionConfig(weights=str(weights), sha256=file_sha256(weights)[:12])


def _tiny(**settings: Any) -> EncoderExtractor:
    return EncoderExtractor(
        _Encoder().outputs, name="tiny", identity="key", feature_dim=3, **settings
    )


def test_an_encoder_sees_the_model_range_and_gives_float32(images):
    extractor, expected = _tiny(), to_model_range(images).mean(dim=(2, 3))
    found = extractor.extract(images)
    torch.testing.assert_close(found.features, expected)
    torch.testing.assert_close(found.logits, -expected[:, :2])
    assert torch.equal(extractor.features(images), found.features)
    assert (extractor.name, extractor.identity, extractor.feature_dim) == ("tiny", "key", 3)


def test_spatial_features_are_seven_channels_in_the_order_row_column_channel(images):
    (spatial,) = (_tiny().extract(images).spatial,)
    grid = to_model_range(images).repeat(1, 3, 1, 1)[:, :7, ::8, ::8]
    assert spatial is not None
    assert torch.equal(spatial.view(2, 2, 2, 7)[1, 0, 1], grid[1, :, 0, 1])


def test_scores_of_other_classes_are_marked():
    assert _tiny().classifies_labels
    assert not _tiny(has_logits=False).classifies_labels


def test_a_network_of_this_project_is_read_in_one_pass(images):
    encoder = FeatureEncoder(
        TimmEncoderConfig(
            name="resnet10t", weights="random", input_size=64, model_args={"num_classes": 10}
        )
    )
    config = {"name": "r", "identity": "k", "feature_dim": 512}
    found = EncoderExtractor(encoder.outputs, **config).extract(images.repeat(1, 1, 4, 4))
    assert found.features.shape == (2, 512)
    assert found.spatial is not None
    assert found.spatial.shape == (2, 2 * 2 * 7)
    low = ExtractionConfig(precision="bfloat16")
    rough = EncoderExtractor(encoder.outputs, **config, extraction=low).extract(
        images.repeat(1, 1, 4, 4)
    )
    assert rough.features.dtype == torch.float32
    assert not torch.equal(rough.features, found.features)
    torch.testing.assert_close(rough.features, found.features, rtol=0.1, atol=0.05)


def test_tensorfloat32_is_off_during_extraction_and_as_before_after_it(images, monkeypatch):
    def settings() -> tuple[bool, bool, str]:
        products = bool(torch.backends.cuda.matmul.allow_tf32)
        return torch.backends.cudnn.allow_tf32, products, torch.get_float32_matmul_precision()

    seen, encoder = [], _Encoder()
    outputs = encoder.outputs
    monkeypatch.setattr(encoder, "outputs", lambda x: (seen.append(settings()), outputs(x))[1])
    extractor = EncoderExtractor(encoder.outputs, name="tiny", identity="key", feature_dim=3)
    with exact_float32():
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")
        extractor.extract(images)
        assert settings() == (True, True, "medium")
    assert seen == [(False, False, "highest")]


def test_a_compiled_network_sees_one_batch_size(images, monkeypatch):
    seen = []

    def compiled(function: Any, *, dynamic: bool) -> Any:
        assert not dynamic
        return lambda batch: (seen.append(len(batch)), function(batch))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    extractor = _tiny(extraction=ExtractionConfig(compile=True))
    batches = images.repeat(3, 1, 1, 1).split(4)
    features = torch.cat([extractor.features(batch) for batch in batches])
    assert seen == [4, 4]
    assert torch.equal(features, _tiny().features(images.repeat(3, 1, 1, 1)))


def test_inception_gives_torch_fidelitys_features_and_scores(images, weights, config):
    checkpoint = weights.with_suffix(".pth")
    torch.save(load_file(weights), checkpoint)
    outputs = ["2048", "logits_unbiased"]
    network = inception.FeatureExtractorInceptionV3("r", outputs, str(checkpoint))
    inner = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: inner.append(call[2]))
    features, logits = network(images)
    extractor = InceptionExtractor(config)
    found = extractor.extract(images)
    torch.testing.assert_close(found.features, features, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-6)
    spatial = inner[0][:, :7].permute(0, 2, 3, 1).reshape(2, 2023)
    torch.testing.assert_close(found.spatial, spatial, rtol=1e-4, atol=1e-6)
    assert extractor.identity == file_sha256(weights)
    assert extractor.feature_dim == features.shape[1]
    assert not extractor.classifies_labels


def test_inception_gives_the_same_whatever_the_batch(images, config):
    extractor = InceptionExtractor(config)
    many = images.repeat(9, 1, 1, 1)
    torch.testing.assert_close(
        extractor.features(many), extractor.features(images).repeat(9, 1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(7, 9), (40, 31)])
def test_the_resize_is_torch_fidelitys_to_the_bit(shape):
    images = torch.randint(0, 256, (1, 3, *shape), generator=torch.Generator().manual_seed(0))
    expected = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(299, 299), align_corners=False
    )
    assert torch.equal(resize_as_tensorflow(images.float(), 299), expected)


def test_weights_with_another_hash_are_refused(config):
    with pytest.raises(ValueError, match="must begin with 00000000"):
        InceptionExtractor(dataclasses.replace(config, sha256="00000000"))


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="Inception-v3 tensors"):
        InceptionExtractor(InceptionConfig(weights=str(path), sha256=file_sha256(path)))


def test_a_pickled_object_is_never_loaded(tmp_path):
    path = tmp_path / "unsafe.pth"
    torch.save({"weight": Path("unsafe")}, path)
    with pytest.raises(ValueError, match="tensors and plain values only"):
        InceptionExtractor(InceptionConfig(weights=str(path), sha256=file_sha256(path)))


def test_absent_weights_are_named_with_the_way_to_give_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (item,) = InceptionConfig().missing()
    assert item.location.startswith(str(tmp_path))
    assert "download" in item.remedy
    (named,) = InceptionConfig(weights=str(tmp_path / "w.pth")).missing()
    assert named.location == str(tmp_path / "w.pth")
    assert item.fetch is not None
    assert named.fetch is None
    with pytest.raises(ValueError, match="download"):
        InceptionExtractor(InceptionConfig())


def test_weights_are_fetched_to_their_place_if_their_hash_is_right(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(extractors, "_DEFAULT_ADDRESS", weights.as_uri())
    good, bad = InceptionConfig(sha256=file_sha256(weights)[:12]), InceptionConfig()
    with pytest.raises(ValueError, match="must begin with 6726825d"):
        bad.fetch()
    assert not good.path.exists()
    good.fetch()
    assert good.missing() == []
    assert file_sha256(good.path) == file_sha256(weights)


def test_weights_at_hand_are_not_missing(config):
    assert config.missing() == []


@pytest.mark.parametrize("bad", [{"sha256": "abc"}, {"sha256": "X" * 64}, {"weights": ""}])
def test_a_configuration_that_cannot_be_right_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        InceptionConfig(**bad)
