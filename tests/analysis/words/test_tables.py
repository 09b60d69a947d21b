import io
import shutil
import subprocess

import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.table.reading import check_table
from analysis.words.tables import (
    compute_result_table,
    escape_latex,
    format_csv,
    format_latex,
    format_markdown,
)


def _table(rows):
    return compute_result_table(compute_cells(check_table(pd.DataFrame(rows)), needs=("gfid",)))


@pytest.fixture
def three_rows(make_row):
    """Three dims with known ranks: gFID rises and PSNR rises with the dim."""
    return [
        make_row(latent_dim=dim, seed=seed, gfid=gfid + seed, psnr=psnr)
        for dim, gfid, psnr in ((4, 3.0, 20.0), (16, 9.0, 25.0), (64, 27.0, 30.0))
        for seed in (0, 1)
    ]


def test_ranks_follow_each_metrics_direction(three_rows):
    table = _table(three_rows)
    assert table.rows["gfid_rank"].tolist() == [1, 2, 0]
    assert table.rows["psnr_rank"].tolist() == [0, 2, 1]
    assert "lpips" not in table.decimals


def test_equal_means_share_a_rank_and_missing_ones_have_none(make_row):
    values = ((4, 3.0, 2.0), (16, 3.0, None), (64, 4.0, 2.5))
    table = _table([make_row(latent_dim=d, gfid=g, rfid=r) for d, g, r in values])
    assert table.rows["gfid_rank"].tolist() == [1, 1, 2]
    assert table.rows["rfid_rank"].tolist() == [1, 0, 2]
    assert table.rows["psnr_rank"].tolist() == [0, 0, 0]


def test_only_fid_is_called_fid(make_row):
    head = format_markdown(_table([make_row(distance_name="FID")])).splitlines()[0]
    assert "rFID ↓" in head
    assert "gFID ↓" in head
    assert "FID" not in format_markdown(_table([make_row()])).splitlines()[0]


def test_markdown_marks_best_and_second_with_their_errors(three_rows):
    lines = format_markdown(_table(three_rows)).splitlines()
    assert lines[0].startswith("| alignment | size | latent dim | seeds | reconstruction ↓ |")
    assert "| generation ↓ |" in lines[0]
    assert "PSNR (dB) ↑" in lines[0]
    assert "**3.50** ± 0.50" in lines[2]
    assert "<u>9.50</u> ± 0.50" in lines[3]


def test_latex_keeps_to_booktabs_and_escapes_the_sweeps_texts(make_row):
    rows = [make_row(alignment="vf_50%"), make_row(latent_dim=16, gfid=4.0)]
    rows = [row | {"dataset": "a&b_c"} for row in rows]
    text = format_latex(_table(rows))
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{3.00}", r"\underline{4"):
        assert command in text
    assert r"vf\_50\%" in text
    assert r"a\&b\_c" in text
    body = text.split(r"\midrule")[1].splitlines()[1]
    assert body.count("&") == text.splitlines()[4].count("&")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
def test_latex_compiles_and_fits_a_column(make_row, tmp_path):
    names = {"alignment": "a_rather_long_name & 50%^~", "alignment_encoder": "vit_large#1"}
    rows = [
        make_row(**names, latent_dim=dim, seed=seed, gfid=5.0 + seed, inception_score=2.0 + dim)
        for dim in (4, 16)
        for seed in (0, 1)
    ]
    table = _table([*rows, make_row(generator_size="a_long_size")])
    assert len(table.shown) == 5
    document = (
        r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}\begin{document}"
        r"\begin{table}" + format_latex(table) + r"\end{table}\end{document}"
    )
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log


def test_every_special_character_of_latex_is_escaped():
    assert escape_latex(r"\{}$%_#&^~") == (
        r"\textbackslash{}\{\}\$\%\_\#\&\textasciicircum{}\textasciitilde{}"
    )


def test_csv_holds_the_full_numbers_and_ranks(three_rows):
    table = pd.read_csv(io.StringIO(format_csv(_table(three_rows))))
    assert table["gfid"].tolist() == [3.5, 9.5, 27.5]
    assert table["gfid_rank"].tolist() == [1, 2, 0]
    assert table["gfid_se"].tolist() == [0.5] * 3


def test_footnotes_say_protocol_spread_and_what_is_not_told_apart(make_row):
    rows = [
        make_row(latent_dim=dim, seed=seed, gfid=gfid + seed) | {"rank_deficient": "yes"}
        for dim, gfid in ((4, 3.0), (16, 3.5))
        for seed in (0, 1)
    ]
    notes = " ".join(_table([*rows, make_row(seed=9, status="failed", gfid=None)]).footnotes)
    assert "2,000 samples, 360 reconstructions" in notes
    assert "Mean ± standard error over 2 seeds" in notes
    assert "do not tell these two apart, or there are none, for: reconstruction, PSNR" in notes
    assert "fewer images than features" in notes
    assert "no FID" in notes
    assert "1 row was left out" in notes


def test_one_seed_has_no_errors_and_says_so(make_row):
    table = _table([make_row()])
    assert "±" not in format_markdown(table).splitlines()[2]
    assert any("no difference is established" in note for note in table.footnotes)


def test_nothing_done_gives_a_table_without_rows(make_row):
    table = _table([make_row(status="failed", gfid=None, rfid=None)])
    assert table.rows.empty
    assert format_markdown(table).startswith("| alignment |")
    assert r"\bottomrule" in format_latex(table)
    assert format_csv(table).startswith("alignment,")
