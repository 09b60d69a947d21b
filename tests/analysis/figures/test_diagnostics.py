import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from analysis.cells.cells import compute_cells
from analysis.figures.diagnostics import (
    compute_correlations,
    correlate_ranks,
    draw_diagnostics,
    known_diagnostics,
)
from analysis.table.reading import check_table


def _cells(rows):
    return compute_cells(check_table(pd.DataFrame(rows)), needs=("gfid",))


def _correlate(rows):
    return compute_correlations(_cells(rows))


def _rows(make_row, num_dims, **values):
    return [
        make_row(latent_dim=2 + d, gfid=10.0 - d, **values) | {"density_cv": 0.1 * d**2}
        for d in range(num_dims)
    ]


def test_rank_correlation_agrees_with_scipys_also_with_ties():
    x, y = np.random.default_rng(0).integers(0, 5, (2, 20)).astype(float)
    correlation, p_value = correlate_ranks(x, y)
    expected_correlation, expected_p_value = spearmanr(x, y)
    assert correlation == pytest.approx(expected_correlation)
    assert p_value == pytest.approx(expected_p_value, abs=0.02)


def test_the_p_value_of_a_perfect_order_of_five_is_two_in_five_factorial():
    p_value = correlate_ranks(np.arange(5.0), np.arange(5.0))[1]
    assert p_value == pytest.approx(2 / 120, abs=0.004)


def test_a_falling_order_has_a_correlation_of_minus_one(make_row):
    (correlation,) = _correlate(_rows(make_row, 5))
    assert (correlation.correlation, correlation.num_points) == (pytest.approx(-1.0), 5)


def test_four_points_give_no_correlation(make_row):
    cells = _cells(_rows(make_row, 4))
    correlations = compute_correlations(cells)
    assert np.isnan(correlations[0].correlation)
    assert draw_diagnostics(cells, correlations).axes[0].get_title(loc="left") == "n=4: no rank r"


def test_sizes_are_correlated_apart(make_row):
    rows = _rows(make_row, 5) + _rows(make_row, 5, generator_size="M", generator_params=9e5)
    sizes = [each.generator for each in _correlate(rows)]
    assert sizes == ["S", "M"]


def test_a_constant_diagnostic_has_no_correlation(make_row):
    rows = [row | {"density_cv": 0.3} for row in _rows(make_row, 6)]
    assert np.isnan(_correlate(rows)[0].correlation)


def test_a_table_without_diagnostics_has_no_figure(make_row):
    cells = _cells([make_row()])
    assert known_diagnostics(cells) == []
    with pytest.raises(ValueError, match="at least one cell with a latent diagnostic"):
        draw_diagnostics(cells, [])
