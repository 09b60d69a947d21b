import json
from collections.abc import Iterator

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from analysis.cells.cells import compute_cells
from analysis.figures.dilemma import draw_dilemma
from analysis.figures.frontier import compute_frontier, draw_frontier
from analysis.table.columns import ATTRIBUTE, Column, write_columns
from analysis.table.published import select_published
from analysis.table.reading import check_table


@pytest.fixture
def table(dilemma_rows):
    """Rows of three axes, and of a fourth with a long name where `number` is above 1."""

    def make(number):
        values = [f"regulariser with a long name {k}" for k in range(number)]
        rows = [
            row
            | {"axis.loss": value, "rfid": row["rfid"] + k, "psnr": row["psnr"] - k / 3}
            | {name: f"{row[name]}-{k}" for name in ("row_id", "trial_id", "tokenizer_key")}
            for row in dilemma_rows
            for k, value in enumerate(values)
        ]
        frame = pd.DataFrame(rows)
        about = {"label": "loss", "axis": "categorical", "values": json.dumps(values)}
        axis = Column(type="text", baseline=json.dumps(values[0]), **about)
        frame.attrs[ATTRIBUTE] = write_columns({"axis.loss": axis})
        return check_table(frame)

    return make


def _words(figure) -> Iterator[Text]:
    """What is written in a figure; ticks beyond an axis's ends are not."""
    yield from figure.legends[0].get_texts()
    yield from figure.texts
    for axes in figure.axes:
        yield from (axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title, *axes.texts)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            ticks = axis.get_major_ticks()
            yield from (tick.label1 for tick in ticks if low <= tick.get_loc() <= high)


def _drawn_lines(axes: Axes):
    for line in axes.lines:
        if line.get_linestyle() != "None" and len(line.get_path()) > 1:
            yield axes.transData.transform_path(line.get_path())


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("width", [3.25, 6.75])
@pytest.mark.parametrize("name", ["rfid", "psnr", "dilemma"])
def test_no_word_lies_on_a_line_or_on_another_word(table, number, width, name):
    rows = table(number)
    if name == "dilemma":
        figure = draw_dilemma(compute_cells(rows, needs=("gfid",)), width)
    else:
        cells = compute_frontier(rows)
        figure = draw_frontier(cells, select_published(cells.rows), width, across=name)
    assert len(figure.axes) == (4 * number if name == "dilemma" else 1 + (number > 1))
    figure.draw_without_rendering()
    words = [word for word in _words(figure) if word.get_visible() and word.get_text().strip()]
    boxes = [(word.get_text(), word.get_window_extent()) for word in words]
    for place, (text, box) in enumerate(boxes):
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert [other for other, its in boxes[:place] if its.overlaps(box)] == [], text
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent()
            crossing = [line.intersects_bbox(box, filled=False) for line in _drawn_lines(axes)]
            assert text.get_text() == "" or not any(crossing), text.get_text()
