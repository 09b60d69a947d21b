from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.statistics.bootstrap import (
    BootstrapConfig,
    count_freedoms,
    draw_means,
    percentile_interval,
)
from analysis.table.reading import check_table


def resample_means(cells, metrics, config):
    return draw_means(cells, metrics, config)[1:]


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


def _share_tokenizers(make_row, effects, noise):
    """Two sizes whose generation distance is their tokenizer's effect and some noise."""
    return [
        make_row(
            generator_size=size,
            seed=seed,
            tokenizer_key=f"t{seed}",
            gfid=10 + effect + noise[position, seed],
        )
        for position, size in enumerate(("S", "M"))
        for seed, effect in enumerate(effects)
    ]


def test_sizes_that_share_tokenizers_share_draws_and_freedoms(make_row):
    cells = _cells(_share_tokenizers(make_row, (0.0, 1.0, 3.0), np.zeros((2, 3))))
    means = resample_means(cells, ["gfid"], BootstrapConfig(num_resamples=200))
    assert np.array_equal(means[:, 0], means[:, 1])
    assert count_freedoms(cells, cells.points) == 2
    assert count_freedoms(cells, cells.points[:1]) == 2


def test_the_interval_over_two_sizes_that_share_tokenizers_holds_the_truth_in_95_of_100(make_row):
    generator = np.random.default_rng(0)
    num_held, num_sweeps, num_seeds = 0, 300, 4
    exact = _cells(_share_tokenizers(make_row, np.zeros(num_seeds), np.zeros((2, num_seeds))))
    for trial in range(num_sweeps):
        shared = generator.normal(0, 1, num_seeds)
        gfid = 10 + shared[exact.rows["tokenizer_seed"].astype(int)]
        gfid = gfid + generator.normal(0, 0.2, len(gfid))
        cells = replace(exact, rows=exact.rows.assign(gfid=gfid))
        config = BootstrapConfig(num_resamples=300, seed=trial)
        draws = resample_means(cells, ["gfid"], config)[..., 0].sum(axis=1)
        freedoms = count_freedoms(cells, cells.points)
        low, high = percentile_interval(
            draws, 2 * gfid.mean(), num_freedoms=freedoms, config=config
        )
        num_held += low <= 20 <= high
    assert 0.91 <= num_held / num_sweeps <= 0.985


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
