"""Figures one column or two of a paper wide: legend above, footnote below."""

import re
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from analysis.cells.cells import Cells, Setting
from analysis.figures.marks import Marks, freeze_layout, make_key

COLUMN_INCH, TWO_COLUMNS_INCH = 3.25, 6.75
LEGEND_LINE_INCH = 0.14
FOOTNOTE_LINE_INCH = 0.09
AXIS_INCH = 0.45
"""Height that the labels of the lowest axes need."""
LABEL_BELOW, LABEL_LEFT = "label below", "label at the left"
"""Marks of labels that all panels have in common."""
PAD_INCH = 0.04
"""Space between the footnote and a label of all panels."""
LEGEND_CHARACTERS, FOOTNOTE_CHARACTERS = 7, 23
"""Characters of a line, per inch of the figure's width."""
FOOTNOTE_SIZE = 5.5
ONE_COLUMN_OF_KEYS = 3
"""Colours of a legend up to which they stand below each other where nothing is beside them."""
MAX_KEYS = 12
"""Entries of a legend's column at most; more are told by their number."""


def count_axis(axes: Axes) -> None:
    """Writes counts across as 20k or 1.5M."""
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def finish_column_figure(
    figure: Figure, marks: Marks, footnote: Sequence[str], extra_keys: Sequence[Line2D] = ()
) -> None:
    """Adds legend and footnote (empty sentences left out), makes room and lays out once."""
    colours, shapes = marks.keys()
    columns = [colours, [*shapes, *extra_keys]]
    if len(columns[1]) <= 1 and len(colours) > ONE_COLUMN_OF_KEYS:
        half = -(-(len(colours) + len(columns[1])) // 2)
        columns = [colours[:half], [*colours[half:], *columns[1]]]
    num_entries = min(max(map(len, columns)), MAX_KEYS)
    columns = [_fill(keys, num_entries) for keys in columns]
    width_inch = figure.get_figwidth()
    for key in (*columns[0], *columns[1]):
        key.set_label(_wrap(str(key.get_label()), int(LEGEND_CHARACTERS * width_inch)))
    num_lines = max(sum(str(k.get_label()).count("\n") + 1 for k in keys) for keys in columns)
    words = "; ".join(filter(None, footnote))
    notes = textwrap.wrap(words, int(FOOTNOTE_CHARACTERS * width_inch))
    room = LEGEND_LINE_INCH * num_lines + FOOTNOTE_LINE_INCH * len(notes)
    figure.set_figheight(figure.get_figheight() + room)
    figure.legend(
        handles=[*columns[0], *columns[1]],
        loc="outside upper center",
        ncols=2,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.25,
        borderaxespad=0.2,
    )
    note = figure.supxlabel(
        "\n".join(notes), fontsize=FOOTNOTE_SIZE, color="0.35", x=0.01, ha="left"
    )
    # A label of all panels stands above the footnote, for which the layout knows no place.
    heights = {text.get_gid(): text.get_window_extent().height for text in figure.texts}
    label_height = heights.get(LABEL_BELOW, 0.0) / figure.bbox.height
    pad = PAD_INCH / figure.get_figheight()
    freeze_layout(figure, label_height + pad if label_height else 0.0)
    middle = Bbox.union([axes.get_position() for axes in figure.axes if axes.get_visible()])
    place = figure.transFigure.inverted().transform(note.get_window_extent().max)
    for text in figure.texts:
        if text.get_gid() == LABEL_BELOW:
            text.set(x=(middle.x0 + middle.x1) / 2, y=place[1] + 2 * pad)
        elif text.get_gid() == LABEL_LEFT:
            text.set_y((middle.y0 + middle.y1) / 2)


def describe_setting(setting: Setting, num_gaps: int) -> list[str]:
    """Describe, for a footnote, what the numbers of a figure rest on."""
    spread = (
        "one seed, no error bars"
        if setting.seeds == "1"
        else f"mean ± standard error over {setting.repetitions}"
    )
    return [
        f"{setting.dataset}, {setting.resolution} px",
        f"{setting.num_images} samples",
        f"extractor {setting.extractor}",
        f"labels {setting.label_policy}",
        spread,
        setting.selection,
        f"{num_gaps} row{'s' if num_gaps > 1 else ''} left out" if num_gaps else "",
    ]


def describe_training(cells: Cells) -> list[str]:
    """The same, and what reconstruction and generation have in common."""
    setting = cells.setting
    return [
        *describe_setting(setting, len(cells.gaps)),
        f"{setting.num_reconstructions} reconstructions",
        f"{setting.generator_images} training images",
        f"guidance {setting.guidance}",
    ]


def _fill(keys: list[Line2D], num_lines: int) -> list[Line2D]:
    """One column of the legend: as many entries as there are lines, the last for the rest."""
    if len(keys) > num_lines:
        rest = len(keys) - num_lines + 1
        return [*keys[: num_lines - 1], make_key(f"and {rest} more", linestyle="None")]
    return [*keys, *(make_key("", linestyle="None") for _ in range(num_lines - len(keys)))]


def _wrap(name: str, width: int) -> str:
    """Breaks a long name after spaces and underscores, so that a legend leaves the axes room."""
    lines = [""]
    for piece in re.findall(r"[^ _]*[ _]?", name):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
