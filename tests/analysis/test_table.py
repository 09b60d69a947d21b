import json

import numpy as np
import pandas as pd
import pytest

from analysis.table import NUMERIC_COLUMNS, REQUIRED_COLUMNS, check_table, load_table


def test_every_numeric_column_is_a_required_one():
    assert set(NUMERIC_COLUMNS) <= set(REQUIRED_COLUMNS)


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
    assert all(checked[column].dtype == float for column in NUMERIC_COLUMNS)
    assert np.isnan(checked["generator_images"][1])
    assert checked["error"][1] is None


def test_an_empty_table_loads(load):
    assert load([]).empty
