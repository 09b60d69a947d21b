import json
from dataclasses import replace

import pandas as pd
import pytest

from analysis.figures.guidance import compute_guidance, draw_guidance
from analysis.table.reading import check_table


def _guided(make_row, scale, *, steps=50, interval=0.0, **values):
    guidance = {"kind": "none"}
    if scale > 1:
        guidance = {"kind": "classifier_free", "scale": scale, "start": interval}
    protocol = {"guidance": guidance, "sampler": {"num_steps": steps}}
    inception = values.pop("inception_score", 10.0 * scale)
    return make_row(
        guidance="none" if scale == 1 else f"cfg {scale} {interval}",
        guidance_scale=scale,
        protocol=json.dumps(protocol),
        protocol_hash=json.dumps(protocol),
        trial_id=values.pop("trial_id", f"t{steps}"),
        row_id=json.dumps([protocol, values]),
        **values,
    ) | {"inception_score": inception}


def _compute(rows):
    return compute_guidance(check_table(pd.DataFrame(rows)))


def test_scales_of_otherwise_equal_protocols_make_one_line(make_row):
    rows = [_guided(make_row, scale, gfid=5 - scale) for scale in (1.0, 2.0, 3.0)]
    (data,) = _compute(rows)
    assert data.points["guidance_scale"].tolist() == [1, 2, 3]
    assert data.points["gfid"].tolist() == [4, 3, 2]
    assert data.points["inception_score"].tolist() == [10, 20, 30]
    assert data.points["family"].nunique() == 1


def test_an_unguided_row_without_a_scale_is_a_scale_of_its_own(make_row):
    unguided = _guided(make_row, 1.0) | {"guidance_scale": None}
    (data,) = _compute([unguided, _guided(make_row, 2.0)])
    assert data.points["guidance_scale"].tolist() == [1, 2]


def test_a_scale_for_each_channel_group_is_not_taken_for_none(make_row):
    several = _guided(make_row, 4.0) | {"guidance_scale": None}
    (data,) = _compute([_guided(make_row, scale) for scale in (1.0, 2.0)] + [several])
    assert data.points["guidance_scale"].tolist() == [1, 2]


def test_unlike_samplers_are_kept_apart(make_row):
    rows = [_guided(make_row, s, steps=n) for s in (1.0, 2.0) for n in (10, 50)]
    assert [len(data.points) for data in _compute(rows)] == [2, 2]


def test_guidance_intervals_are_lines_of_their_own_from_one_start(make_row):
    rows = [_guided(make_row, 1.0)]
    rows += [_guided(make_row, s, interval=i) for s in (2.0, 3.0) for i in (0.0, 0.1)]
    (data,) = _compute(rows)
    scales = data.points.groupby("family")["guidance_scale"].agg(list)
    assert [sorted(line) for line in scales] == [[1, 2, 3], [1, 2, 3]]


def test_one_scale_or_unknown_protocols_give_no_figure(make_row):
    assert _compute([_guided(make_row, 1.0)]) == []
    unknown = {"protocol": None}
    assert (
        _compute([_guided(make_row, s) | unknown | {"protocol_hash": str(s)} for s in (1.0, 2.0)])
        == []
    )
    assert _compute([make_row(status="failed", gfid=None, rfid=None)]) == []


def test_the_inception_score_has_a_panel_where_it_was_measured(make_row):
    rows = [_guided(make_row, scale) for scale in (1.0, 2.0)]
    (with_score,) = _compute(rows)
    (without,) = _compute([row | {"inception_score": None} for row in rows])
    assert [axes.get_ylabel() for axes in draw_guidance(with_score).axes] == [
        "generation:\nin-domain Fréchet\ndistance",
        "inception score",
    ]
    assert len(draw_guidance(without).axes) == 1


def test_no_points_are_refused(make_row):
    (data,) = _compute([_guided(make_row, scale) for scale in (1.0, 2.0)])
    with pytest.raises(ValueError, match="at least one point"):
        draw_guidance(replace(data, points=data.points.iloc[:0]))
