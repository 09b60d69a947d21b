import math

import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.statistics.effects import compare_cells, compute_dilemma_effects, compute_effects
from analysis.table.columns import known_columns


def _cell(mean, error, num_seeds=3):
    return pd.Series({"gfid": mean, "gfid_se": error, "num_seeds": num_seeds})


def _compare(first, second):
    return compare_cells(first, second, "gfid", known_columns())


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((5.0, 0.5), (2.0, 0.5), "higher"),
        ((2.0, 0.5), (5.0, 0.5), "lower"),
        ((4.0, 0.5), (2.1, 0.5), "within noise"),
        ((5.0, math.nan), (2.0, 0.5), "no interval"),
        ((math.nan, math.nan), (2.0, 0.5), "not measured"),
    ],
)
def test_a_difference_is_one_beyond_welchs_interval(first, second, verdict):
    assert _compare(_cell(*first), _cell(*second)) == verdict


def test_two_seeds_need_a_larger_difference_than_five():
    verdicts = [_compare(_cell(4.5, 0.5, count), _cell(2.0, 0.5, count)) for count in (2, 5)]
    assert verdicts == ["within noise", "higher"]


def test_the_dilemma_shows_where_it_was_built_in(dilemma_rows, load):
    effects = compute_dilemma_effects(compute_cells(load(dilemma_rows), needs=("gfid",)))
    assert len(effects) == 4
    assert all(effect.shows and effect.is_monotone for effect in effects)


def test_the_dilemma_does_not_show_where_reconstruction_stays(dilemma_rows, load):
    rows = [row | {"rfid": 2.0, "psnr": 24.0} for row in dilemma_rows]
    effects = compute_dilemma_effects(compute_cells(load(rows), needs=("gfid",)))
    assert not any(effect.shows for effect in effects)


def test_alignment_is_the_ratio_of_means_with_its_range_over_common_seeds(make_row, load):
    pairs = (("none", (10.0, 20.0)), ("vf", (5.0, 4.0, 9.0)))
    rows = [
        make_row(alignment=name, seed=seed, gfid=gfid)
        for name, values in pairs
        for seed, gfid in enumerate(values)
    ]
    (effect,) = compute_effects(compute_cells(load(rows), needs=("gfid",)))
    assert effect.gfid.ratio == pytest.approx(6 / 15)
    assert effect.gfid.ratio_range == pytest.approx((0.2, 0.5))
    assert effect.gfid.counts == (3, 2)
    assert effect.gfid.verdict == "within noise"


def test_alignment_is_compared_at_the_same_patch_size_and_downsample(make_row, load):
    rows = [
        make_row(alignment=name, patch_size=patch, downsample=downsample, gfid=gfid * patch)
        for name, gfid in (("none", 10.0), ("vf", 5.0))
        for patch, downsample in ((1, 8), (2, 8), (4, 16))
    ]
    effects = compute_effects(compute_cells(load(rows), needs=("gfid",)))
    assert [effect.gfid.ratio for effect in effects] == pytest.approx([0.5] * 3)


def test_a_shared_tokenizer_gives_reconstruction_neither_interval_nor_range(make_row, load):
    rows = [
        make_row(alignment=name, generator_seed=seed, gfid=gfid + seed, rfid=rfid)
        for name, gfid, rfid in (("none", 30.0, 2.0), ("vf", 10.0, 3.0))
        for seed in range(3)
    ]
    (effect,) = compute_effects(compute_cells(load(rows), needs=("gfid",)))
    assert (effect.gfid.verdict, effect.rfid.verdict) == ("lower", "no interval")
    assert effect.gfid.ratio_range == pytest.approx((1 / 3, 12 / 32))
    assert effect.rfid.ratio_range is None
    assert (effect.gfid.counts, effect.rfid.counts) == ((3, 3), (1, 1))


def test_a_reconstruction_range_is_taken_over_common_tokenizer_seeds(make_row, load):
    rows = [
        make_row(alignment=name, tokenizer_seed=tokenizer, generator_seed=seed, rfid=rfid)
        for name, values in (("none", (2.0, 4.0)), ("vf", (3.0, 5.0)))
        for tokenizer, rfid in enumerate(values)
        for seed in range(2)
    ]
    (effect,) = compute_effects(compute_cells(load(rows), needs=("gfid",)))
    assert effect.rfid.ratio_range == pytest.approx((1.25, 1.5))


def test_an_aligned_cell_without_counterpart_has_no_effect(make_row, load):
    table = load([make_row(latent_dim=4), make_row(latent_dim=16, alignment="vf")])
    assert compute_effects(compute_cells(table, needs=("gfid",))) == []
