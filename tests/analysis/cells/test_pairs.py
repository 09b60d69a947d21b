import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.cells.pairs import find_unlike_pairs
from analysis.group import analyse_group
from analysis.statistics.bootstrap import BootstrapConfig
from analysis.statistics.dilemma_slope import compute_dilemma_slopes
from analysis.statistics.effects import compute_effects
from analysis.statistics.gain import compute_gains
from analysis.table.reading import check_table

QUICK = BootstrapConfig(num_resamples=50)


def _pair(make_row, column, images):
    """Both kinds at two latent dims; only at the second one were they trained alike."""
    return [
        make_row(alignment=name, latent_dim=dim, rfid=8.0 / dim, gfid=1.0 * dim)
        | {column: count if dim == 4 else 64_000}
        for name, count in zip(("none", "vf"), images, strict=True)
        for dim in (4, 8)
    ]


def _cells(rows):
    return compute_cells(check_table(pd.DataFrame(rows)), needs=("rfid", "gfid"))


@pytest.mark.parametrize("column", ["generator_images", "tokenizer_images"])
def test_pairs_of_unlike_training_are_left_out_and_named(make_row, column):
    cells = _cells(_pair(make_row, column, (64_000, 640_000)))
    assert [effect.cell["latent_dim"] for effect in compute_effects(cells)] == [8]
    (gain,) = compute_gains(cells, config=QUICK)
    assert gain.dims == ("8",)
    assert all(slope.changes == () for slope in compute_dilemma_slopes(cells, config=QUICK))
    (pair,) = find_unlike_pairs(cells.points, cells.axes)
    images = f"640,000 against 64,000 images of the {column.removesuffix('_images')}"
    assert pair.reason == f"unlike training: {images}"
    assert "d=4" in pair.cell


def test_the_report_names_pairs_of_unlike_training(make_row):
    rows = _pair(make_row, "generator_images", (64_000, 640_000))
    group = analyse_group("", check_table(pd.DataFrame(rows)), every_figure=False)
    omissions = {each.what: each.reason for each in group.omissions}
    assert "unlike training: 640,000" in omissions["vf, S, d=4 against none"]


def test_like_or_unknown_training_is_compared(make_row):
    rows = _pair(make_row, "tokenizer_images", (None, None))
    rows = [row | {"tokenizer_images": None} for row in rows]
    cells = _cells(rows)
    assert find_unlike_pairs(cells.points, cells.axes) == []
    assert len(compute_effects(cells)) == 2


def test_seeds_of_unlike_tokenizer_training_are_not_averaged(make_row):
    rows = [make_row(seed=seed) | {"tokenizer_images": 1000 * (seed + 1)} for seed in (0, 1)]
    assert _cells(rows).points["num_seeds"].tolist() == [1, 1]
