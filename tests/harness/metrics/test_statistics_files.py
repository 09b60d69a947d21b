"""Statistics that others made, read, checked and told apart."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness.data.image_sets import open_image_set
from harness.metrics.extractors import INCEPTION_NAME, INCEPTION_SHA256
from harness.metrics.frechet import FactoredGaussian, FeatureStatistics, frechet_distance
from harness.metrics.statistics_files import read_statistics, write_statistics

FEATURES = np.random.default_rng(0).normal(size=(50, 4)) + 3.0
MU, SIGMA = FEATURES.mean(axis=0), np.cov(FEATURES, rowvar=False)


def _statistics(features: np.ndarray = FEATURES) -> FeatureStatistics:
    wide = torch.from_numpy(features)
    return FeatureStatistics.empty(wide.shape[1]).update(wide)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reference.npz"


def test_adm_files_give_both_kinds_of_moments_and_their_images(path):
    images = np.random.default_rng(1).integers(0, 256, size=(3, 8, 8, 3), dtype=np.uint8)
    np.savez(path, images, mu=MU, sigma=SIGMA, mu_s=MU[:2], sigma_s=SIGMA[:2, :2])
    read = read_statistics(path)
    assert np.array_equal(read.mean, MU)
    assert np.array_equal(read.covariance, SIGMA)
    assert read.spatial_mean is not None
    assert np.array_equal(read.spatial_mean, MU[:2])
    assert read.num_samples is read.extractor is None
    assert read.images is not None
    pixels = open_image_set(read.images).images(np.arange(3))
    assert np.array_equal(pixels.permute(0, 2, 3, 1), images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pytorch_fid_files_give_the_moments(path, save):
    save(path, mu=MU, sigma=SIGMA)
    read = read_statistics(path)
    assert np.array_equal(read.covariance, SIGMA)
    assert read.images is read.spatial_mean is None


@pytest.mark.parametrize(
    ("name", "extractor"),
    [
        ("cifar-10-train-inception-v3-compat-stat-fid-2048", "inception-v3-compat"),
        ("set-clip-vit-l-14-336px-stat-fid-clip-image-feats", "clip-vit-l-14-336px"),
        ("set-dinov2-vit-l-14-stat-fid-dinov2", "dinov2-vit-l-14"),
        ("set-my-own-stat-fid-64", None),
        ("renamed", None),
    ],
)
def test_torch_fidelity_files_name_their_extractor(tmp_path, name, extractor):
    moments = {"mu": MU.astype(np.float32), "sigma": SIGMA}
    torch.save(moments, tmp_path / f"{name}.pt")
    read = read_statistics(tmp_path / f"{name}.pt")
    assert read.extractor == extractor
    assert read.mean.dtype == torch.float64
    assert np.array_equal(read.covariance, SIGMA)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self) -> Any:
            return (print, ("attacked",))

    torch.save({"mu": Attack(), "sigma": SIGMA}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="arrays and nothing else"):
        read_statistics(tmp_path / "a.pt")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ValueError, match="arrays and nothing else"):
        read_statistics(tmp_path / "b.npz")


def test_own_files_restore_moments_count_and_extractor(tmp_path):
    path = tmp_path / "deep" / "own.safetensors"
    statistics, spatial = _statistics(), _statistics(FEATURES[:, :2])
    write_statistics(path, statistics, extractor="net", extractor_identity="ab12", spatial=spatial)
    read = read_statistics(path)
    assert torch.equal(read.mean, statistics.compute()[0])
    assert torch.equal(read.covariance, statistics.compute()[1])
    assert read.spatial_covariance is not None
    assert torch.equal(read.spatial_covariance, spatial.compute()[1])
    assert (read.num_samples, read.extractor, read.extractor_identity) == (50, "net", "ab12")
    assert [p.name for p in path.parent.iterdir()] == ["own.safetensors"]


def test_distances_to_a_file_equal_those_to_the_set_behind_it(path):
    other = _statistics(np.random.default_rng(2).normal(size=(60, 4)))
    np.savez(path, mu=MU, sigma=SIGMA)
    read = read_statistics(path)
    found = FactoredGaussian.of(*other.compute()).distance(read.mean, read.covariance)
    assert found == pytest.approx(frechet_distance(other, _statistics()), rel=1e-10)


def test_the_fingerprint_is_of_the_moments_not_of_the_file(path, tmp_path):
    np.savez(path, mu=MU, sigma=SIGMA)
    np.savez_compressed(tmp_path / "again.npz", mu=MU, sigma=SIGMA)
    np.savez(tmp_path / "other.npz", mu=MU + 1e-9, sigma=SIGMA)
    first, again, other = (
        read_statistics(p).fingerprint() for p in (path, *sorted(tmp_path.glob("[ao]*.npz")))
    )
    assert first == again != other


def test_statistics_of_another_extractor_are_refused(tmp_path):
    own = tmp_path / "own.safetensors"
    write_statistics(own, _statistics(), extractor="net", extractor_identity="ab12")
    read = read_statistics(own)
    read.require_extractor(name="net", identity="ab12", feature_dim=4)
    for change, told in (
        ({"name": "inception-v3-compat"}, "network net"),
        ({"identity": "ff"}, "weights ab12"),
        ({"feature_dim": 2048}, "feature width 4"),
    ):
        use: dict[str, Any] = {"name": "net", "identity": "ab12", "feature_dim": 4, **change}
        with pytest.raises(ValueError, match=rf"of another extractor \({told}\)"):
            read.require_extractor(**use)


def test_a_file_that_does_not_name_its_weights_is_of_torch_fidelitys_inception(path):
    np.savez(path, mu=MU, sigma=SIGMA)
    identity = f"{INCEPTION_SHA256}01"
    published: dict[str, Any] = {"name": INCEPTION_NAME, "identity": identity, "feature_dim": 4}
    read_statistics(path).require_extractor(**published)
    for change in ({"name": "dinov2"}, {"identity": "ff"}):
        with pytest.raises(ValueError, match=f"must be of {INCEPTION_NAME} with torch-fidelity's"):
            read_statistics(path).require_extractor(**{**published, **change})


def test_own_files_have_the_same_bytes_in_every_process(tmp_path):
    path = tmp_path / "own.safetensors"
    write_statistics(path, _statistics(), extractor="net", extractor_identity="ab12")
    with safe_open(path, framework="pt") as file:
        # The order of several entries would follow a random hash.
        assert len(file.metadata()) == 1


@pytest.mark.parametrize("told", ["net", "{}", "[1]", '{"name": 1}'])
def test_a_header_that_tells_no_extractor_is_refused(tmp_path, told):
    path = tmp_path / "own.safetensors"
    save_file(_statistics().to_tensors(), path, {"extractor": told})
    with pytest.raises(ValueError, match="must hold its name and identity"):
        read_statistics(path)


def test_halves_that_differ_by_round_off_are_made_equal(path):
    np.savez(path, mu=MU, sigma=SIGMA + np.triu(np.full((4, 4), 1e-9), 1))
    covariance = read_statistics(path).covariance
    assert torch.equal(covariance, covariance.T)
    np.testing.assert_allclose(covariance, SIGMA, atol=1e-9)


NOT_FINITE = np.where(np.eye(4) > 0, np.nan, SIGMA)
NEGATIVE = np.full((4, 4), 2.0) - np.eye(4)
ASYMMETRIC = SIGMA + np.triu(np.ones((4, 4)), 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": MU, "cov": SIGMA}, r"mu and sigma came not \(found: mean, cov\)"),
        ({"arr_0": np.zeros(3)}, "score the images themselves"),
        ({"mu": MU, "sigma": SIGMA[:3]}, r"shapes \(4,\) and \(3, 4\)"),
        ({"mu": MU[:3], "sigma": SIGMA}, r"shapes \(3,\) and \(4, 4\)"),
        ({"mu": MU, "sigma": NOT_FINITE}, "`sigma`.* must be finite"),
        ({"mu": MU, "sigma": ASYMMETRIC}, "its halves differ"),
        ({"mu": MU, "sigma": -SIGMA}, "its least variance is -"),
        ({"mu": MU, "sigma": NEGATIVE}, "but they reach from -1 to 7"),
        ({"mu": MU, "sigma": SIGMA, "mu_s": MU}, "holds `mu_s` alone"),
        ({"mu": MU, "sigma": SIGMA, "sigma_s": SIGMA}, "holds `sigma_s` alone"),
        ({"mu": MU, "sigma": np.eye(4, dtype=np.int64)}, "floating-point numbers, but is int64"),
        ({"mu": MU, "sigma": np.array([[None]])}, "arrays and nothing else"),
        ({"mu": MU, "sigma": SIGMA, "mu_s": MU, "sigma_s": SIGMA[:2]}, "`mu_s` and `sigma_s`"),
    ],
)
def test_moments_that_cannot_be_right_are_refused(path, arrays, message):
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        read_statistics(path)


def test_other_files_are_refused_by_name(tmp_path):
    torch.save(torch.zeros(3, 4), tmp_path / "set-vgg16-features-2048.pt")
    with pytest.raises(ValueError, match="-stat-fid-"):
        read_statistics(tmp_path / "set-vgg16-features-2048.pt")
    with pytest.raises(ValueError, match="nothing is there"):
        read_statistics(tmp_path / "absent.npz")
    for name in ("a.npz", "a.pt", "a.safetensors", "a.csv"):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(ValueError, match=rf"{name}'"):
            read_statistics(tmp_path / name)


def test_own_files_of_one_sample_are_refused_with_their_name(tmp_path):
    path = tmp_path / "one.safetensors"
    write_statistics(path, _statistics(FEATURES[:1]), extractor="net", extractor_identity="ab")
    with pytest.raises(ValueError, match=r"one\.safetensors.*at least 2 samples"):
        read_statistics(path)
