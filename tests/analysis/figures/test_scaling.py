import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.figures.scaling import COSTS, draw_scaling
from analysis.table.reading import check_table


def _compute(rows):
    return compute_cells(check_table(pd.DataFrame(rows)), needs=("gfid",))


def test_points_carry_parameters_and_mean_flops(make_row):
    rows = [
        make_row(generator_size=size, generator_params=params, train_flops=flops, seed=seed)
        for size, params, flops in (("M", 4e5, 4e12), ("S", 1e5, 1e12))
        for seed in (0, 1)
    ]
    points = _compute(rows).points
    assert points["generator_params"].tolist() == [1e5, 4e5]
    assert points["train_flops"].tolist() == [1e12, 4e12]


def test_a_cost_that_no_row_has_gets_no_panel(make_row):
    data = _compute([make_row(train_flops=None)])
    assert data.known(COSTS) == ["generator_params"]
    assert len(draw_scaling(data).axes) == 1


def test_costs_are_logarithmic_and_share_the_distance(make_row):
    figure = draw_scaling(_compute([make_row(train_flops=1e12)]))
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    assert figure.axes[0].get_ylabel() == "in-domain Fréchet\ndistance"


def test_nothing_done_is_refused(make_row):
    with pytest.raises(ValueError, match="at least one point"):
        draw_scaling(_compute([make_row(status="failed", gfid=None, rfid=None)]))
