import subprocess
import sys
from typing import Any

import matplotlib as mpl
import pytest
from PIL import Image

from analysis.cells.cells import compute_cells
from analysis.figures.dilemma import draw_dilemma
from analysis.figures.frontier import compute_frontier, draw_frontier
from analysis.figures.marks import PLACE_DIGITS, figure_style
from analysis.figures.saving import save_figure
from analysis.report import write_report
from analysis.table.published import select_published


@pytest.fixture
def draw(dilemma_rows, load):
    cells = compute_frontier(load(dilemma_rows))
    return lambda width: draw_frontier(cells, select_published(cells.rows), width)


def test_files_are_one_and_two_columns_wide_at_300_dots_an_inch(draw, tmp_path):
    paths = save_figure(draw, tmp_path, "frontier")
    names = ["frontier.png", "frontier.svg", "frontier.pdf"]
    assert [path.name for path in paths] == [*names, "frontier.wide.png", "frontier.wide.pdf"]
    for path, inches in ((paths[0], 3.25), (paths[3], 6.75)):
        with Image.open(path) as image:
            assert image.width == int(300 * inches)
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_several_processes_write_the_same_bytes_as_one(dilemma_rows, load, tmp_path):
    load(dilemma_rows)
    written = {}
    for number in (1, 3):
        code = f"from analysis.report import main; raise SystemExit(main(num_processes={number}))"
        out = tmp_path / str(number)
        command = [sys.executable, "-c", code, str(tmp_path), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        written[number] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "scaling.wide.pdf" in written[1]
    assert written[1] == written[3]


def test_a_foreign_matplotlibrc_changes_no_byte(draw, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "foreign").mkdir()
    own = save_figure(draw, tmp_path / "plain", "frontier")
    foreign: dict[Any, Any] = {
        "text.usetex": True,
        "savefig.dpi": 37,
        "figure.dpi": 37,
        "font.family": "no such font",
        "axes.facecolor": "black",
        "lines.linewidth": 9,
        "savefig.bbox": "tight",
    }
    with mpl.rc_context(foreign):
        other = save_figure(draw, tmp_path / "foreign", "frontier")
        assert mpl.rcParams["savefig.dpi"] == 37
    assert [path.read_bytes() for path in own] == [path.read_bytes() for path in other]


def test_a_figure_that_fails_is_told_and_the_report_is_written(
    dilemma_rows, load, tmp_path, monkeypatch
):
    def fail(*_):
        raise RuntimeError("no such marker")

    load(dilemma_rows)
    monkeypatch.setattr("analysis.group.draw_frontier", fail)
    report = write_report([tmp_path])
    names = {path.name for path in report.files}
    assert "frontier.png" not in names
    assert {"dilemma.png", "report.html", "results.md"} <= names
    assert "- frontier: drawing failed: RuntimeError: no such marker" in report.words


def test_places_are_equal_to_the_last_bit_in_every_drawing(dilemma_rows, load):
    """One of 40 drawings had other last bits, and a pixel of one shade beside it."""
    cells = compute_cells(load(dilemma_rows), needs=("gfid",))
    with mpl.rc_context():
        mpl.rcParams.update(figure_style())
        drawings = [draw_dilemma(cells) for _ in range(3)]
    for axes in zip(*(figure.axes for figure in drawings), strict=True):
        assert len({each.get_position().bounds for each in axes}) == 1
        # What the solver leaves behind its rounding is beyond these digits.
        points = axes[0].get_position().get_points()
        assert (points == points.round(PLACE_DIGITS)).all()
