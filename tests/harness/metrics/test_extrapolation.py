"""The Fréchet distance of infinitely many samples, where the populations are known."""

import pytest
import torch

from harness.metrics.extrapolation import ChunkedStatistics, extrapolated_distance
from harness.metrics.frechet import FeatureStatistics, frechet_distance

DIM = 16


def _features(num_images: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(num_images, DIM, generator=torch.Generator().manual_seed(seed))


def _chunked(features: torch.Tensor, batch_size: int = 64) -> ChunkedStatistics:
    chunked = ChunkedStatistics.empty(DIM, num_images=len(features))
    for batch in features.split(batch_size):
        chunked = chunked.update(batch)
    return chunked


def _normal(num_images: int = 10**9) -> FeatureStatistics:
    """What all samples of a standard normal distribution would give."""
    zero, one = torch.zeros(DIM, dtype=torch.float64), torch.eye(DIM, dtype=torch.float64)
    return FeatureStatistics(num_samples=num_images, mean=zero, scatter=one * (num_images - 1))


def test_the_bias_of_few_samples_is_taken_out():
    expected = DIM * 0.1**2
    found, plain = [], []
    for seed in range(8):
        chunked = _chunked(_features(400, seed, scale=1.1))
        value = extrapolated_distance(chunked, _normal()).value
        assert value is not None
        found.append(value)
        plain.append(frechet_distance(chunked.whole(), _normal()))
    assert min(plain) > 1.5 * expected
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.25)


def test_distances_fall_with_the_samples():
    points = extrapolated_distance(_chunked(_features(1000, 0)), _normal()).points
    assert [num_samples for num_samples, _ in points] == list(range(100, 1001, 100))
    distances = [distance for _, distance in points]
    assert distances == sorted(distances, reverse=True)


def test_chunks_together_are_all_samples():
    features = _features(1003, 0)
    whole = _chunked(features).whole()
    expected = FeatureStatistics.empty(DIM).update(features)
    assert whole.num_samples == 1003
    for ours, reference in zip(whole.compute(), expected.compute(), strict=True):
        torch.testing.assert_close(ours, reference)


def test_merging_workers_equals_a_single_pass():
    features, reference = _features(500, 0), _normal()
    positions = torch.arange(500)
    parts = [
        ChunkedStatistics.empty(DIM, num_images=500).update(features[rank::2], positions[rank::2])
        for rank in (0, 1)
    ]
    merged = extrapolated_distance(parts[0].merge(parts[1]), reference)
    single = extrapolated_distance(_chunked(features), reference)
    assert merged.value == pytest.approx(single.value, rel=1e-9)


def test_a_set_sorted_by_class_is_dealt_evenly():
    features = torch.cat([_features(500, 0), _features(500, 1) + 5.0])
    for chunk in _chunked(features).compute():
        assert chunk.num_samples == 100
        assert 1.5 < float(chunk.mean.mean()) < 3.5


def test_too_few_samples_give_a_reason_instead_of_a_value():
    few = extrapolated_distance(_chunked(_features(18, 0)), _normal())
    assert few.value is None
    assert "18 samples give" in few.reason
    deficient = FeatureStatistics.empty(DIM).update(_features(10, 1))
    reference = extrapolated_distance(_chunked(_features(500, 0)), deficient)
    assert reference.value is None
    assert "the reference has 10 images" in reference.reason


def test_only_groups_of_full_rank_take_part():
    points = extrapolated_distance(_chunked(_features(50, 0)), _normal()).points
    assert min(num_samples for num_samples, _ in points) > DIM


def test_an_update_leaves_the_old_statistics_unchanged():
    empty = ChunkedStatistics.empty(DIM, num_images=20)
    empty.update(_features(20, 0))
    assert empty.num_samples == 0


def test_samples_beyond_those_announced_are_refused():
    with pytest.raises(AssertionError, match="among the 20 samples announced"):
        _chunked(_features(20, 0)).update(_features(1, 1))
    with pytest.raises(ValueError, match="use one extractor"):
        ChunkedStatistics.empty(DIM + 1, num_images=20).update(_features(20, 0))
    with pytest.raises(AssertionError, match="the same samples"):
        _chunked(_features(20, 0)).merge(_chunked(_features(30, 0)))
