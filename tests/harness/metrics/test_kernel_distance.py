"""The kernel distance against its definition and torch-fidelity."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch_fidelity.metric_kid import kid_features_to_metric

from harness.metrics import kernel_distance as module
from harness.metrics.kernel_distance import kernel_distance


def _features(num_images: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, dim, generator=random).abs() + shift


def test_the_distance_is_torch_fidelitys():
    first, second = _features(400, 64, 0), _features(300, 64, 1, shift=0.1)
    reference = kid_features_to_metric(
        first, second, kid_subsets=20, kid_subset_size=100, verbose=False
    )
    ours = kernel_distance(first, second, num_subsets=20, subset_size=100)
    assert ours.value == pytest.approx(reference["kernel_inception_distance_mean"], rel=1e-4)
    assert ours.std == pytest.approx(reference["kernel_inception_distance_std"], rel=1e-4)


def test_a_subset_of_everything_is_the_unbiased_estimate():
    first, second = _features(30, 5, 0).double(), _features(30, 5, 1, shift=0.2).double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / 5 + 1) ** 3

    within = [(k.sum() - k.trace()) / (30 * 29) for k in (kernel(first, first),)]
    within += [(k.sum() - k.trace()) / (30 * 29) for k in (kernel(second, second),)]
    expected = sum(within) - 2 * kernel(first, second).mean()
    ours = kernel_distance(first, second, num_subsets=1)
    assert ours.value == pytest.approx(float(expected), rel=1e-5)


def test_blocks_change_nothing(monkeypatch):
    first, second = _features(100, 8, 0), _features(100, 8, 1)
    whole = kernel_distance(first, second, num_subsets=2, subset_size=90)
    monkeypatch.setattr(module, "_BLOCK", 7)
    blocked = kernel_distance(first, second, num_subsets=2, subset_size=90)
    assert blocked.value == pytest.approx(whole.value, rel=1e-6)


def test_sets_of_one_distribution_are_at_distance_zero_within_the_error():
    ours = kernel_distance(_features(2000, 16, 0), _features(2000, 16, 1), subset_size=200)
    assert ours.standard_error is not None
    assert abs(ours.value) < 4 * ours.standard_error


def test_the_standard_error_counts_disjoint_subsets_only():
    first, second = _features(500, 8, 0), _features(700, 8, 1)
    many = kernel_distance(first, second, num_subsets=50, subset_size=100)
    assert many.standard_error == pytest.approx(many.std / math.sqrt(5 - 1))
    few = kernel_distance(first, second, num_subsets=3, subset_size=100)
    assert few.standard_error == pytest.approx(few.std / math.sqrt(3 - 1))


def test_a_subset_is_capped_to_the_smaller_set_and_then_has_no_error():
    ours = kernel_distance(_features(40, 8, 0), _features(60, 8, 1), num_subsets=5)
    assert ours.standard_error is None
    assert ours == kernel_distance(_features(40, 8, 0), _features(60, 8, 1), 5, subset_size=40)


def test_sets_that_cannot_be_compared_are_refused():
    good = _features(10, 4, 0)
    with pytest.raises((RuntimeError, TypeCheckError), match=r"multiplied|typecheck"):
        kernel_distance(good, _features(10, 5, 0))
    with pytest.raises(AssertionError, match="paired with itself"):
        kernel_distance(good, good[:1])
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(good, good * math.inf)


def test_kernels_of_everything_and_of_subsets_give_the_same():
    first, second = _features(120, 8, 0), _features(100, 8, 1, shift=0.2)
    whole = kernel_distance(first, second, num_subsets=9, subset_size=50)
    alone = [kernel_distance(first, second, num_subsets=4, subset_size=50)]
    reference = kid_features_to_metric(
        first, second, kid_subsets=4, kid_subset_size=50, verbose=False
    )
    assert alone[0].value == pytest.approx(reference["kernel_inception_distance_mean"], rel=1e-4)
    reference = kid_features_to_metric(
        first, second, kid_subsets=9, kid_subset_size=50, verbose=False
    )
    assert whole.value == pytest.approx(reference["kernel_inception_distance_mean"], rel=1e-4)
