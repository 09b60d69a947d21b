import json
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.group import analyse_group
from analysis.page.data import build_data, dump_data
from analysis.table.columns import REQUIRED_COLUMNS
from analysis.table.reading import load_table


@pytest.fixture
def protocol(dilemma_rows, load):
    return build_data([analyse_group("", load(dilemma_rows))])["protocols"][0]


def test_a_point_is_a_cell_with_the_rows_behind_it(protocol, dilemma_rows):
    means, rows = protocol["means"], protocol["rows"]
    assert len(means["along"]) == 12
    assert len(rows["along"]) == len(dilemma_rows) == 24
    for point, members in enumerate(means["members"]):
        values = [rows["metrics"]["gfid"][row] for row in members]
        assert means["metrics"]["gfid"][point] == pytest.approx(np.mean(values), rel=1e-5)
        expected = np.std(values, ddof=1) / np.sqrt(2)
        assert means["errors"]["gfid"][point] == pytest.approx(expected, rel=1e-4)
        assert {rows["along"][row] for row in members} == {means["along"][point]}


def test_axes_are_the_columns_that_differ_in_their_order(protocol):
    values = {axis["name"]: axis["values"] for axis in protocol["axes"]}
    assert values == {
        "alignment": ["none", "vf"],
        "latent_dim": ["4", "16", "64"],
        "generator_size": ["S", "M"],
    }
    assert protocol["lines"]["marks"] == ["S", "M"]
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
    assert len(protocol["rows"]["along"]) == 1


def test_no_text_ends_the_script_that_holds_the_data():
    text = dump_data({"name": "</script><!--<b>&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--<b>&\u2028"}


@pytest.fixture
def load_axes(make_row, tmp_path):
    """Loads rows whose Parquet schema says which columns are axes, as a sweep's does."""

    def write_and_load(kinds, rows):
        made = [make_row(**{name: row[name] for name in row if "." not in name}) for row in rows]
        table = pd.DataFrame(made, columns=list(REQUIRED_COLUMNS))
        for name in kinds:
            table[name] = [row.get(name) for row in rows]
        stored = pa.Table.from_pandas(table, preserve_index=False)
        for place, field in enumerate(stored.schema):
            if field.name in kinds:
                kind = kinds[field.name]
                label = field.name.removeprefix("axis.").split(".")[-1]
                about = {"type": "number" if kind == "numeric" else "text", "axis": kind}
                values = list(dict.fromkeys(row.get(field.name) for row in rows))
                about |= {"values": json.dumps(values), "baseline": json.dumps(values[0])}
                field = field.with_metadata({**about, "label": label, "description": "an axis"})
                stored = stored.set_column(place, field, stored.column(place))
        pq.write_table(stored, tmp_path / "table.parquet")
        return load_table(tmp_path)

    return write_and_load


def test_axes_are_those_that_the_table_names(load_axes):
    kinds = {"axis.tokenizer.learning_rate": "numeric", "axis.posterior": "categorical"}
    kinds |= {"axis.tokenizer.decoder_width": "numeric", "axis.seed": "seed"}
    rows = [
        {"axis.tokenizer.learning_rate": rate, "axis.posterior": posterior, "axis.seed": "0"}
        | {"tokenizer_key": f"{rate} {posterior} {width}", "row_id": f"{rate} {posterior} {width}"}
        | {"trial_id": f"{rate} {posterior} {width}"}
        | {"axis.tokenizer.decoder_width": width, "latent_dim": index + 2}
        for index, (rate, posterior, width) in enumerate(
            product((1e-6, 1e-3), ("none", "kl"), (8, 16))
        )
    ]
    data = build_data([analyse_group("", load_axes(kinds, rows))])["protocols"][0]
    assert [(axis["name"], axis["values"]) for axis in data["axes"]] == [
        ("axis.tokenizer.learning_rate", ["1e-06", "0.001"]),
        ("axis.posterior", ["none", "kl"]),
        ("axis.tokenizer.decoder_width", ["8", "16"]),
    ]
    lines = data["lines"]
    assert lines["prefix"] == "learning_rate "
    assert len(lines["names"]) == 8
    assert "posterior kl, decoder_width 16, learning_rate 0.001" in lines["names"]
    assert set(data["rows"]["along"]) == {1e-6, 1e-3}
    assert lines["colours"] == ["posterior none", "posterior kl"]
    assert lines["marks"] == ["decoder_width 8", "decoder_width 16"]
    assert lines["rests"] == [""]


def test_what_the_axes_do_not_say_is_an_axis_beside_them(load_axes):
    rows = [
        {"axis.alignment": "none"},
        {"axis.alignment": "vf", "alignment": "vf", "alignment_encoder": "dino"},
        {"axis.alignment": "vf", "alignment": "vf", "alignment_encoder": "mae"},
    ]
    table = load_axes({"axis.alignment": "categorical"}, rows)
    axes = build_data([analyse_group("", table)])["protocols"][0]["axes"]
    assert [axis["name"] for axis in axes] == ["axis.alignment", "alignment_encoder"]
