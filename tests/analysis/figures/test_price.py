import json
from dataclasses import replace

import pandas as pd
import pytest

from analysis.figures.price import compute_price, draw_price
from analysis.table.reading import check_table


def _priced(make_row, evaluations, *, solver="euler", guidance="none", speed=None, **values):
    sampler = {"kind": solver, "num_steps": evaluations + 1}
    if solver == "cascade":
        sampler = {"kind": solver, "stages": [{"kind": "euler"}, {"kind": "ab2"}]}
        sampler["condition_noise"] = evaluations
    protocol = json.dumps({"sampler": sampler, "guidance": guidance, "num_images": 9})
    key = values.pop("generator_key", values.get("generator_size", "S"))
    row = make_row(
        guidance=guidance,
        protocol=protocol,
        protocol_hash=protocol,
        row_id=json.dumps([protocol, key, values]),
        trial_id=json.dumps([sampler, key, values]),
        generator_key=f"{key} {values.get('seed', 0)}",
        **values,
    )
    price = evaluations * (2 if guidance != "none" else 1)
    return row | {"sample_evaluations": float(price), "sample_images_per_s": speed or 1e3 / price}


def _compute(rows):
    return compute_price(check_table(pd.DataFrame(rows)))


def test_steps_of_one_solver_are_a_line_through_protocols(make_row):
    rows = [
        _priced(make_row, n, solver=solver, gfid=10.0 / n)
        for solver in ("euler", "heun")
        for n in (10, 50, 250)
    ]
    (data,) = _compute(rows)
    lines = dict(list(data.points.groupby("system", sort=False)))
    assert set(lines) == {"euler", "heun"}
    assert sorted(lines["heun"]["sample_evaluations"]) == [10, 50, 250]
    assert sorted(lines["heun"]["sample_images_per_s"]) == [4, 20, 100]
    assert set(data.points["way"]) == {""}


def test_seeds_are_averaged_in_distance_and_speed(make_row):
    rows = [
        _priced(make_row, n, seed=seed, gfid=n + seed, speed=100.0 + seed)
        for n in (10, 50)
        for seed in (0, 1)
    ]
    (data,) = _compute(rows)
    assert sorted(data.points["gfid"]) == [10.5, 50.5]
    assert set(data.points["sample_images_per_s"]) == {100.5}
    assert set(data.points["num_seeds"]) == {2}


def test_systems_and_guidance_are_lines_of_their_own(make_row):
    rows = [
        _priced(make_row, n, solver=solver, generator_size=size, guidance=guidance)
        for size, solver in (("S", "euler"), ("M", "cascade"))
        for n in (10, 50)
        for guidance in ("none", "cfg 1.5")
    ]
    (data,) = _compute(rows)
    assert set(data.points["system"]) == {"S", "M"}
    solvers, settings = ("euler", "cascade euler+ab2"), ("none", "cfg 1.5")
    assert set(data.points["way"]) == {f"{s}, {g}" for s in solvers for g in settings}
    assert len(data.points) == 8
    assert len(draw_price(data).axes) == 2


def test_rows_of_one_price_give_no_figure(make_row):
    one = [_priced(make_row, 50, seed=seed) for seed in (0, 1)]
    assert _compute(one) == []
    # Guidance alone costs more in every sweep that has it; the guidance figure is for that.
    assert _compute([*one, _priced(make_row, 50, guidance="cfg 1.5")]) == []
    assert _compute([make_row(), make_row(seed=1)]) == []
    assert _compute([make_row(status="failed", gfid=None, rfid=None)]) == []


def test_other_differences_of_protocols_are_kept_apart(make_row):
    rows = [_priced(make_row, n) for n in (10, 50)]
    others = [
        row | {"row_id": f"x{n}", "protocol": text, "protocol_hash": text}
        for n, row in enumerate(rows)
        for text in [row["protocol"].replace('"num_images": 9', '"num_images": 8')]
    ]
    assert [len(data.points) for data in _compute([*rows, *others])] == [2, 2]


def test_unmeasured_speeds_leave_one_panel_and_no_points_are_refused(make_row):
    rows = [_priced(make_row, n) | {"sample_images_per_s": None} for n in (10, 50)]
    (data,) = _compute(rows)
    assert len(draw_price(data).axes) == 1
    with pytest.raises(ValueError, match="at least one point"):
        draw_price(replace(data, points=data.points.iloc[:0]))
