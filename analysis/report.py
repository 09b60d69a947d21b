"""The report of sweeps: `python -m analysis.report RESULTS [RESULTS ...] [--out DIR]`.

Figures, tables and words go into `figures/` of the results folder, the page `report.html` beside
it; with `--out`, and with several folders, into one folder of their own.
"""

import argparse
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.figures.curves import load_curves
from analysis.figures.saving import ENDS, save_figure
from analysis.group import GroupAnalysis, Omission, Plot, analyse_group, plan_shared_plots
from analysis.outputs import choose_outputs, path_at
from analysis.page.grids import index_grids, write_grids_page
from analysis.page.page import MAX_PAGE_BYTE, PageContent, ShownFigure, render_page
from analysis.page.pictures import BUDGET_BYTE, Album, collect_pictures
from analysis.table.atomic import write_text
from analysis.table.protocols import name_some, split_by_protocol
from analysis.table.reading import load_tables
from analysis.words.provenance import trace_table
from analysis.words.summary import describe_group, say_compared, say_results
from analysis.words.tables import compute_result_table, format_csv, format_latex, format_markdown

EXIT_OK, EXIT_WRONG_REQUEST = 0, 2
REPORT_VERSION = 6
"""Counts up whenever a report has other files or another look, so that old ones are made anew."""
MAX_PROCESSES = 4
"""Processes that draw figures at the same time, count."""
MAX_GROUPS = 6
"""Protocols that have figures; all have words, tables and a place in the page's plot."""
MAX_WHOLE_GROUPS = 2
"""Protocols up to which each has every figure; with more the first alone has."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Files and words of a report."""

    files: list[Path]
    """Files written, the page last."""
    words: str
    """Summary and findings, then what was left out, plain text."""


def write_report(
    results: Sequence[Path | str],
    out_dir: Path | str | None = None,
    columns: Sequence[str] | None = None,
    *,
    num_processes: int = 1,
) -> Report:
    """Writes the report of one results folder or several.

    Each protocol has figures and tables of its own: the one with the most rows done gets the plain
    names, the others carry what tells them apart in theirs. What an earlier report wrote there is
    removed once everything is computed, so that a figure in the folder is one of this table; other
    files are neither removed nor overwritten. A table without a single measured row gives a page,
    which says so, and no figure.

    Args:
        out_dir: Where all files go; if None, as `choose_outputs` says.
        columns: Metrics of the tables, each with a frontier of its own; the usual ones if None.

    Raises:
        ValueError: If a table is missing, wrong or empty, a column is no metric, or a file would be
            overwritten that no report wrote.
        OSError: If a file cannot be written.
    """
    table = load_tables(results)
    folders = [path if path.is_dir() else path.parent for path in map(Path, results)]
    if table.empty:
        raise ValueError(
            f"the table of {folders[0]} must have rows, but it is empty;"
            " run the sweep again so that it writes some"
        )
    outputs = choose_outputs(folders, out_dir)
    split = split_by_protocol(table)
    whole = len(split) if len(split) <= MAX_WHOLE_GROUPS else 1
    groups = [
        analyse_group(name, rows, columns or (), every_figure=position < whole)
        for position, (name, rows) in enumerate(split.items())
    ]
    curves = pd.concat([load_curves(folder) for folder in folders], ignore_index=True)
    shared = plan_shared_plots(table, curves)
    plots = [plot for group in groups[:MAX_GROUPS] for plot in group.plots]
    plots += [plot for plot in shared if isinstance(plot, Plot)]
    stems = _name_groups(groups)
    named = {_name_figure(plot, stems): plot for plot in plots}
    tables = _format_tables(groups, stems, columns)
    names = [f"{stem}{end}" for stem in named for end in ENDS]
    outputs.make_room([*names, *tables, "summary.txt"])
    with _drawing(named, outputs.figures_dir, num_processes) as drawn:
        headline = say_compared([(group.name, group.cells) for group in groups])
        words = [say_results(group.cells) for group in groups]
        provenance = trace_table(table, list(dict.fromkeys(folders)))
        found = [index_grids(folder, table) for folder in dict.fromkeys(folders)]
        saved = drawn()
    figures = [figure for figure in saved if isinstance(figure, ShownFigure)]
    failed = [figure for figure in saved if isinstance(figure, Omission)]
    omissions = [*_collect_omissions(groups, shared), *failed]
    text = "\n".join([*headline, _write_words(groups, words, omissions)])
    texts = tables | {"summary.txt": f"{text}\n"}
    files = [file for figure in figures for file in figure.files]
    for name, words_or_table in texts.items():
        write_text(outputs.figures_dir / name, words_or_table)
        files.append(outputs.figures_dir / name)
    grids = pd.concat(found, ignore_index=True)
    # Its links lead to `grids/` beside it, so it is written where the results are, or not at all.
    if outputs.is_own and not grids.empty:
        files.append(write_grids_page(table, grids, results_dir=folders[0]))
    content = PageContent(
        title=name_some(list(dict.fromkeys(folder.resolve().name for folder in folders)), " + "),
        folder=outputs.page.parent,
        table=table,
        groups=groups,
        words=[[*headline, *words[0]], *words[1:]],
        figures=figures,
        album=Album(pictures=[], notes=[]),
        provenance=provenance,
        omissions=omissions,
    )
    page = render_page(content)
    if not grids.empty:
        # Pictures take what the rest leaves them; a text of base64 is a third longer.
        room = 0.7 * (MAX_PAGE_BYTE - len(page.encode()))
        album = _fill_album(grids, groups, table, max(0, min(BUDGET_BYTE, int(room))))
        page = render_page(replace(content, album=album))
    write_text(outputs.page, page)
    return Report(files=[*files, outputs.page], words=text)


