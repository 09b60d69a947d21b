import os
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest

from analysis.compare import compare_tables, describe_comparison, main
from analysis.table.reading import check_table


def _table(rows):
    return check_table(pd.DataFrame(rows))


def _seeds(make_row, values, **same):
    return [make_row(seed=seed, gfid=gfid, **same) for seed, gfid in enumerate(values)]


def _verdicts(comparison, metric="gfid"):
    mine = comparison.changes[comparison.changes["metric"] == metric]
    return mine["verdict"].tolist()


def test_a_change_beyond_the_noise_of_the_seeds_is_told(make_row):
    first = _table(_seeds(make_row, (3.0, 3.1, 3.2)))
    second = _table(_seeds(make_row, (4.0, 4.1, 4.2)))
    comparison = compare_tables(first, second)
    assert _verdicts(comparison) == ["changed"]
    assert _verdicts(comparison, "psnr") == ["equal"]
    words = describe_comparison(comparison, first="a", second="b")
    assert "none, S, d=4: gfid 3.1 ± 0.058 -> 4.1 ± 0.058 (+32.3%), worse" in words
    assert "1 of 1 comparisons" in words


def test_a_change_within_the_noise_is_not(make_row):
    first, second = _table(_seeds(make_row, (3, 5, 7))), _table(_seeds(make_row, (4, 6, 8)))
    assert _verdicts(compare_tables(first, second)) == ["within noise"]


def test_rows_are_matched_by_configuration_not_by_name(make_row):
    first = _table([make_row(row_id="x", trial_id="x", gfid=3.0)])
    second = _table([make_row(row_id="y", trial_id="y", gfid=3.0)])
    assert _verdicts(compare_tables(first, second)) == ["equal"]


def test_single_rows_have_unknown_noise_unless_sampling_seeds_tell_it(make_row):
    first, second = _table([make_row(gfid=3.0)]), _table([make_row(gfid=4.0)])
    comparison = compare_tables(first, second)
    assert _verdicts(comparison) == ["noise unknown"]
    assert "cannot be said" in describe_comparison(comparison, first="a", second="b")
    rows = [_table([make_row(gfid=gfid) | {"gfid_se": 0.001}]) for gfid in (3.0, 4.0)]
    assert _verdicts(compare_tables(*rows)) == ["changed"]


def test_unlike_protocols_are_not_compared(make_row):
    first, second = _table([make_row()]), _table([make_row(protocol_hash="other", gfid=9.0)])
    comparison = compare_tables(first, second)
    assert _verdicts(comparison) == ["unlike protocol"]
    assert _verdicts(comparison, "rfid") == ["equal"]
    assert "none, S, d=4: gfid" in describe_comparison(comparison, first="a", second="b")


def test_what_only_one_table_has_is_listed_with_the_reason(make_row):
    first = _table([make_row(), make_row(latent_dim=16)])
    failed = make_row(latent_dim=16, status="failed", error="boom", gfid=None, rfid=None)
    second = _table([make_row(), failed, make_row(latent_dim=64)])
    comparison = compare_tables(first, second)
    assert comparison.only_first["reason"].tolist() == ["failed: boom"]
    assert comparison.only_second["name"].tolist() == ["none, S, d=64"]
    assert "Done only in B: 1." in describe_comparison(comparison, first="a", second="b")


def test_a_failed_row_without_an_error_is_just_failed(make_row):
    first = _table([make_row(), make_row(latent_dim=16)])
    failed = make_row(latent_dim=16, status="failed", gfid=None, rfid=None)
    assert compare_tables(first, _table([make_row(), failed])).only_first["reason"][0] == "failed"


def test_snapshots_and_guidance_are_configurations_of_their_own(make_row):
    rows = [make_row(generator_images=images) for images in (1000, 2000)]
    comparison = compare_tables(_table(rows), _table(rows))
    names = comparison.changes["name"].unique().tolist()
    assert names == ["none, S, d=4, 1,000 images", "none, S, d=4, 2,000 images"]


def test_tables_of_older_schema_and_without_common_rows_compare_to_nothing(make_row):
    empty = _table([make_row(status="failed", gfid=None, rfid=None)])
    comparison = compare_tables(empty, _table([make_row()]))
    assert comparison.changes.empty
    assert "No configuration" in describe_comparison(comparison, first="a", second="b")


def test_the_command_prints_and_writes_every_number(make_row, tmp_path, capsys):
    for name, gfid in (("a", 3.0), ("b", 4.0)):
        (tmp_path / name).mkdir()
        pd.DataFrame([make_row(gfid=gfid)]).to_csv(tmp_path / name / "table.csv", index=False)
    out = tmp_path / "changes.csv"
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert "noise unknown" in capsys.readouterr().out
    assert set(pd.read_csv(out)["metric"]) == {"rfid", "psnr", "gfid", "label_accuracy"}


def test_a_reader_that_leaves_ends_the_command_without_a_traceback(make_row, tmp_path):
    pd.DataFrame([make_row()]).to_csv(tmp_path / "table.csv", index=False)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "analysis.compare", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""


@pytest.mark.parametrize("missing", ["a", "b"])
def test_a_missing_folder_is_exit_code_2(make_row, tmp_path, capsys, missing):
    for name in {"a", "b"} - {missing}:
        (tmp_path / name).mkdir()
        pd.DataFrame([make_row()]).to_csv(tmp_path / name / "table.csv", index=False)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "must hold table.parquet or table.csv" in capsys.readouterr().err


def test_gfid_and_rfid_lead_however_much_others_change(make_row):
    rows = [
        _seeds(make_row, values, psnr=psnr, rfid=rfid)
        for values, psnr, rfid in (((3.0, 3.01), 10.0, 2.0), ((3.3, 3.31), 90.0, 2.1))
    ]
    first, second = map(_table, rows)
    for table, spread in ((first, 0.01), (second, 0.02)):
        table["psnr"] += spread * table["seed"]
        table["rfid"] += spread * table["seed"] / 10
    changed = compare_tables(first, second).having("changed")
    assert changed["metric"].tolist() == ["gfid", "rfid", "psnr"]
    # Tokenizers alone: reconstruction leads.
    alone = [table.assign(gfid=None, label_accuracy=None) for table in (first, second)]
    assert compare_tables(*alone).having("changed")["metric"].tolist() == ["rfid", "psnr"]


def test_a_sweep_without_generators_is_compared_by_its_tokenizers(make_row):
    lacking = ("generator", "generator_size", "generator_seed", "generator_params",
               "generator_images", "guidance", "guidance_scale", "gfid", "label_accuracy",
               "protocol_hash")  # fmt: skip
    alone = [make_row(seed=s, rfid=5.0 + s / 10) | dict.fromkeys(lacking) for s in (0, 1)]
    # Two generators on each tokenizer: its reconstruction counts once.
    both = [
        make_row(seed=s, rfid=1.0 + s / 10, row_id=f"{s}{size}", generator_size=size)
        for s in (0, 1)
        for size in ("S", "B")
    ]
    for first, second, change in ((both, alone, 4.0), (alone, both, -4.0)):
        comparison = compare_tables(_table(first), _table(second))
        rfid: Any = comparison.changes.set_index("metric").loc["rfid"]
        assert rfid["change"] == pytest.approx(change)
        assert (rfid["first_seeds"], rfid["second_seeds"]) == (2, 2)
        assert "gfid" not in set(comparison.changes["metric"])
        assert comparison.only_first.empty
        words = describe_comparison(comparison, first="a", second="b")
        assert "One of both has no generators: the tokenizers alone are compared." in words
