import numpy as np
import pandas as pd
import pytest

from analysis.bootstrap import BootstrapConfig, percentile_interval, resample_means
from analysis.cells import compute_cells
from analysis.table import check_table


def _cells(rows):
    return compute_cells(check_table(pd.DataFrame(rows)), needs=("rfid", "gfid"))


def test_resampled_means_scatter_as_the_mean_of_the_seeds_does(make_row):
    values = np.random.default_rng(0).normal(10, 1, 4)
    cells = _cells([make_row(seed=seed, gfid=gfid) for seed, gfid in enumerate(values)])
    means = resample_means(cells, ["gfid"], BootstrapConfig(num_resamples=20_000))
    assert means.std() == pytest.approx(cells.points["gfid_se"][0], rel=0.03)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)


def test_tokenizers_are_the_units_where_seeds_share_them(make_row):
    rows = [
        make_row(tokenizer_key=key, tokenizer_seed=i, generator_seed=seed, rfid=rfid, gfid=rfid)
        for i, (key, rfid) in enumerate((("a", 1.0), ("b", 3.0), ("c", 5.0)))
        for seed in (0, 1)
    ]
    cells = _cells(rows)
    means = resample_means(cells, ["rfid", "gfid"], BootstrapConfig(num_resamples=20_000))
    assert np.array_equal(means[..., 0], means[..., 1])
    assert means[..., 0].std() == pytest.approx(cells.points["rfid_se"][0], rel=0.03)


def test_generators_are_the_units_where_all_share_one_tokenizer(make_row):
    rows = [make_row(tokenizer_key="a", generator_seed=seed, gfid=3.0 + seed) for seed in (0, 1)]
    means = resample_means(_cells(rows), ["rfid", "gfid"], BootstrapConfig(num_resamples=50))
    assert set(means[..., 0].ravel()) == {2.0}
    assert set(means[..., 1].ravel()) == {3.0, 4.0}


def test_a_seed_of_the_drawing_gives_the_same_resamples(dilemma_rows):
    cells = _cells(dilemma_rows)
    first, second = (resample_means(cells, ["gfid"], BootstrapConfig()) for _ in range(2))
    assert np.array_equal(first, second)


def test_an_interval_is_wider_with_fewer_freedoms():
    values = np.random.default_rng(0).normal(size=5000)
    config = BootstrapConfig()
    few = percentile_interval(values, 0.0, num_freedoms=3, config=config)
    many = percentile_interval(values, 0.0, num_freedoms=1000, config=config)
    assert many == pytest.approx((-1.96, 1.96), abs=0.1)
    assert few[0] < many[0] < many[1] < few[1]


def test_a_level_beyond_one_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        BootstrapConfig(level=95)
