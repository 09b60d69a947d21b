"""Feature networks: in-domain encoders, and Inception with its weights file."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inception
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.data.pixel_range import to_model_range
from harness.metrics.extractors import (
    EncoderExtractor,
    InceptionConfig,
    InceptionExtractor,
    file_sha256,
)


class _Encoder(nn.Module):
    def pooled(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)).double()

    def logits(self, images: Tensor) -> Tensor:
        return -self.pooled(images)[:, :2]


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


def test_an_encoder_sees_the_model_range_and_gives_float32(images):
    extractor = EncoderExtractor(_Encoder(), name="tiny", identity="key", feature_dim=3)
    expected = to_model_range(images).mean(dim=(2, 3))
    torch.testing.assert_close(extractor.features(images), expected)
    torch.testing.assert_close(extractor.logits(images), -expected[:, :2])
    assert (extractor.name, extractor.identity, extractor.feature_dim) == ("tiny", "key", 3)


def test_an_encoder_of_other_classes_gives_no_logits(images):
    extractor = EncoderExtractor(
        _Encoder(), name="tiny", identity="key", feature_dim=3, has_logits=False
    )
    assert extractor.logits(images) is None


def test_inception_gives_torch_fidelitys_features(images, weights, config):
    extractor = InceptionExtractor(config)
    checkpoint = weights.with_suffix(".pth")
    torch.save(extractor._network.state_dict(), checkpoint)
    reference = inception.FeatureExtractorInceptionV3("r", ["2048"], str(checkpoint))(images)[0]
    features = extractor.features(images)
    assert features.shape == (2, extractor.feature_dim)
    assert torch.equal(features, reference)
    assert extractor.identity == file_sha256(weights)
    assert extractor.logits(images) is None


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
    with pytest.raises(ValueError, match="tensors and nothing else"):
        InceptionExtractor(InceptionConfig(weights=str(path), sha256=file_sha256(path)))


def test_absent_weights_are_named_with_the_way_to_give_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (item,) = InceptionConfig().missing()
    assert item.location.startswith(str(tmp_path))
    assert "download" in item.remedy
    (named,) = InceptionConfig(weights=str(tmp_path / "w.pth")).missing()
    assert named.location == str(tmp_path / "w.pth")
    with pytest.raises(ValueError, match="download"):
        InceptionExtractor(InceptionConfig())


def test_weights_at_hand_are_not_missing(config):
    assert config.missing() == []


@pytest.mark.parametrize("bad", [{"sha256": "abc"}, {"sha256": "X" * 64}, {"weights": ""}])
def test_a_configuration_that_cannot_be_right_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        InceptionConfig(**bad)
