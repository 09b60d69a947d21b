import numpy as np
import pytest

from analysis.statistics.pareto import pareto_mask


def _pareto_by_brute_force(values):
    return [
        not any(all(q <= p) and any(q < p) for q in values if not np.isnan(q).any()) for p in values
    ]


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
def test_pareto_mask_agrees_with_brute_force(num_objectives):
    values = np.random.default_rng(0).integers(0, 12, (60, num_objectives)).astype(float)
    assert pareto_mask(values).tolist() == _pareto_by_brute_force(values)


def test_equal_points_are_both_on_the_front():
    assert pareto_mask(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [1, 1, 0]


def test_a_point_with_nan_is_not_on_the_front_and_beats_nobody():
    assert pareto_mask(np.array([[np.nan, 0.0], [1.0, 1.0]])).tolist() == [False, True]


def test_no_points_have_an_empty_front():
    assert pareto_mask(np.empty((0, 2))).tolist() == []


def test_a_flat_array_is_refused():
    with pytest.raises(ValueError, match=r"shape \(points, objectives\)"):
        pareto_mask(np.zeros(3))
