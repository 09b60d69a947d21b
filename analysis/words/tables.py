"""Result tables for papers: Markdown, LaTeX (booktabs) and CSV, best and second best marked."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.cells.cells import Cells
from analysis.cells.lines import Axis
from analysis.statistics.effects import compare_cells
from analysis.table.columns import Column, Columns

MAX_DECIMALS = 4
NUM_SHOWN = 5
"""Metrics of a table by default: with the axes they fit a paper's page."""
USUAL_METRICS = (
    *("rfid", "gfid", "psnr", "label_accuracy", "inception_score", "lpips", "ssim"),
    *("precision", "recall"),
)
"""Metrics that are shown first."""
LATEX_ESCAPES = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A table of cells, ready to be written in any format."""

    rows: pd.DataFrame
    """One line a cell, then given images that are none: columns of the axes, `num_seeds`,
    `num_tokenizers` and for each metric its mean, `<metric>_se` (NaN with one seed) and
    `<metric>_rank`: 1 for the best and 2 for the second best mean, else 0."""
    axes: tuple[Axis, ...]
    shown: list[str]
    """Metrics of the Markdown and LaTeX tables, in order; CSV has all."""
    decimals: dict[str, int]
    """All metrics that are known, in order, and the decimals of each."""
    headings: dict[str, str]
    measures: Columns
    footnotes: list[str]


def compute_result_table(cells: Cells, columns: Sequence[str] | None = None) -> ResultTable:
    """Collects the cells' means, their ranks and what must be said beside them.

    Args:
        columns: Metrics to show; if None, the first `NUM_SHOWN` of `USUAL_METRICS` that are known.
            Diagnostics of latents are left out unless they are asked for.
    """
    asked = list(columns or ())
    if wrong := [name for name in asked if name not in cells.measures]:
        known = ", ".join(cells.measures)
        raise ValueError(
            f"a column must be one of {known}, but '{wrong[0]}' came; name one of them"
        )
    points = _list_points(cells)
    shown = {
        name: measure
        for name, measure in cells.measures.items()
        if (measure.measured_on != "latents" or name in asked) and np.isfinite(points[name]).any()
    }
    usual = [name for name in (*USUAL_METRICS, *shown) if name in shown]
    chosen = asked or list(dict.fromkeys(usual))[:NUM_SHOWN]
    ranked = points.assign(**{f"{name}_rank": _rank(points[name], m) for name, m in shown.items()})
    about = [*cells.axes.columns, "num_seeds", "num_tokenizers"]
    numbers = [f"{name}{end}" for name in shown for end in ("", "_se", "_rank")]
    return ResultTable(
        rows=ranked.reindex(columns=[*about, *numbers]).reset_index(drop=True),
        axes=cells.axes.listed,
        shown=[name for name in (asked or shown) if name in chosen and name in shown],
        decimals={name: _choose_decimals(points[name], points[f"{name}_se"]) for name in shown},
        headings={
            name: _name_column(name, measure, cells.setting.distance_name)
            for name, measure in shown.items()
        },
        measures=shown,
        footnotes=_write_footnotes(cells, points, {n: shown[n] for n in shown if n in chosen}),
    )


def format_markdown(table: ResultTable) -> str:
    """Writes the table in Markdown: the best in bold, the second best underlined."""
    head, *lines = _list_cells(table, MARKDOWN)
    rows = [join_markdown(cells) for cells in (head, ["---"] * len(head), *lines)]
    notes = [f"- {escape_markdown(note)}" for note in table.footnotes]
    return "\n".join([*rows, "", *notes]) + "\n"


def format_latex(table: ResultTable) -> str:
    r"""Writes a `tabular` for the package booktabs: best in bold, second best underlined.

    Its footnotes follow it; it is shrunk to the column where it is wider.
    """
    head, *lines = _list_cells(table, LATEX)
    # A rule parts the lines through numbers from each other.
    num_axes = len(table.axes)
    same = max(num_axes - 1, 1)
    rows = [r"\midrule"]
    for previous, cells in pairwise([head, *lines]):
        if num_axes > 1 and cells[:same] != previous[:same] and previous is not head:
            rows.append(r"\midrule")
        rows.append(rf"{' & '.join(cells)} \\")
    notes = r"\\ ".join(escape_latex(note) for note in table.footnotes)
    parts = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\resizebox{\ifdim\width>\columnwidth\columnwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * num_axes}{'r' * (len(head) - num_axes)}}}",
        r"\toprule",
        rf"{' & '.join(head)} \\",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\par\smallskip{{\footnotesize {notes}\par}}",
    ]
    return "\n".join(parts) + "\n"


def format_csv(table: ResultTable) -> str:
    """Writes the table's numbers in full, with a column `<metric>_rank`."""
    return table.rows.to_csv(index=False, lineterminator="\n")


def escape_latex(text: str) -> str:
    """Makes text stand for itself in LaTeX."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Makes text stand for itself in a cell of Markdown's table, without HTML or a new column."""
    escaped = escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(escaped.splitlines())


def join_markdown(cells: Iterable[str]) -> str:
    """One line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How a format writes what is special in a table's cells."""

    escape: Callable[[str], str]
    marks: tuple[str, str, str]
    """Patterns of a mean that is neither best nor second best, of the best and of the second."""
    spread: str
    missing: str
    arrows: dict[str, str]


