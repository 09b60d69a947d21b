import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.table.columns import REQUIRED_COLUMNS, columns_of, known_columns
from analysis.table.reading import check_table, load_table, load_tables


def test_csv_and_parquet_give_the_same_table(make_row, tmp_path):
    failed = make_row(seed=1, status="failed", error="none", gfid=None, rfid=np.nan)
    rows = pd.DataFrame([make_row(protocol_hash="12e5"), failed])
    rows.to_csv(tmp_path / "table.csv", index=False)
    rows.to_parquet(tmp_path / "other.parquet")
    from_csv, from_parquet = load_table(tmp_path), load_table(tmp_path / "other.parquet")
    pd.testing.assert_frame_equal(from_csv, from_parquet)
    assert from_csv["alignment"].tolist() == ["none", "none"]
    assert from_csv["protocol_hash"][0] == "12e5"


@pytest.mark.parametrize("column", list(REQUIRED_COLUMNS))
def test_a_missing_column_is_refused_by_file_and_name(make_row, tmp_path, column):
    file = tmp_path / "table.csv"
    pd.DataFrame([make_row()]).drop(columns=column).to_csv(file, index=False)
    with pytest.raises(ValueError, match=f"table.csv must have the column '{column}'"):
        load_table(tmp_path)


def test_a_misspelt_column_is_suggested(make_row, tmp_path):
    table = pd.DataFrame([make_row()]).rename(columns={"gfid": "gfids"})
    table.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match="is 'gfids' meant"):
        load_table(tmp_path)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold table.parquet or table.csv"):
        load_table(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("table.parquet", b"PAR?"), ("table.csv", b"")])
def test_an_unreadable_table_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must be a readable"):
        load_table(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "finished"}, "'status' must be one of"),
        ({"status": None}, "'status' must be one of"),
        ({"protocol_hash": None}, "'protocol_hash' must be known where 'gfid' is"),
        (
            {"reconstruction_protocol_hash": None},
            "'reconstruction_protocol_hash' must be known where 'rfid' is",
        ),
        ({"alignment": None}, "'alignment' must be known"),
        ({"generator_seed": None}, "'generator_seed' must be known"),
        ({"tokenizer_key": None}, "'tokenizer_key' must be known where 'rfid' is"),
        ({"latent_dim": None}, "'latent_dim' must be known"),
        ({"protocol": "{"}, "'protocol' of row .* must be a JSON object"),
        ({"protocol": json.dumps([1])}, "'protocol' of row .* must be a JSON object"),
        ({"gfid": "three"}, "'gfid' must hold numbers, but row 1 has 'three'"),
    ],
)
def test_a_wrong_value_is_refused_by_column(make_row, load, values, message):
    with pytest.raises(ValueError, match=message):
        load([make_row(**values)])


def test_a_repeated_row_is_refused(make_row, load):
    with pytest.raises(ValueError, match="'row_id' must be unique, but row a has"):
        load([make_row(row_id="a"), make_row(row_id="a", seed=1)])


def test_missing_values_of_every_kind_become_nan_or_none(make_row):
    rows = pd.DataFrame([make_row(), make_row(seed=1, status="failed", gfid=None, rfid=None)])
    nullable = rows.astype({"generator_images": "Int64"})
    nullable.loc[1, ["generator_images", "error"]] = pd.NA
    checked = check_table(nullable)
    for name, column in known_columns().items():
        assert checked[name].dtype == (float if column.is_number else object)
    assert np.isnan(checked["generator_images"][1])
    assert checked["error"][1] is None


def test_an_empty_table_loads(load):
    assert load([]).empty


def test_a_table_of_the_first_schema_has_later_columns_as_missing(make_row, load):
    table = load([make_row()])
    assert set(known_columns()) <= set(table.columns)
    assert table["sfid"].dtype == float
    assert table["sfid"].isna().all()
    assert table["protocol_name"].tolist() == [None]


def test_a_later_column_is_read_as_its_kind(make_row, tmp_path):
    row = make_row(schema_version=2) | {"sfid": 4.25, "rank_deficient": "yes"}
    pd.DataFrame([row]).to_csv(tmp_path / "table.csv", index=False)
    table = load_table(tmp_path)
    assert (table["sfid"][0], table["rank_deficient"][0]) == (4.25, "yes")


