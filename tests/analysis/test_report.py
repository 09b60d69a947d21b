import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.page.grids import index_grids, write_grids_page
from analysis.report import main, write_figures, write_report
from analysis.table.columns import REQUIRED_COLUMNS

pytestmark = pytest.mark.usefixtures("one_file_a_figure")
FIGURES = {
    f"{name}{end}"
    for name in ("frontier", "frontier.psnr", "dilemma", "scaling")
    for end in (".png", ".svg", ".pdf", ".wide.png", ".wide.pdf")
}
TABLES = {"results.md", "results.tex", "results.csv", "frontier.csv", "summary.txt"}


@pytest.mark.every_file
def test_a_results_folder_gives_figures_and_their_data(dilemma_rows, load, tmp_path):
    trial = load(dilemma_rows)["trial_id"][0]
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / f"{trial}.png").write_bytes(b"")
    written = write_figures(tmp_path)
    assert {path.name for path in written} == FIGURES | TABLES | {"grids.md", "report.html"}
    assert all(path.stat().st_size for path in written)
    assert {path.parent for path in written} == {tmp_path / "figures", tmp_path}
    points = pd.read_csv(tmp_path / "figures" / "frontier.csv", keep_default_na=False)
    assert len(points) == 12
    assert {"alignment", "latent_dim", "rfid", "gfid_se", "on_front"} <= set(points.columns)


@pytest.mark.every_file
def test_equal_tables_give_equal_files(dilemma_rows, load, tmp_path):
    load(dilemma_rows)
    first = write_figures(tmp_path, tmp_path / "a")
    second = write_figures(tmp_path, tmp_path / "b")
    assert len(first) == len(FIGURES | TABLES) + 1
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_metric_that_columns_name_has_a_frontier_of_its_own(make_row, load, tmp_path):
    load([make_row(latent_dim=dim, lpips=1 / dim) for dim in (4, 8)])
    report = write_report([tmp_path], columns=["lpips", "gfid", "ssim"])
    names = {path.name for path in report.files}
    assert "frontier.lpips.png" in names
    assert not any(name.startswith(("frontier.gfid", "frontier.ssim")) for name in names)


def test_each_guidance_setting_has_its_own_figures(make_row, load, tmp_path):
    cfg = make_row(guidance="cfg 2.0", guidance_scale=2.0, protocol_hash="cfg")
    load([make_row(), cfg])
    names = {path.name for path in write_figures(tmp_path)}
    assert {"frontier.png", "frontier.2.guidance-cfg-2.0.png"} <= names


def test_stale_figures_of_an_earlier_run_are_removed_and_nothing_else(make_row, load, tmp_path):
    stale = {"frontier.png", "frontier.2.guidance-cfg-2.0.svg", "dilemma.3.crop-none.pdf"}
    stale |= {"convergence.svg", "scaling.png", "diagnostics.2.crop-none.pdf", "guidance.2.png"}
    stale |= {"curves.generator.pdf", "results.2.crop-none.tex"}
    kept = {"frontier-paper.png", "frontier.txt", "frontier.svg.bak", "my.frontier.csv"}
    kept |= {"curves.png", "results.xlsx", "guidance-paper.png", "summary.md"}
    kept |= {"scaling.png.orig", "frontier.7.mine.png"}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "written.json").write_text(json.dumps([*stale, "../../elsewhere"]))
    (tmp_path.parent / "elsewhere").write_text("kept")
    for name in stale | kept:
        (tmp_path / "figures" / name).write_text("earlier")
    load([make_row(rfid=None)])
    written = {path.name for path in write_figures(tmp_path)} - {"report.html"}
    assert not written & stale
    there = {path.name for path in (tmp_path / "figures").iterdir()}
    assert there == written | kept | {"written.json"}
    assert (tmp_path.parent / "elsewhere").is_file()


def test_files_that_no_report_wrote_are_neither_removed_nor_overwritten(
    make_row, load, tmp_path, capsys
):
    load([make_row()])
    out = tmp_path / "paper"
    out.mkdir()
    (out / "scaling.png").write_text("mine")
    (out / "report.html").write_text("mine")
    assert main([str(tmp_path), "--out", str(out)]) == 2
    assert "report.html" in capsys.readouterr().err
    (out / "report.html").unlink()
    for _ in range(2):
        assert main([str(tmp_path), "--out", str(out)]) == 0
    assert (out / "scaling.png").read_text() == "mine"