MARKDOWN = Notation(
    escape=escape_markdown,
    marks=("{}", "**{}**", "<u>{}</u>"),
    spread="{} ± {}",
    missing="-",
    arrows={"higher": " ↑", "lower": " ↓"},
)
LATEX = Notation(
    escape=escape_latex,
    marks=("{}", r"\textbf{{{}}}", r"\underline{{{}}}"),
    spread=r"{} {{\scriptsize $\pm$ {}}}",
    missing="--",
    arrows={"higher": r" $\uparrow$", "lower": r" $\downarrow$"},
)


def _rank(means: pd.Series, measure: Column) -> pd.Series:
    """1 for the best, 2 for the next best value; equal values share a rank, all equal have none."""
    finite = means.where(np.isfinite(means))
    ranks = finite.rank(method="dense", ascending=measure.better == "lower")
    differs = finite.nunique() > 1
    return ranks.where(differs & (ranks <= 2), 0).fillna(0).astype(int)


def _name_column(metric: str, measure: Column, distance_name: str) -> str:
    """A short heading: FID by its usual names, another distance by what it is measured on."""
    if measure.label.endswith(":") and distance_name == "FID":
        return {"rfid": "rFID", "gfid": "gFID"}.get(metric, measure.full_label(distance_name))
    return measure.short_label


def _choose_decimals(means: pd.Series, errors: pd.Series) -> int:
    """Three digits for the smallest mean, and one at least for the usual standard error."""
    sizes = means[np.isfinite(means) & (means != 0)].abs()
    known = errors[np.isfinite(errors) & (errors > 0)]
    digits = [2 - np.floor(np.log10(sizes.min()))] if len(sizes) else [2]
    digits += [-np.floor(np.log10(known.median()))] if len(known) else []
    return int(np.clip(max(digits), 0, MAX_DECIMALS))


def _list_cells(table: ResultTable, notation: Notation) -> list[list[str]]:
    """The table's text, headings first: names, counts, and each metric with mark and error."""
    headings = [
        notation.escape(table.headings[name]) + notation.arrows[table.measures[name].better]
        for name in table.shown
    ]
    names = [notation.escape(axis.heading) for axis in table.axes]
    lines = [[*names, "seeds", *headings]]
    for row in table.rows.to_dict("records"):
        values = [axis.value_text(row[axis.column]) for axis in table.axes]
        texts = [notation.escape(text) if text else notation.missing for text in values]
        texts.append(f"{row['num_seeds']:d}")
        for name in table.shown:
            decimals = table.decimals[name]
            mean, error = row[name], row[f"{name}_se"]
            text = f"{mean:.{decimals}f}" if np.isfinite(mean) else notation.missing
            text = notation.marks[row[f"{name}_rank"]].format(text)
            known = np.isfinite(mean) and np.isfinite(error)
            texts.append(notation.spread.format(text, f"{error:.{decimals}f}") if known else text)
        lines.append(texts)
    return lines


def _list_points(cells: Cells) -> pd.DataFrame:
    if cells.given.empty or cells.points.empty:
        return cells.points if cells.given.empty else cells.given
    # Where alignment is no axis, the first column holds their names.
    named = dict.fromkeys(cells.axes.columns[:1], cells.given["cell"])
    return pd.concat([cells.points, cells.given.assign(**named)], ignore_index=True)


def _write_footnotes(cells: Cells, points: pd.DataFrame, shown: Columns) -> list[str]:
    setting = cells.setting
    notes = [
        f"Protocol: {setting.dataset}, {setting.resolution} px; {setting.sizes}; extractor"
        f" {setting.extractor}; guidance {setting.guidance}; labels {setting.label_policy};"
        f" {setting.generator_images} training images of the generator.",
        f"Reconstruction and generation: {setting.distance_name}.",
        _say_spread(cells),
    ]
    notes += _say_ties(cells, points, shown)
    notes += _say_rows(cells)
    if len(cells.given):
        names = ", ".join(cells.given["alignment"])
        notes.append(f"Given images without latent_dim or generator_size, no cells: {names}.")
    if num_gaps := len(cells.gaps) - len(cells.given):
        plural = "rows were" if num_gaps > 1 else "row was"
        notes.append(f"{num_gaps} {plural} left out: failed, unfinished or not measured.")
    return notes


def _say_spread(cells: Cells) -> str:
    if cells.setting.seeds == "1":
        return "One seed: no standard errors, and no difference is established."
    text = f"Mean ± standard error over {cells.setting.repetitions}."
    few = cells.points["num_seeds"].min() < 2
    return f"{text} Rows without ± have one." if few else text


def _say_ties(cells: Cells, points: pd.DataFrame, shown: Columns) -> list[str]:
    """Says what the marks mean, and where the best is not told apart from the second best."""
    if len(points) < 2:
        return []
    tied = []
    for name, measure in shown.items():
        ranked = points.sort_values(name, ascending=measure.better == "lower")
        verdict = compare_cells(ranked.iloc[0], ranked.iloc[1], name, cells.measures)
        if verdict in ("within noise", "no interval"):
            tied.append(measure.short_label)
    note = "Bold: best mean; underlined: second best."
    if tied:
        note += (
            " Intervals (Welch's, 95 %) do not tell these two apart, or there are none, for:"
            f" {', '.join(tied)}."
        )
    return [note]


def _say_rows(cells: Cells) -> list[str]:
    notes, rows = [], cells.rows
    if (rows["rank_deficient"] == "yes").any():
        notes.append("Some distances rest on fewer images than features: they are biased upwards.")
    names = [str(name) for name in rows["protocol_name"].dropna().unique() if name]
    if names:
        notes.append(f"The generation protocol is the preset {', '.join(names)}.")
    if "in-domain" in cells.setting.distance_name:
        notes.append("In-domain distances are no FID and not comparable with published ones.")
    return notes
