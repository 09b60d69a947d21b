import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.figures.convergence import compute_convergence
from analysis.figures.diagnostics import compute_correlations
from analysis.statistics.bootstrap import BootstrapConfig
from analysis.statistics.dilemma_slope import compute_dilemma_slopes
from analysis.statistics.gain import compute_gains
from analysis.table.reading import check_table
from analysis.words.findings import say_correlations, say_gains, say_slopes, say_speedups

QUICK = BootstrapConfig(num_resamples=200)


@pytest.fixture
def cells(dilemma_rows):
    return compute_cells(check_table(pd.DataFrame(dilemma_rows)), needs=("rfid", "gfid"))


def _one_seed(rows):
    one = [row for row in rows if row["seed"] == 0]
    return compute_cells(check_table(pd.DataFrame(one)), needs=("rfid", "gfid"))


def test_an_established_gain_is_called_so_with_its_interval(cells):
    words = "\n".join(say_gains(compute_gains(cells, config=QUICK)))
    assert "in decades of generation" in words
    assert "the worst single measurement" in words
    assert words.count("larger, established over these seeds") == 3


def test_one_seed_gives_observations_only(dilemma_rows):
    cells = _one_seed(dilemma_rows)
    gains = "\n".join(say_gains(compute_gains(cells)))
    slopes = "\n".join(say_slopes(compute_dilemma_slopes(cells)))
    assert gains.count("an observation, not a finding") == 3
    assert "established" not in gains
    assert slopes.count("no interval") == 6
    assert "eases" not in slopes


def test_equal_slopes_are_not_told_apart(cells):
    words = "\n".join(say_slopes(compute_dilemma_slopes(cells, config=QUICK)))
    assert words.count("against none, not told apart") == 2


def test_speedups_say_whether_they_are_reached_and_bounded(make_row):
    def say(vf):
        rows = [
            make_row(alignment=name, generator_images=images, gfid=gfid)
            for name, curve in (("none", (8.0, 4.0)), ("vf", vf))
            for images, gfid in zip((1000, 2000), curve, strict=True)
        ]
        return say_speedups(compute_convergence(check_table(pd.DataFrame(rows))).speedups)[1]

    assert "4 is not reached" in say((9.0, 5.0))
    assert "at least x2" in say((3.0, 2.0))
    assert "after 1,500 instead of 2,000 images, x1.33, one seed" in say((8.0, 2.0))


def test_few_points_make_no_correlation(make_row):
    rows = [make_row(latent_dim=d, gfid=d) | {"density_cv": d} for d in range(2, 6)]
    table = check_table(pd.DataFrame(rows))
    words = say_correlations(compute_correlations(compute_cells(table, needs=("gfid",))))
    assert "4 cells of one generator, too few for a correlation" in words[0]
    assert "shows no cause" in words[0]


def test_nothing_to_say_is_said():
    assert "nothing has a cell in common" in say_gains([])[0]
    assert "no line" in say_slopes([])[0]
    assert "no line of two snapshots" in say_speedups([])[0]
    assert say_correlations([]) == []
