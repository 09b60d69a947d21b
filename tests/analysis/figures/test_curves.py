import numpy as np
import pandas as pd
import pytest

from analysis.figures.curves import CURVE_COLUMNS, compute_curves, draw_curves, load_curves
from analysis.table.reading import check_table


def _curve(key, values, *, kind="tokenizer", term="reconstruction"):
    return [
        {
            "stage_kind": kind,
            "key": key,
            "label": f"{kind} {key}",
            "step": step,
            "images": 64 * step,
            "term": term,
            "value": value,
        }
        for step, value in enumerate(values)
    ]


@pytest.fixture
def table(make_row):
    return check_table(
        pd.DataFrame([make_row(seed=s, tokenizer_key=key) for s, key in enumerate("ab")])
    )


def test_stages_of_a_cell_are_averaged_over_their_seeds(table):
    curves = pd.DataFrame(_curve("a", [4.0, 2.0]) + _curve("b", [6.0, 3.0]))
    (data,) = compute_curves(curves, table)
    assert data.points["value"].tolist() == [5.0, 2.5]
    assert data.points["low"].tolist() == [4.0, 2.0]
    assert data.points["num_stages"].tolist() == [2, 2]
    assert data.points["shape"].unique().tolist() == ["d=4"]


def test_stages_that_no_row_shows_go_by_their_label(table):
    (data,) = compute_curves(pd.DataFrame(_curve("z", [1.0], kind="encoder")), table)
    assert data.points["colour"].tolist() == ["encoder z"]


def test_values_that_are_not_finite_are_left_out_and_counted(table):
    (data,) = compute_curves(pd.DataFrame(_curve("a", [4.0, np.nan, np.inf])), table)
    assert len(data.points) == 1
    assert data.left_out == ["2 values not finite"]
    assert compute_curves(pd.DataFrame(_curve("a", [np.nan])), table) == []


def test_a_figure_has_a_panel_a_term_and_one_figure_a_kind(table):
    curves = pd.DataFrame(
        _curve("a", [9.0, 1.0])
        + _curve("a", [0.2, 0.1], term="kl")
        + _curve("a", [0.3, 0.2], term="vf")
        + _curve("g", [1.0, 0.5], kind="generator", term="velocity")
    )
    first, second = compute_curves(curves, table)
    titles = [a.get_title(loc="left") for a in draw_curves(first).axes if a.get_visible()]
    assert titles == ["reconstruction", "KL divergence (nats\nper image)", "vf"]
    assert second.stage_kind == "generator"


def test_l1_is_the_mean_per_pixel_value_that_the_live_view_shows(table):
    summed = [0.5 * 3 * 16 * 16, 0.25 * 3 * 16 * 16]
    (data,) = compute_curves(pd.DataFrame(_curve("a", summed, term="l1")), table)
    assert data.points["value"].tolist() == [0.5, 0.25]


def test_terms_that_show_nothing_are_left_out_and_said(table):
    lines = [
        *_curve("a", [9.0, 1.0], term="vf_cos"),
        *_curve("a", [1.0, 1.0], term="weight_l1"),
        *_curve("a", [7.0, 2.0], term="weight_vf_cos"),
        *_curve("a", [7.01, 2.01], term="weight_vf_distmat"),
        *_curve("b", [9.0, 1.0], term="kl"),
        *_curve("b", [1e-6, 1e-6], term="weight_kl"),
    ]
    (data,) = compute_curves(pd.DataFrame(lines), table)
    assert data.terms() == ["vf_cos", "weight_vf_cos", "kl"]
    assert data.left_out[:3] == [
        "weight of l1 is 1 throughout",
        "weight of VF: distance matrix: as weight of VF: cosine",
        "weight of KL divergence is 1e-06 throughout",
    ]


def test_long_curves_are_smoothed_without_markers_over_what_was_recorded(table):
    recorded = 5.0 + np.random.default_rng(0).normal(size=400)
    (data,) = compute_curves(pd.DataFrame(_curve("a", recorded)), table)
    assert data.points["smooth"][100] == pytest.approx(recorded[90:110].mean())
    smooth, raw = draw_curves(data).axes[0].lines
    assert np.asarray(raw.get_ydata()) == pytest.approx(recorded)
    assert [line.get_marker() for line in (smooth, raw)] == ["None", "None"]
    assert (raw.get_alpha(), smooth.get_alpha()) == (0.3, None)
    (short,) = compute_curves(pd.DataFrame(_curve("a", [3.0, 1.0])), table)
    assert [line.get_marker() for line in draw_curves(short).axes[0].lines] == ["o"]


@pytest.mark.parametrize("name", ["curves.parquet", "curves.csv"])
def test_curves_are_read_from_either_format(tmp_path, name):
    curves = pd.DataFrame(_curve("a", [4.0, 2.0])).assign(trial_ids="t")
    if name.endswith("csv"):
        curves.to_csv(tmp_path / name, index=False)
    else:
        curves.to_parquet(tmp_path / name)
    assert load_curves(tmp_path)["value"].tolist() == [4.0, 2.0]


def test_a_folder_without_curves_gives_none(tmp_path, table):
    curves = load_curves(tmp_path)
    assert list(curves.columns) == list(CURVE_COLUMNS)
    assert compute_curves(curves, table) == []


def test_a_folder_without_curves_takes_no_type_from_anothers(tmp_path):
    pd.DataFrame(_curve("a", [4.0, 2.0])).to_csv(tmp_path / "curves.csv", index=False)
    known, none = load_curves(tmp_path), load_curves(tmp_path / "absent")
    for order in ([known, none], [none, known]):
        joined = pd.concat(order, ignore_index=True)
        assert [joined[name].dtype for name in ("step", "images", "value")] == [int, int, float]


def test_a_wrong_file_of_curves_is_refused(tmp_path):
    pd.DataFrame({"key": ["a"]}).to_csv(tmp_path / "curves.csv", index=False)
    with pytest.raises(ValueError, match="but lacks stage_kind"):
        load_curves(tmp_path)
    (tmp_path / "curves.parquet").write_bytes(b"PAR?")
    with pytest.raises(ValueError, match="must be a readable parquet"):
        load_curves(tmp_path)
