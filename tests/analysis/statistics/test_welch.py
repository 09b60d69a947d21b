import numpy as np
import pytest
from scipy.stats import ttest_ind

from analysis.statistics.welch import count_by_chance, reach_by_chance


def test_the_reach_agrees_with_scipys_interval_of_unlike_variances():
    generator = np.random.default_rng(0)
    first, second = generator.normal(5, 1, 4), generator.normal(2, 3, 7)
    errors = tuple(side.std(ddof=1) / np.sqrt(len(side)) for side in (first, second))
    interval = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    reach = reach_by_chance(errors, (len(first), len(second)))
    assert reach == pytest.approx((interval.high - interval.low) / 2)


def test_an_unknown_error_gives_no_reach_and_no_scatter_a_reach_of_zero():
    reach = reach_by_chance((np.array([np.nan, 0.0]), np.array([1.0, 0.0])), (2, 2))
    assert np.isnan(reach[0])
    assert reach[1] == 0


def test_five_of_a_hundred_comparisons_are_told_apart_by_chance():
    assert count_by_chance(100) == pytest.approx(5)
