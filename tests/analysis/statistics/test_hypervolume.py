import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume as optuna_hypervolume

from analysis.statistics.hypervolume import choose_reference, compute_hypervolume

CORNER = np.array([10.0, 10.0])


@pytest.mark.parametrize("num_objectives", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_hypervolume_agrees_with_optunas(seed, num_objectives):
    points = np.random.default_rng(seed).integers(0, 10, (12, num_objectives)).astype(float)
    corner = np.full(num_objectives, 10.0)
    assert compute_hypervolume(points, corner) == optuna_hypervolume(points, corner)


def test_the_hypervolume_is_the_area_below_the_reference():
    points = np.array([[1.0, 3.0], [2.0, 1.0], [2.0, 2.0], [9.0, 0.0]])
    assert compute_hypervolume(points, np.array([4.0, 4.0])) == 3 * 1 + 2 * 2


def test_hypervolume_in_three_dimensions_is_that_of_sampled_points():
    random = np.random.default_rng(0)
    points = random.random((6, 3))
    samples = random.random((200_000, 3))
    below = np.all(points[None] <= samples[:, None], axis=2)
    dominated = np.any(below, axis=1).mean()
    assert compute_hypervolume(points, np.ones(3)) == pytest.approx(dominated, abs=0.005)


def test_a_stack_of_point_sets_gives_each_ones_hypervolume():
    for num_objectives in (2, 3):
        stack = np.random.default_rng(0).uniform(0, 12, (4, 3, 5, num_objectives))
        corner = np.full(num_objectives, 10.0)
        whole = compute_hypervolume(stack, corner)
        assert whole.shape == (4, 3)
        assert whole[2, 1] == pytest.approx(compute_hypervolume(stack[2, 1], corner))


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
    with pytest.raises(ValueError, match="two or more"):
        compute_hypervolume(np.zeros((3, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="two or more"):
        compute_hypervolume(np.zeros((3, 1)), np.zeros(1))
    with pytest.raises(ValueError, match="must be finite"):
        compute_hypervolume(np.zeros((3, 2)), np.array([np.inf, 1.0]))
