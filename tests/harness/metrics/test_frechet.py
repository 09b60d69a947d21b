"""The Fréchet distance against closed forms, torch-fidelity and itself."""

import math

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from harness.metrics.frechet import FactoredGaussian, FeatureStatistics, frechet_distance, self_test


def _features(num_samples: int, dim: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=random, dtype=torch.float64) / dim**0.5
    return torch.randn(num_samples, dim, generator=random, dtype=torch.float64) @ mixing + seed


def _statistics(features: torch.Tensor, batch_size: int = 64) -> FeatureStatistics:
    statistics = FeatureStatistics.empty(features.shape[1])
    for batch in features.split(batch_size):
        statistics = statistics.update(batch)
    return statistics


@pytest.mark.parametrize(("num_samples", "dim"), [(500, 32), (300, 128), (60, 96)])
def test_the_distance_is_torch_fidelitys(num_samples, dim):
    first, second = (_features(num_samples, dim, seed) for seed in (0, 1))
    reference = fid_statistics_to_metric(
        fid_features_to_statistics(first), fid_features_to_statistics(second), verbose=False
    )["frechet_inception_distance"]
    ours = frechet_distance(_statistics(first), _statistics(second))
    assert ours == pytest.approx(reference, rel=1e-6)


def test_moments_are_torchs_mean_and_covariance():
    features = _features(200, 8, 0)
    mean, covariance = _statistics(features, batch_size=33).compute()
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close(covariance, torch.cov(features.T))


def test_a_large_mean_costs_no_precision():
    features = _features(200, 8, 0)
    _, covariance = _statistics(features).compute()
    _, moved = _statistics(features + 1e6).compute()
    torch.testing.assert_close(moved, covariance, rtol=1e-6, atol=1e-8)


def test_one_dimensional_gaussians_have_a_closed_form():
    def scalar(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64)

    gaussian = FactoredGaussian.of(scalar(1.0), scalar(4.0)[None])
    distance = gaussian.distance(scalar(3.0), scalar(9.0)[None])
    assert distance == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


def test_equal_sets_are_at_distance_zero():
    statistics = _statistics(_features(300, 64, 0))
    assert frechet_distance(statistics, statistics) == pytest.approx(0.0, abs=1e-9)


def test_the_distance_is_symmetric():
    first, second = (_statistics(_features(300, 24, seed)) for seed in (0, 1))
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there == pytest.approx(back, rel=1e-10)


def test_merging_workers_equals_a_single_pass():
    features = _features(301, 16, 0)
    parts = [_statistics(part) for part in features.tensor_split(3)]
    merged = FeatureStatistics.empty(16).merge(parts[0]).merge(parts[1]).merge(parts[2])
    assert merged.num_samples == 301
    for ours, reference in zip(merged.compute(), _statistics(features).compute(), strict=True):
        torch.testing.assert_close(ours, reference)


def test_an_update_leaves_the_old_statistics_unchanged():
    empty = FeatureStatistics.empty(4)
    empty.update(torch.ones(3, 4))
    assert empty.num_samples == 0
    assert empty.scatter.abs().sum() == 0


def test_float32_features_are_accumulated_in_float64():
    statistics = FeatureStatistics.empty(4).update(torch.ones(3, 4))
    assert statistics.mean.dtype == statistics.scatter.dtype == torch.float64
    assert statistics.update(torch.empty(0, 4)) is statistics


def test_storage_keeps_every_bit():
    statistics = _statistics(_features(50, 6, 0))
    restored = FeatureStatistics.from_tensors(statistics.to_tensors())
    assert restored.num_samples == 50
    assert torch.equal(restored.mean, statistics.mean)
    assert torch.equal(restored.scatter, statistics.scatter)


def test_storage_of_something_else_is_refused():
    tensors = _statistics(_features(50, 6, 0)).to_tensors()
    with pytest.raises(ValueError, match="scatter"):
        FeatureStatistics.from_tensors({k: v for k, v in tensors.items() if k != "scatter"})
    with pytest.raises(ValueError, match="float64"):
        FeatureStatistics.from_tensors({**tensors, "mean": tensors["mean"].float()})


@pytest.mark.parametrize("num_samples", [0, 1])
def test_fewer_than_two_samples_are_refused(num_samples):
    statistics = FeatureStatistics.empty(3).update(torch.ones(num_samples, 3))
    with pytest.raises(ValueError, match=f"at least 2 samples, but got {num_samples}"):
        statistics.compute()


def test_too_few_samples_for_a_full_rank_are_marked():
    assert _statistics(_features(8, 8, 0)).rank_deficient
    assert not _statistics(_features(9, 8, 0)).rank_deficient


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="use one extractor"):
        FeatureStatistics.empty(3).update(torch.ones(2, 4))
    with pytest.raises(ValueError, match="use one extractor"):
        frechet_distance(_statistics(_features(9, 3, 0)), _statistics(_features(9, 4, 0)))


def test_features_that_are_not_finite_are_refused():
    good = _statistics(_features(9, 3, 0))
    bad = good.update(torch.tensor([[1.0, math.nan, 0.0]]))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(good, bad)


@pytest.mark.parametrize("num_samples", [2, 20, 65])
def test_equal_sets_without_full_rank_are_at_distance_zero(num_samples):
    statistics = _statistics(_features(num_samples, 64, 0))
    assert frechet_distance(statistics, statistics) == pytest.approx(0.0, abs=1e-5)


def test_a_distance_that_is_negative_beyond_round_off_stops(monkeypatch):
    first, second = (_statistics(_features(300, 24, seed)).compute()[1] for seed in (0, 1))
    mean = torch.zeros(24, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: 4.0 * eigenvalues(matrix))
    with pytest.raises(RuntimeError, match="must be at least 0 but for round-off"):
        FactoredGaussian.of(mean, first).distance(mean, second)


def test_the_self_test_passes_here_and_stops_where_linear_algebra_is_broken(monkeypatch):
    self_test()
    monkeypatch.setattr(FactoredGaussian, "distance", lambda *_: 42.0)
    with pytest.raises(RuntimeError, match="linear algebra library is broken"):
        self_test()