def test_folders_of_one_name_are_joined_by_the_names_of_their_parents(make_row, tmp_path, capsys):
    folders = [tmp_path / parent / "results" for parent in ("x", "y")]
    for folder, dim in zip(folders, (4, 8), strict=True):
        folder.mkdir(parents=True)
        row = pd.DataFrame([make_row(latent_dim=dim)], columns=list(REQUIRED_COLUMNS))
        row.to_parquet(folder / "table.parquet")
    assert main([str(folder) for folder in folders]) == 0
    assert (tmp_path / "x" / "x+y" / "report.html").is_file()
    assert not (folders[0] / "report.html").exists()
    capsys.readouterr()


def test_a_joined_folder_that_is_a_results_folder_is_refused(make_row, tmp_path, capsys):
    for name in ("a", "b", "a+b"):
        (tmp_path / name).mkdir()
        row = pd.DataFrame([make_row()], columns=list(REQUIRED_COLUMNS))
        row.to_parquet(tmp_path / name / "table.parquet")
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "--out" in capsys.readouterr().err


def test_dollar_signs_and_markup_in_names_are_text_everywhere(dilemma_rows, load, tmp_path):
    rows = [
        row | {"alignment": "$_<b>|" if row["alignment"] == "vf" else "none"}
        for row in dilemma_rows
    ]
    table = load([row | {"dataset": "a$b$_{", "extractor": "x$"} for row in rows])
    name = table.loc[table["alignment"] != "none", "trial_id"].iloc[0]
    (tmp_path / "grids").mkdir()
    grids = pd.DataFrame([{"trial_id": name, "kind": "samples", "path": "grids/a b(1).png"}])
    page = write_grids_page(table, grids, results_dir=tmp_path).read_text()
    assert "| $_&lt;b&gt;\\| |" in page
    assert "(grids/a%20b%281%29.png)" in page
    write_figures(tmp_path)
    text = (tmp_path / "figures" / "results.md").read_text()
    assert "$_&lt;b&gt;\\|" in text
    assert "<b>" not in text
    assert "<u>" in text


def test_a_refused_table_leaves_the_figures_of_the_earlier_run(make_row, load, tmp_path):
    load([make_row()])
    written = write_figures(tmp_path)
    load([make_row()])
    pd.DataFrame([make_row(status="lost")]).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(ValueError, match="'status' must be one of"):
        write_figures(tmp_path)
    assert all(path.is_file() for path in written)


@pytest.mark.every_file
def test_one_row_gives_figures_where_out_says_and_exit_code_0(make_row, load, tmp_path, capsys):
    load([make_row()])
    assert main([str(tmp_path), "--out", str(tmp_path / "paper")]) == 0
    output = capsys.readouterr().out
    assert "One seed only" in output
    assert f"wrote {tmp_path / 'paper' / 'frontier.png'}" in output
    assert (tmp_path / "paper" / "frontier.svg").is_file()
    assert not (tmp_path / "figures").exists()


def test_rows_without_reconstruction_still_give_the_dilemma(make_row, load, tmp_path):
    load([make_row(rfid=None, psnr=None)])
    names = {path.name for path in write_figures(tmp_path)}
    assert "dilemma.png" in names
    assert "frontier.png" not in names


def test_an_empty_table_is_exit_code_2_and_writes_nothing(load, tmp_path, capsys):
    load([])
    assert main([str(tmp_path)]) == 2
    assert "it is empty" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "failed", "error": "boom", "gfid": None, "rfid": None}, "failed: boom"),
        ({"gfid": np.nan, "rfid": np.nan, "psnr": np.nan}, "gfid is missing"),
        ({"gfid": np.inf}, "gfid is missing or not finite"),
    ],
)
def test_a_table_without_a_measured_row_gives_a_page_that_says_why(
    make_row, load, tmp_path, capsys, values, message
):
    load([make_row(**values)])
    assert main([str(tmp_path)]) == 0
    assert message in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "No row has a generation distance:" in page
    assert message in page
    assert not list((tmp_path / "figures").glob("*.png"))


def test_several_sweeps_make_one_report_beside_the_first(make_row, tmp_path, capsys):
    for name, dim in (("a", 4), ("b", 8)):
        (tmp_path / name).mkdir()
        row = pd.DataFrame([make_row(latent_dim=dim)], columns=list(REQUIRED_COLUMNS))
        row.to_parquet(tmp_path / name / "table.parquet")
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert "2 rows: 2 done" in (tmp_path / "a+b" / "report.html").read_text()
    assert len(pd.read_csv(tmp_path / "a+b" / "figures" / "frontier.csv")) == 2
    assert not (tmp_path / "a" / "figures").exists()


def test_many_lines_are_thinned_to_the_best_and_the_report_says_so(make_row, load, tmp_path):
    rows = [make_row(generator_size=f"S{k}", gfid=1.0 + k, rfid=1.0) for k in range(40)]
    load(rows)
    report = write_report([tmp_path])
    assert "8 of 40 markers (size)" in report.words
    assert len(pd.read_csv(tmp_path / "figures" / "frontier.csv")) == 40


