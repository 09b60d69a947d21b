"""Improved precision and recall against sets with known neighbours and torch-fidelity."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch_fidelity.metric_prc import calculate_precision_recall_full

from harness.metrics.precision_recall import density_coverage, precision_recall


def _features(num_images: int, dim: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_images, dim, generator=random)


@pytest.mark.parametrize("block", [64, 97, 4096])
@pytest.mark.parametrize("neighbors", [1, 3, 5])
def test_shares_are_torch_fidelitys(block, neighbors):
    generated, reference = _features(300, 16, 0, scale=0.9), _features(200, 16, 1)
    expected = calculate_precision_recall_full(generated, reference, neighbors)
    ours = precision_recall(generated, reference, neighbors, block=block)
    assert ours == pytest.approx(expected, rel=1e-4)
    assert all(0.0 < share < 1.0 for share in ours)


def test_an_image_is_not_its_own_neighbour():
    line = torch.arange(4.0)[:, None]
    inside, outside = torch.tensor([[3.9], [-0.9]]), torch.tensor([[4.1], [-1.1]])
    generated = torch.cat([inside, outside])
    precision, _ = precision_recall(generated, line, neighbors=1)
    assert precision == 0.5


def test_a_set_covers_itself():
    features = _features(50, 8, 0)
    assert precision_recall(features, features.flip(0)) == (1.0, 1.0)


def test_a_collapsed_generator_is_precise_but_recalls_little():
    reference = _features(200, 2, 0)
    precision, recall = precision_recall(_features(200, 2, 1, scale=0.1), reference)
    assert precision > 0.9
    assert recall < 0.2


@pytest.mark.parametrize("block", [64, 97, 4096])
def test_density_and_coverage_count_the_balls_around_reference_images(block):
    generated, reference = _features(300, 16, 0) + 1.0, _features(200, 16, 1)
    # Of five neighbours beside the image itself, as in the definition.
    radii = torch.cdist(reference, reference).kthvalue(6, dim=1).values
    inside = torch.cdist(generated, reference) <= radii
    expected = float(inside.sum()) / (5 * 300), float(inside.any(dim=0).double().mean())
    assert density_coverage(generated, reference, block=block) == pytest.approx(expected, rel=1e-6)
    assert 0.0 < expected[1] < 1.0


def test_an_outlier_among_the_references_hardly_moves_density():
    generated, reference = _features(100, 2, 0) + 4.0, _features(100, 2, 1)
    outlier = torch.tensor([[20.0, 20.0]])
    assert precision_recall(generated, torch.cat([reference, outlier]))[0] == 1.0
    assert density_coverage(generated, torch.cat([reference, outlier]))[0] < 0.3


def test_a_large_mean_costs_no_precision():
    generated, reference = _features(200, 16, 0), _features(200, 16, 1)
    expected = precision_recall(generated, reference)
    assert precision_recall(generated + 1000.0, reference + 1000.0) == pytest.approx(
        expected, abs=0.01
    )


def test_sets_that_cannot_be_compared_are_refused():
    good = _features(10, 4, 0)
    with pytest.raises((RuntimeError, TypeCheckError), match=r"size of tensor|typecheck"):
        precision_recall(good, _features(10, 5, 0))
    with pytest.raises(AssertionError, match="reach to a neighbour"):
        precision_recall(good, good[:3])
    with pytest.raises(ValueError, match="finite"):
        precision_recall(good, good * math.nan)
