import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume as optuna_hypervolume

from analysis.statistics.hypervolume import choose_reference, compute_hypervolume

CORNER = np.array([10.0, 10.0])


@pytest.mark.parametrize("seed", range(5))
def test_the_hypervolume_agrees_with_optunas(seed):
    points = np.random.default_rng(seed).integers(0, 10, (30, 2)).astype(float)
    assert compute_hypervolume(points, CORNER) == optuna_hypervolume(points, CORNER)


def test_a_stack_of_point_sets_gives_each_ones_hypervolume():
    stack = np.random.default_rng(0).uniform(0, 12, (4, 3, 5, 2))
    whole = compute_hypervolume(stack, CORNER)
    assert whole.shape == (4, 3)
    assert whole[2, 1] == pytest.approx(compute_hypervolume(stack[2, 1], CORNER))


def test_points_beyond_the_reference_and_nan_add_nothing():
    points = np.array([[1.0, 11.0], [11.0, 1.0], [np.nan, 0.0], [8.0, 9.0]])
    assert compute_hypervolume(points, CORNER) == 2.0


def test_no_points_have_no_area():
    assert compute_hypervolume(np.empty((0, 2)), CORNER) == 0.0


def test_the_reference_lies_a_tenth_of_the_range_beyond_the_worst():
    values = np.array([[0.0, 5.0], [10.0, 5.0]])
    assert choose_reference(values).tolist() == [11.0, 5.5]
    assert choose_reference(np.zeros((1, 2))).tolist() == [0.1, 0.1]


def test_wrong_shapes_and_references_are_refused():
    with pytest.raises(ValueError, match="two objectives"):
        compute_hypervolume(np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="must be finite"):
        compute_hypervolume(np.zeros((3, 2)), np.array([np.inf, 1.0]))
