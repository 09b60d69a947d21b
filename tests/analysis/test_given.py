"""Rows of given images, and rows that end with their tokenizer."""

import pandas as pd
import pytest

from analysis.cells.cells import average_group, compute_cells
from analysis.report import write_report
from analysis.table.reading import check_table
from analysis.words.summary import summarize

pytestmark = pytest.mark.usefixtures("one_file_a_figure")
UNKNOWN = dict.fromkeys(("latent_dim", "alignment", "generator_size", "patch_size", "downsample"))


@pytest.fixture
def given(make_row):
    """Makes a row of images made elsewhere; keyword arguments replace its values."""

    def make(**values):
        row = make_row(sweep="paper", tokenizer="paper", row_id="g", trial_id="g", gfid=1.5)
        return row | UNKNOWN | {"provenance": "given", "tokenizer_key": None} | values

    return make


def _write(rows, folder):
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "table.parquet")
    report = write_report([folder])
    return report, {path.name: path for path in report.files}


def test_given_images_without_a_configuration_are_no_points(make_row, given):
    cells = compute_cells(check_table(pd.DataFrame([make_row(), given()])), needs=("rfid", "gfid"))
    assert cells.points["alignment"].tolist() == ["none"]
    assert cells.given["alignment"].tolist() == ["paper"]
    assert cells.given["gfid"].tolist() == [1.5]
    assert "--column" in cells.gaps["reason"][0]


def test_given_images_stand_in_the_tables_and_the_words(make_row, given, tmp_path):
    report, files = _write([make_row(), given()], tmp_path / "a")
    assert "| paper | - | - | 1 |" in files["results.md"].read_text()
    assert "Given images without latent_dim" in files["results.tex"].read_text().replace("\\_", "_")
    assert "- paper: generation 1.500, reconstruction 2.000, PSNR 24.00 dB." in report.words
    assert "paper in figures: given images without latent_dim" in report.words
    assert len(pd.read_csv(files["frontier.csv"])) == 1


def test_given_images_alone_give_a_table_and_no_frontier(given, tmp_path):
    report, files = _write([given()], tmp_path / "a")
    assert "| paper |" in files["results.md"].read_text()
    assert "there is no frontier" in report.words
    assert "frontier.png" not in files


def test_given_images_with_their_columns_are_points_of_their_own_line(make_row, given):
    placed = given(latent_dim=4, generator_size="S")
    stated = given(latent_dim=4, generator_size="S", alignment="vf", sweep="b", row_id="h")
    stated |= {"trial_id": "h"}
    table = check_table(pd.DataFrame([make_row(), placed, stated]))
    points = compute_cells(table, needs=("rfid", "gfid")).points
    assert points["colour"].tolist() == ["none", "vf, given b", "given paper"]
    assert points["generator_size"].tolist() == ["S"] * 3


def test_given_pairs_without_samples_need_no_generator(given):
    pairs = given(gfid=None, protocol_hash=None, latent_dim=8, generator=None)
    cells = average_group(check_table(pd.DataFrame([pairs])))
    assert not cells.has_generation
    assert cells.points["rfid"].tolist() == [2.0]


def test_rows_that_lack_a_configuration_and_are_not_given_are_refused(make_row):
    with pytest.raises(ValueError, match="'latent_dim' must be known"):
        check_table(pd.DataFrame([make_row(latent_dim=None, trial_id="a")]))


@pytest.fixture
def tokenizer_rows(make_row):
    """Two tokenizers of two seeds each that no generator was trained on."""
    return [
        make_row(latent_dim=dim, seed=seed, rfid=rfid + seed, gfid=None, generator=None)
        | {"protocol_hash": None, "protocol": None, "num_images": None, "generator_images": None}
        for dim, rfid in ((4, 3.0), (16, 1.0))
        for seed in (0, 1)
    ]


def test_tokenizers_alone_are_told_and_tabled_by_their_reconstruction(tokenizer_rows, tmp_path):
    report, files = _write(tokenizer_rows, tmp_path / "a")
    assert "what follows is of tokenizers alone" in report.words
    assert "Lowest reconstruction distance: none, S, d=16: reconstruction 1.5" in report.words
    assert "- scaling: no row has a generation distance" in report.words
    assert "Left out" not in report.words
    assert "unknown samples" not in report.words
    assert {"results.md", "results.tex", "results.csv"} <= set(files)
    assert "**1.50** ± 0.50" in files["results.md"].read_text()


def test_tokenizers_without_a_generator_size_have_cells(tokenizer_rows):
    table = check_table(pd.DataFrame(tokenizer_rows))
    cells = average_group(table.assign(generator_size=None, generator_seed=float("nan")))
    assert cells.points["latent_dim"].tolist() == [4, 16]
    assert cells.points["num_seeds"].tolist() == [2, 2]


def test_a_tokenizer_among_generators_is_left_out_with_the_true_reason(make_row, tokenizer_rows):
    words = summarize(check_table(pd.DataFrame([make_row(seed=9), *tokenizer_rows])))
    assert "a tokenizer alone: no generator, so no generation distance" in words