def write_figures(results_dir: Path | str, out_dir: Path | str | None = None) -> list[Path]:
    """Writes the report of one results folder, as `write_report`; returns the files."""
    return write_report([results_dir], out_dir).files


def main(arguments: list[str] | None = None, *, num_processes: int = 1) -> int:
    """Runs the command; 0 where the report was written, 2 where the request or a table is wrong."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("results", type=path_at, nargs="+", help="results folders of sweeps")
    parser.add_argument("--out", type=path_at, help="one folder for all files of the report")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="METRIC",
        help="metrics of the Markdown and LaTeX tables, as gfid, rfid and lpips, each drawn against"
        " generation; default: five, and PSNR drawn",
    )
    request = parser.parse_args(arguments)
    try:
        report = write_report(
            request.results, request.out, request.columns, num_processes=num_processes
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    print(report.words)
    print()
    for path in report.files:
        print(f"wrote {path}")
    return EXIT_OK


def _collect_omissions(
    groups: list[GroupAnalysis], shared: Sequence[Plot | Omission]
) -> list[Omission]:
    """Reasons for what is not shown; one that several groups share stands once."""
    known: dict[tuple[str, str], list[str]] = {}
    for group in groups[:MAX_GROUPS]:
        for each in group.omissions:
            known.setdefault((each.what, each.reason), []).append(group.name)
    omissions = [
        Omission(
            what=f"{what} ({'; '.join(names)})" if names != [g.name for g in groups] else what,
            reason=reason,
        )
        for (what, reason), names in known.items()
    ]
    omissions += [each for each in shared if isinstance(each, Omission)]
    if len(groups) > MAX_GROUPS:
        names = "; ".join(group.name for group in groups[MAX_GROUPS:][:MAX_GROUPS])
        rest = len(groups) - MAX_GROUPS
        reason = f"figures are drawn for the {MAX_GROUPS} protocols with the most rows ({names}"
        reason += ", ...)" if rest > MAX_GROUPS else ")"
        omissions.append(Omission(what=f"figures of {rest} more protocols", reason=reason))
    return omissions


def _write_words(
    groups: list[GroupAnalysis], words: list[list[str]], omissions: list[Omission]
) -> str:
    parts = [
        [*describe_group(group.name, group.cells, group.rows), *lines, *group.findings]
        for group, lines in zip(groups, words, strict=True)
    ]
    if omissions:
        parts.append(["Not shown:", *(f"- {each.what}: {each.reason}" for each in omissions)])
    return "\n\n".join(map("\n".join, parts))


def _name_groups(groups: list[GroupAnalysis]) -> dict[str, str]:
    return {
        group.name: f".{position + 1}.{_slug(group.name)}" if position else ""
        for position, group in enumerate(groups)
    } | {"": ""}


def count_processes() -> int:
    """Processes that a command may draw with: as many as there are cores, `MAX_PROCESSES` at most.

    They are copies of this one, which have all data at hand. A program with threads of its own
    cannot be copied, so only the command asks for more than one; nor can every system.
    """
    can_copy = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    return min(os.cpu_count() or 1, MAX_PROCESSES) if can_copy else 1


@contextmanager
def _drawing(
    plots: Mapping[str, Plot], out_dir: Path, num_processes: int
) -> Iterator[Callable[[], list[ShownFigure | Omission]]]:
    """Draws and saves figures, in other processes while the block runs; yields a wait for them."""
    workers = min(num_processes, len(plots))
    if workers < 2:
        yield lambda: [_save_plot(plot, out_dir, stem) for stem, plot in plots.items()]
        return
    # It takes long to import; the copies have it then.
    import seaborn  # noqa: F401

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _keep_plots, (plots, out_dir)) as pool:
        saved = [pool.submit(_save_kept, stem) for stem in plots]

        def wait() -> list[ShownFigure | Omission]:
            try:
                return [each.result() for each in saved]
            except BrokenProcessPool:
                # A copy was ended from outside, for its memory, say.
                return [_save_plot(plot, out_dir, stem) for stem, plot in plots.items()]

        yield wait


_kept: dict[str, tuple[Plot, Path]] = {}
"""Figures that a copy of the process draws: functions cannot be sent, names can."""


def _keep_plots(plots: Mapping[str, Plot], out_dir: Path) -> None:
    _kept.update({stem: (plot, out_dir) for stem, plot in plots.items()})


def _save_kept(stem: str) -> ShownFigure | Omission:
    return _save_plot(*_kept[stem], stem)


def _save_plot(plot: Plot, out_dir: Path, stem: str) -> ShownFigure | Omission:
    """Draws and saves a figure; one that fails is told, and the rest of the report is written."""
    try:
        files = save_figure(plot.draw, out_dir, stem)
    # Drawing calls a plotting library with any sweep's numbers; no sweep may lose its report by it.
    except Exception as error:
        return Omission(what=stem, reason=f"drawing failed: {type(error).__name__}: {error}")
    group = f" {plot.group}." if plot.group else ""
    return ShownFigure(caption=f"{plot.caption}{group}", files=files)


def _name_figure(plot: Plot, stems: dict[str, str]) -> str:
    detail = f".{_slug(plot.detail).lower()}" if plot.detail else ""
    return f"{plot.kind}{detail}{stems[plot.group]}"


def _format_tables(
    groups: list[GroupAnalysis], stems: dict[str, str], columns: Sequence[str] | None
) -> dict[str, str]:
    texts = {}
    for group in groups:
        table = compute_result_table(group.cells, columns)
        if table.rows.empty:
            continue
        for suffix, write in (("md", format_markdown), ("tex", format_latex), ("csv", format_csv)):
            texts[f"results{stems[group.name]}.{suffix}"] = write(table)
    filled = [group for group in groups if len(group.frontier.points)]
    if filled:
        points = [group.frontier.points.assign(group=group.name) for group in filled]
        texts["frontier.csv"] = pd.concat(points).to_csv(index=False, lineterminator="\n")
    return texts


def _fill_album(
    grids: pd.DataFrame, groups: list[GroupAnalysis], table: pd.DataFrame, budget_byte: int
) -> Album:
    """One trial of each cell first, so that a full page lacks repetitions rather than cells."""
    first, rest = [], []
    for group in groups:
        keys = group.cells.rows[["cell"]]
        for trial, repeats in zip(group.cells.rows["trial_id"], keys.duplicated(), strict=True):
            (rest if repeats else first).append(str(trial))
    others = table["trial_id"].dropna().astype(str)
    trials = list(dict.fromkeys([*first, *rest, *others]))
    return collect_pictures(grids, trials, budget_byte=budget_byte)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80]


if __name__ == "__main__":
    # Files are written before the words, so a reader that leaves, as `head` does, ends it quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(num_processes=count_processes()))
