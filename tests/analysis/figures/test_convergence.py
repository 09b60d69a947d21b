import numpy as np
import pandas as pd
import pytest

from analysis.figures.convergence import compute_convergence, draw_convergence, find_crossing
from analysis.statistics.bootstrap import BootstrapConfig
from analysis.table.reading import check_table
from analysis.words.findings import say_speedups

QUICK = BootstrapConfig(num_resamples=300)
IMAGES = (1000, 2000, 4000)


def _rows(make_row, curves, seeds=(0, 1), **values):
    """Rows of each alignment's curve; the second seed lies a twentieth higher."""
    return [
        make_row(
            alignment=name,
            generator_images=images,
            seed=seed,
            gfid=gfid * (1 + seed / 20),
            **values,
        )
        for name, curve in curves.items()
        for images, gfid in zip(IMAGES, curve, strict=True)
        for seed in seeds
    ]


def _compute(rows):
    return compute_convergence(check_table(pd.DataFrame(rows)), config=QUICK)


def test_crossings_are_log_linear_between_snapshots():
    images = np.array([0.0, 10.0, 20.0])
    curves = np.array([[100.0, 1.0, 1.0], [100.0, 90.0, 80.0], [5.0, 4.0, 3.0]])
    found = find_crossing(images, curves, np.array([10.0, 10.0, 10.0]))
    assert found[[0, 2]].tolist() == [5.0, 0.0]
    assert np.isnan(found[1])


def test_the_published_speed_up_comes_out_of_the_published_curves(make_row):
    steps = np.arange(60, 201, 20) * 1000.0
    none = [41.08, 33.59, 29.35, 26.60, 25.33, 24.31, 23.51, 22.62]
    vf = [29.00, 22.25, 19.16, 17.89, 17.17, 16.79, 16.17, 15.83]
    rows = [
        make_row(alignment=name, generator_images=1024 * step, gfid=gfid)
        for name, curve in (("none", none), ("vf", vf))
        for step, gfid in zip(steps, curve, strict=True)
    ]
    (speedup,) = _compute(rows).speedups
    assert speedup.speedup == pytest.approx(2.54, abs=0.005)
    assert speedup.interval is None


def test_the_speed_up_has_an_interval_over_seeds(make_row):
    (speedup,) = _compute(_rows(make_row, {"none": (80, 40, 20), "vf": (40, 20, 10)})).speedups
    assert speedup.target == pytest.approx(20 * 1.025)
    assert speedup.images == pytest.approx(2000)
    low, high = speedup.interval or (0, 0)
    assert speedup.speedup == pytest.approx(2.0)
    assert low < speedup.speedup < high


def test_a_target_that_is_not_reached_is_told(make_row):
    (speedup,) = _compute(_rows(make_row, {"none": (8, 4, 2), "vf": (9, 8, 7)})).speedups
    assert not speedup.reached
    assert np.isnan(speedup.speedup)
    assert speedup.interval is None


def test_a_first_snapshot_below_the_target_bounds_the_speed_up(make_row):
    (speedup,) = _compute(_rows(make_row, {"none": (9, 8, 7), "vf": (3, 2, 1)})).speedups
    assert speedup.is_bound
    assert speedup.speedup == 4.0


def test_an_interval_reaches_zero_where_some_resamples_do_not_reach_the_target(make_row):
    rows = _rows(make_row, {"none": (9.0, 8.0, 7.0), "vf": (9.0, 8.0, 6.99)}, seeds=(0, 1))
    (speedup,) = _compute(rows).speedups
    assert speedup.reached
    assert (speedup.interval or (1, 0))[0] == 0.0


def test_a_snapshot_that_a_seed_lacks_is_left_out_with_its_reason(make_row):
    rows = _rows(make_row, {"none": (8, 4, 2)})[:-1]
    data = _compute([*rows, make_row(seed=5, status="diverged", gfid=None, rfid=None)])
    assert data.points["generator_images"].tolist() == [1000, 2000]
    assert data.points["num_seeds"].tolist() == [2, 2]
    assert sorted(data.gaps["reason"]) == [
        "a snapshot that not all seeds of its line have",
        "diverged",
    ]


def test_a_seed_that_lacks_the_last_snapshot_is_left_out_where_two_others_have_it(make_row):
    rows = _rows(make_row, {"none": (8, 4, 2)}, seeds=(0, 1, 2))[:-1]
    rows += _rows(make_row, {"vf": (4, 2, 1)})
    data = _compute([*rows, make_row(seed=2, generator_images=4000, status="failed", gfid=None)])
    assert data.points["num_seeds"].tolist() == [2] * 6
    assert data.points["gfid"][2] == pytest.approx(2 * 1.025)
    assert data.gaps["reason"].tolist().count("a seed that lacks a snapshot of its line") == 2
    (speedup,) = data.speedups
    assert (speedup.baseline_images, speedup.is_last) == (4000, True)


def test_an_earlier_target_is_called_one(make_row):
    rows = _rows(make_row, {"vf": (4, 2, 1), "none": (8, 4, 2)})[:-1]
    (speedup,) = _compute(rows).speedups
    assert (speedup.baseline_images, speedup.is_last) == (2000, False)
    assert "(the last snapshot that all its seeds have)" in " ".join(say_speedups([speedup]))


def test_the_figure_has_a_panel_a_size_in_either_width(make_row):
    rows = _rows(make_row, {"none": (80, 40, 20), "vf": (40, 20, 10)})
    rows += _rows(make_row, {"none": (60, 30, 10)}, generator_size="M", generator_params=9e5)
    data = _compute(rows)
    for width in (3.25, 6.75):
        figure = draw_convergence(data, width)
        assert figure.get_size_inches()[0] == width
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles == ["generator S", "generator M"]
    assert "mean ± standard error over 2 seeds" in figure.get_supxlabel().replace("\n", " ")


def test_nothing_done_gives_no_points_and_no_figure(make_row):
    data = _compute([make_row(status="failed", gfid=None, rfid=None)])
    assert data.points.empty
    assert data.speedups == []
    with pytest.raises(ValueError, match="at least one snapshot"):
        draw_convergence(data)
