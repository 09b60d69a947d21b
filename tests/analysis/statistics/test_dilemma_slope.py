import numpy as np
import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.statistics.bootstrap import BootstrapConfig
from analysis.statistics.dilemma_slope import compute_dilemma_slopes, fit_slope
from analysis.table.reading import check_table

QUICK = BootstrapConfig(num_resamples=300)


def _cells(rows):
    return compute_cells(check_table(pd.DataFrame(rows)), needs=("rfid", "gfid"))


def _power_law(make_row, exponent, *, noise=0.0, num_seeds=3, dims=(4, 16, 64), **values):
    """Rows with gfid = rfid ** exponent but for the noise."""
    generator = np.random.default_rng(1)
    return [
        make_row(
            latent_dim=dim,
            seed=seed,
            rfid=(rfid := 16 / dim),
            gfid=10 * rfid**exponent * np.exp(noise * generator.normal()),
            **values,
        )
        for dim in dims
        for seed in range(num_seeds)
    ]


def test_slopes_agree_with_numpys_polyfit():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 7))
    expected = [np.polyfit(x[i], y[i], 1)[0] for i in range(5)]
    assert fit_slope(x, y) == pytest.approx(expected)


def test_a_power_law_gives_its_exponent_and_alignment_the_change(make_row):
    rows = [*_power_law(make_row, -1.5), *_power_law(make_row, -0.5, alignment="vf")]
    none, vf = compute_dilemma_slopes(_cells(rows), config=QUICK)
    assert (none.slope, vf.slope) == pytest.approx((-1.5, -0.5))
    assert none.interval == pytest.approx((-1.5, -1.5))
    assert none.shows_dilemma
    assert none.changes == ()
    (change,) = vf.changes
    assert change.change == pytest.approx(1.0)
    assert change.interval == pytest.approx((1.0, 1.0))


def test_noise_gives_an_interval_around_the_slope(make_row):
    (slope,) = compute_dilemma_slopes(_cells(_power_law(make_row, -1.0, noise=0.3)), config=QUICK)
    low, high = slope.interval or (0, 0)
    assert low < -1.0 < high
    assert low < slope.slope < high


def test_one_seed_gives_a_slope_without_an_interval(make_row):
    (slope,) = compute_dilemma_slopes(_cells(_power_law(make_row, -1.0, num_seeds=1)))
    assert slope.slope == pytest.approx(-1.0)
    assert slope.interval is None
    assert slope.shows_dilemma is None
    assert "3 of 3 configurations" in slope.no_interval


def test_the_change_is_taken_over_the_dims_of_both_lines(make_row):
    rows = _power_law(make_row, -1.0, dims=(4, 16, 64, 256))
    rows += _power_law(make_row, -0.5, dims=(4, 16), alignment="vf")
    _, vf = compute_dilemma_slopes(_cells(rows), config=QUICK)
    (change,) = vf.changes
    assert change.dims == (4, 16)
    assert change.change == pytest.approx(0.5)


def test_lines_without_two_dims_or_two_reconstruction_distances_have_no_slope(make_row):
    assert compute_dilemma_slopes(_cells([make_row()])) == []
    same = [make_row(latent_dim=dim, rfid=1.0) for dim in (4, 16)]
    assert compute_dilemma_slopes(_cells(same)) == []
    assert compute_dilemma_slopes(_cells([make_row(status="failed", gfid=None)])) == []