def test_axes_of_a_csv_file_are_known_by_their_names(make_row, tmp_path):
    values = [("b", 0.1, 0), ("b", 0.2, 1), ("a", 0.1, 0)]
    names = ("axis.loss", "axis.tokenizer.learning_rate", "axis.seed")
    rows = [
        make_row(row_id=str(n)) | dict(zip(names, v, strict=True)) for n, v in enumerate(values)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    table = load_table(tmp_path)
    axes = [columns_of(table)[name] for name in names]
    assert [axis.axis for axis in axes] == ["categorical", "numeric", "seed"]
    assert (axes[0].baseline, axes[1].values, axes[2].baseline) == ('"b"', "[0.1, 0.2]", "null")
    assert table["axis.tokenizer.learning_rate"].tolist() == [0.1, 0.2, 0.1]


def _describe(table, **about):
    """Writes a column's words into a table's schema, as the harness does."""
    position = table.schema.get_field_index("axis.x")
    field = table.schema.field(position).with_metadata(about)
    return table.cast(table.schema.set(position, field))


def _stored(folder, values, **about):
    rows = [make | {"axis.x": value} for make, value in values]
    folder.mkdir()
    table = _describe(pa.Table.from_pandas(pd.DataFrame(rows)), **about)
    pq.write_table(table, folder / "table.parquet")
    return folder


def test_a_column_that_only_its_schema_knows_is_what_the_schema_says(make_row, tmp_path):
    about = {"type": "text", "description": "an axis", "label": "x"}
    table = load_table(_stored(tmp_path / "a", [(make_row(), 4)], **about))
    assert table["axis.x"].tolist() == ["4"]
    assert columns_of(table)["axis.x"].label == "x"
    kept = table[table["status"] == "done"].assign(more=1).sort_values("row_id")
    assert columns_of(kept)["axis.x"] == columns_of(table)["axis.x"]


def test_types_that_tables_describe_differently_become_the_wider_one(make_row, tmp_path):
    number = _stored(tmp_path / "n", [(make_row(), 4)], type="number", description="an axis")
    text = _stored(tmp_path / "t", [(make_row(seed=1), "none")], type="text", description="it")
    plain = _stored(tmp_path / "p", [(make_row(seed=2), None)])
    assert load_tables([number, text])["axis.x"].tolist() == ["4.0", "none"]
    assert load_tables([plain, number])["axis.x"].dtype == float
    assert load_tables([plain, text])["axis.x"].tolist() == [None, "none"]


def test_a_type_that_is_none_is_refused_by_column_and_file(make_row, tmp_path):
    with pytest.raises(ValueError, match=r"table.parquet must be .*'axis.x' must be one of"):
        load_table(_stored(tmp_path / "a", [(make_row(), 4)], type="complex"))


def test_a_folder_like_a_partition_adds_no_column(make_row, tmp_path):
    folder = _stored(tmp_path / "kid=7", [(make_row(), 4)])
    assert load_table(folder)["kid"].isna().all()


def _write(folder, rows):
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder


def test_tables_of_unlike_schema_are_joined_with_their_origin(make_row, tmp_path):
    old = _write(tmp_path / "old", [make_row(schema_version=1)])
    new = _write(tmp_path / "new", [make_row(seed=1, schema_version=2) | {"kid": 0.5}])
    table = load_tables([old, new])
    assert table["kid"].isna().tolist() == [True, False]
    assert table["results_dir"].tolist() == [str(old), str(new)]


def test_a_row_that_tables_share_stands_once_as_done(make_row, tmp_path):
    failed = make_row(row_id="a", status="failed", gfid=None, rfid=None)
    first = _write(tmp_path / "first", [failed, make_row(row_id="b", seed=1)])
    second = _write(tmp_path / "second", [make_row(row_id="a"), make_row(row_id="b", seed=1)])
    table = load_tables([first, second])
    assert sorted(table["row_id"]) == ["a", "b"]
    assert (table["status"] == "done").all()


def test_a_row_with_two_results_is_refused(make_row, tmp_path):
    first = _write(tmp_path / "first", [make_row(row_id="a", gfid=3.0)])
    second = _write(tmp_path / "second", [make_row(row_id="a", gfid=4.0)])
    with pytest.raises(ValueError, match=r"row a has 3 .*first\) and 4 .*analysis.compare"):
        load_tables([first, second])


def test_empty_tables_join_to_an_empty_or_the_other_one(make_row, tmp_path):
    empty = _write(tmp_path / "empty", pd.DataFrame(columns=list(REQUIRED_COLUMNS)))
    full = _write(tmp_path / "full", [make_row()])
    assert load_tables([empty, empty]).empty
    assert len(load_tables([empty, full])) == 1
    with pytest.raises(ValueError, match="none came"):
        load_tables([])
