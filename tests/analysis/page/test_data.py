import json

import numpy as np
import pytest

from analysis.group import analyse_group
from analysis.page.data import build_data, dump_data


@pytest.fixture
def protocol(dilemma_rows, load):
    return build_data([analyse_group("", load(dilemma_rows))])["protocols"][0]


def test_a_point_is_a_cell_with_the_rows_behind_it(protocol, dilemma_rows):
    means, rows = protocol["means"], protocol["rows"]
    assert len(means["dim"]) == 12
    assert len(rows["dim"]) == len(dilemma_rows) == 24
    for point, members in enumerate(means["members"]):
        values = [rows["metrics"]["gfid"][row] for row in members]
        assert means["metrics"]["gfid"][point] == pytest.approx(np.mean(values), rel=1e-5)
        expected = np.std(values, ddof=1) / np.sqrt(2)
        assert means["errors"]["gfid"][point] == pytest.approx(expected, rel=1e-4)
        assert {rows["dim"][row] for row in members} == {means["dim"][point]}


def test_axes_are_the_columns_that_differ_in_their_order(protocol):
    values = {axis["name"]: axis["values"] for axis in protocol["axes"]}
    assert values == {
        "alignment": ["none", "vf"],
        "latent_dim": ["4", "16", "64"],
        "generator_size": ["M", "S"],
    }
    seeds = protocol["rowAxes"]
    assert [axis["name"] for axis in seeds if not axis["follows"]] == ["tokenizer_seed"]


def test_an_axis_that_follows_another_needs_no_filter(make_row, load):
    rows = [make_row(), make_row(alignment="vf", alignment_encoder="dino", vf_weight=0.1)]
    axes = build_data([analyse_group("", load(rows))])["protocols"][0]["axes"]
    assert {axis["name"]: axis["follows"] for axis in axes} == {
        "alignment": "",
        "alignment_encoder": "alignment",
        "vf_weight": "alignment",
    }


def test_what_is_not_finite_is_null(make_row, load):
    rows = [make_row(psnr=np.inf), make_row(seed=1, psnr=np.nan), make_row(seed=2)]
    data = build_data([analyse_group("", load(rows))])
    assert data["protocols"][0]["rows"]["metrics"]["psnr"] == [None, None, 24.0]
    assert "NaN" not in dump_data(data)


def test_rows_that_are_not_done_are_no_points(make_row, load):
    failed = make_row(seed=1, status="failed", error="boom", gfid=None)
    protocol = build_data([analyse_group("", load([make_row(), failed]))])["protocols"][0]
    assert len(protocol["rows"]["dim"]) == 1


def test_no_text_ends_the_script_that_holds_the_data():
    text = dump_data({"name": "</script><!--<b>&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--<b>&\u2028"}
