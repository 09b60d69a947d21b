"""Types of the compiled table come from the columns' specification and never from the rows."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.table.columns import columns_of
from analysis.table.reading import load_table, load_tables, read_stored
from harness.plan.plan import make_plan
from harness.results.columns import COLUMNS, with_axes
from harness.results.rows import compile_table, make_row
from harness.storage.artifacts import Store

TYPES = {"text": pa.string(), "count": pa.int64(), "number": pa.float64()}
OWN = replace(
    COLUMNS["density_cv"], name="plugin.sharpness", meaning="how sharp", label="sharpness"
)
AXIS = replace(COLUMNS["patch_size"], name="axis.steps", meaning="axis of the sweep")


def row(name: str, **values):
    return dict.fromkeys(COLUMNS) | {"row_id": name, "status": "pending"} | values


@pytest.mark.parametrize("rows", [[], [row("a")], [{"row_id": "a", "status": "failed"}]])
def test_an_empty_column_has_its_type(tmp_path, rows):
    compile_table(rows, tmp_path)
    schema = pq.read_schema(tmp_path / "table.parquet")
    assert {name: schema.field(name).type for name in schema.names} == {
        name: TYPES[column.type] for name, column in COLUMNS.items()
    }
    table = load_table(tmp_path)
    for name, column in COLUMNS.items():
        assert table[name].dtype == (object if column.type == "text" else float), name


def test_a_count_that_is_missing_somewhere_stays_whole(tmp_path):
    compile_table([row("a", slices=3), row("b")], tmp_path)
    assert pd.read_csv(tmp_path / "table.csv", dtype=str)["slices"].fillna("").tolist() == ["3", ""]


def test_rows_read_back_from_their_files_give_the_same_table(tmp_path):
    rows = [row("a", guidance="none", rfid=1.0, num_images=None), row("b")]
    compile_table(rows, tmp_path)
    before = (tmp_path / "table.parquet").read_bytes()
    compile_table(json.loads(json.dumps(rows)), tmp_path)
    assert (tmp_path / "table.parquet").read_bytes() == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_joined_tables_keep_the_types_of_columns_that_one_of_them_lacks(tmp_path, order):
    plain, further = tmp_path / "plain", tmp_path / "further"
    for folder in (plain, further):
        folder.mkdir()
    compile_table([row("a")], plain)
    columns = COLUMNS | {OWN.name: OWN, AXIS.name: AXIS}
    compile_table([row("b", **{AXIS.name: None, OWN.name: 2.5})], further, columns)
    table = load_tables([(plain, further)[i] for i in order])
    assert table[AXIS.name].dtype == float
    assert table.set_index("row_id")[OWN.name].fillna(-1).to_dict() == {"a": -1.0, "b": 2.5}
    for name, column in COLUMNS.items():
        assert table[name].dtype == (object if column.type == "text" else float), name
    known = columns_of(table)[OWN.name]
    assert (known.label, known.better, known.of_tokenizer) == ("sharpness", "lower", True)


def test_empty_tables_join_with_all_their_columns(tmp_path):
    text = replace(COLUMNS["generator"], name="axis.sampler", meaning="axis of the sweep")
    for name, columns in (("one", COLUMNS | {text.name: text}), ("two", COLUMNS)):
        (tmp_path / name).mkdir()
        compile_table([], tmp_path / name, columns)
    table = load_tables([tmp_path / "one", tmp_path / "two"])
    assert table.empty
    assert table[text.name].dtype == object
    assert table["slices"].dtype == float


def test_axes_of_a_sweep_are_columns_that_say_so(load, tmp_path):
    sweep = load(
        "grid={tokenizer.latent_dim: [3, 2], alignment: [none, vf], seed: [0]}",
        "compare={tokenizer.latent_dim: 2}",
    )
    plan, store = make_plan(sweep), Store(tmp_path / "artifacts")
    rows = [make_row(each, sweep, store, {}) for each in plan.rows]
    compile_table(rows, tmp_path, with_axes(sweep.axes))
    table, schema = load_table(tmp_path), pq.read_schema(tmp_path / "table.parquet")
    assert table["axis.tokenizer.latent_dim"].tolist() == [3.0, 3.0, 2.0, 2.0]
    assert table["axis.alignment"].tolist() == ["none", "vf", "none", "vf"]
    assert table["schema_version"].tolist() == [3.0] * 4
    about = {k.decode(): v.decode() for k, v in schema.field("axis.alignment").metadata.items()}
    assert (about["axis"], about["values"], about["baseline"]) == (
        "categorical", '["none", "vf"]', '"none"',
    )  # fmt: skip
    about = {
        k.decode(): v.decode()
        for k, v in schema.field("axis.tokenizer.latent_dim").metadata.items()
    }
    assert (about["axis"], json.loads(about["values"]), json.loads(about["baseline"])) == (
        "numeric", [3, 2], 2,
    )  # fmt: skip
    assert schema.field("axis.tokenizer.latent_dim").type == pa.int64()
    assert load_table(tmp_path / "table.csv")["axis.alignment"].tolist()[1] == "vf"
    known = columns_of(table)["axis.alignment"]
    assert (known.type, known.label, known.is_measure) == ("text", "alignment", False)


def test_a_trial_that_two_sweeps_share_has_the_axes_of_each_and_one_name(load, tmp_path):
    one = load("grid={tokenizer.latent_dim: [2]}")
    other = load("grid={seed: [0], alignment: [none]}")
    store = Store(tmp_path)
    first, second = (make_row(make_plan(s).rows[0], s, store, {}) for s in (one, other))
    assert first["row_id"] == second["row_id"]
    assert {name for name in first if name.startswith("axis.")} == {"axis.tokenizer.latent_dim"}
    assert (second["axis.seed"], second["axis.alignment"]) == (0, "none")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_tables_of_earlier_schemas_join_those_with_axes(load, tmp_path, order):
    sweep = load("grid={tokenizer.latent_dim: [2]}")
    new = make_row(make_plan(sweep).rows[0], sweep, Store(tmp_path), {})
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    compile_table([row("a", schema_version=2)], tmp_path / "old")
    compile_table([new], tmp_path / "new", with_axes(sweep.axes))
    table = load_tables([(tmp_path / "old", tmp_path / "new")[i] for i in order])
    axis = table.set_index("schema_version")["axis.tokenizer.latent_dim"]
    assert axis[3.0] == 2.0
    assert pd.isna(axis[2.0])


def test_a_cell_that_a_spreadsheet_would_compute_is_text(tmp_path):
    rows = [{"row_id": f"r{n}", "tokenizer": t, "gfid": -1.5} for n, t in enumerate("=+-@x")]
    compile_table(rows, tmp_path)
    written = pd.read_csv(tmp_path / "table.csv")
    assert list(written["tokenizer"]) == ["'=", "'+", "'-", "'@", "x"]
    assert list(written["gfid"]) == [-1.5] * 5
    assert list(pd.read_parquet(tmp_path / "table.parquet")["tokenizer"]) == list("=+-@x")


@pytest.mark.parametrize("place", ["s3:x", "exp:2", "file:y", "git:z/w", "a=b"])
def test_a_folder_that_looks_like_an_address_is_a_folder(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path(place).mkdir(parents=True)
    compile_table([row("a")], Path(place))
    assert load_table(Path(place))["row_id"].tolist() == ["a"]
    for name in ("table.parquet", "table.csv"):
        assert (tmp_path / place / name).is_file()
        assert read_stored(Path(place) / name)["row_id"].tolist() == ["a"]