def test_a_missing_folder_is_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 2
    assert "must hold table.parquet or table.csv" in capsys.readouterr().err


def test_the_index_of_a_sweep_names_grids_that_no_trial_is_named_in(make_row, load, tmp_path):
    table = load([make_row(trial_id="t1")])
    (tmp_path / "grids").mkdir()
    for name in ("seed=0 samples.png", "t1_samples.png"):
        (tmp_path / "grids" / name).write_bytes(b"")
    lines = [
        "t1,samples,grids/seed=0 samples.png",
        "t1,gone,grids/gone.png",
        "t9,other,grids/x.png",
    ]
    text = "\n".join(["trial_id,kind,path", *lines])
    (tmp_path / "grids" / "index.csv").write_text(text)
    index = index_grids(tmp_path, table)
    assert list(zip(index["kind"], index["path"], strict=True)) == [
        ("samples", "grids/seed=0 samples.png"), ("samples", "grids/t1_samples.png"),
    ]  # fmt: skip


def test_grids_are_indexed_by_trial_and_shown_on_a_page(make_row, load, tmp_path):
    table = load([make_row(trial_id="t1"), make_row(trial_id="t1-0", seed=1)])
    for name in ("t1/samples.png", "t1-0_samples.png", "t1-0_reconstructions.png", "other.png"):
        (tmp_path / "grids" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "grids" / name).write_bytes(b"")
    index = index_grids(tmp_path, table)
    assert [Path(file) for file in index["file"]] == [tmp_path / path for path in index["path"]]
    found = set(index.drop(columns=["row_id", "file"]).itertuples(index=False, name=None))
    assert found == {
        ("t1", "samples", "grids/t1/samples.png"),
        ("t1-0", "samples", "grids/t1-0_samples.png"),
        ("t1-0", "reconstructions", "grids/t1-0_reconstructions.png"),
    }
    page = write_grids_page(table, index, results_dir=tmp_path)
    assert "| none | S | 4 | seed 0 | ![samples](grids/t1/samples.png)" in page.read_text()


def test_importing_the_report_leaves_pyplot_alone():
    check = "import analysis.report, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def write_folder(folder, rows, *, curves=False):
    """A results folder; of its training curves one term."""
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
    if curves:
        lines = [("tokenizer", "k", "t", step, step * 8, "loss", 1.0 / step) for step in (1, 2, 3)]
        columns = ["stage_kind", "key", "label", "step", "images", "term", "value"]
        pd.DataFrame(lines, columns=columns).to_parquet(folder / "curves.parquet")


def test_results_of_any_kind_make_one_report_and_out_holds_all_of_it(make_row, tmp_path, capsys):
    kinds = {
        "sweep": [make_row(), make_row(latent_dim=8)],
        "tokenizers": [
            make_row(generator=None, generator_size=None, gfid=None, row_id="r", trial_id="r")
        ],
        "diverged": [make_row(status="diverged", error="boom", gfid=None, rfid=None, seed=5)],
        "given": [
            make_row(provenance="given", generator_size=None, latent_dim=None, alignment=None)
            | {"tokenizer_key": None, "row_id": "g", "trial_id": "g", "sweep": "paper"}
        ],
        "old": [make_row(schema_version="1", latent_dim=16)],
    }
    for name, rows in kinds.items():
        write_folder(tmp_path / name, rows, curves=name in ("sweep", "old"))
    (tmp_path / "sweep" / "grids").mkdir()
    grid = tmp_path / "sweep" / "grids" / f"{kinds['sweep'][0]['trial_id']}_samples.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(grid)
    before = sorted(tmp_path.rglob("*"))
    for mix in (["sweep", "tokenizers"], ["diverged"], ["sweep"], ["given", "old"], list(kinds)):
        out = tmp_path.parent / "-".join(mix)
        folders = [str(tmp_path / name) for name in mix]
        assert main([*folders, "--out", str(out)]) == 0, capsys.readouterr().err
        assert (out / "report.html").is_file()
    assert sorted(tmp_path.rglob("*")) == before


def test_many_folders_make_a_report_whose_name_a_file_system_holds(make_row, tmp_path, capsys):
    folders = [tmp_path / f"{place:02d}_{'long' * 10}" for place in range(30)]
    for dim, folder in enumerate(folders, start=2):
        write_folder(folder, [make_row(latent_dim=dim)])
    for some in (folders, folders[:-1]):
        assert main(list(map(str, some))) == 0, capsys.readouterr().err
    pages = sorted(tmp_path.glob("*more*/report.html"))
    assert len(pages) == 2
    assert "30 rows: 30 done" in "".join(page.read_text() for page in pages)
