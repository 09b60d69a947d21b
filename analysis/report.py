"""Figures and words of a results folder: `python -m analysis.report RESULTS_DIR [--out DIR]`."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from analysis.dilemma import compute_dilemma, draw_dilemma
from analysis.frontier import compute_frontier, draw_frontier
from analysis.grids import index_grids, write_grids_page
from analysis.protocol import split_by_protocol
from analysis.summary import summarize
from analysis.table import load_table

EXIT_OK, EXIT_WRONG_REQUEST = 0, 2
SUFFIXES = ("png", "svg", "pdf")
OWN_FILE = re.compile(r"(frontier|dilemma)(\.\d+\.[A-Za-z0-9.-]*)?\.(png|svg|pdf)|frontier\.csv")
"""Names of the figures and data that this command writes."""
REPRODUCIBLE_STYLE: dict[RcKeyType, Any] = {"svg.hashsalt": "latent-frontier", "pdf.fonttype": 42}
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def write_figures(results_dir: Path | str, out_dir: Path | str | None = None) -> list[Path]:
    """Writes the figures of a sweep, their data and, where there are grids, an index of them.

    With several protocols or guidance settings there is a figure for each: the group with the
    most rows done gets the plain name, the others carry what tells them apart in theirs. What an
    earlier run wrote there is removed, so that a figure in the folder is one of this table.

    Args:
        results_dir: A results folder with a table.
        out_dir: Where figures go; `<results_dir>/figures` if None.

    Returns:
        The files written: `frontier.{png,svg,pdf}`, `dilemma.{png,svg,pdf}`, `frontier.csv` and
        `<results_dir>/grids.md`.

    Raises:
        ValueError: If the table is missing or wrong, or has no row that can be drawn.
        OSError: If a file cannot be written.
    """
    results_dir = Path(results_dir)
    table = load_table(results_dir)
    _require_measured(table, results_dir)
    results_dir = results_dir if results_dir.is_dir() else results_dir.parent
    out_dir = Path(out_dir) if out_dir is not None else results_dir / "figures"
    figures = [
        (name, compute_frontier(rows), compute_dilemma(rows))
        for name, rows in split_by_protocol(table).items()
    ]
    out_dir.mkdir(parents=True, exist_ok=True)
    _remove_stale(out_dir)
    written: list[Path] = []
    for position, (name, frontier, dilemma) in enumerate(figures):
        suffix = f".{position + 1}.{_slug(name)}" if position else ""
        if not frontier.points.empty:
            written += save_figure(draw_frontier(frontier), out_dir, f"frontier{suffix}")
        if not dilemma.points.empty:
            written += save_figure(draw_dilemma(dilemma), out_dir, f"dilemma{suffix}")
    data = out_dir / "frontier.csv"
    points = pd.concat([frontier.points.assign(group=name) for name, frontier, _ in figures])
    points.to_csv(data, index=False, lineterminator="\n")
    written.append(data)
    grids = index_grids(results_dir, table)
    if not grids.empty:
        written.append(write_grids_page(table, grids, results_dir=results_dir))
    return written


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Command line without the program's name; that of the process if None.

    Returns:
        0 with figures written, 2 where the request or the table is wrong or nothing is drawable.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("results_dir", type=Path, help="results folder of a sweep")
    parser.add_argument("--out", type=Path, help="where figures go; default: RESULTS_DIR/figures")
    request = parser.parse_args(arguments)
    try:
        written = write_figures(request.results_dir, request.out)
        words = summarize(load_table(request.results_dir))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    print(words)
    print()
    for path in written:
        print(f"wrote {path}")
    return EXIT_OK


def _require_measured(table: pd.DataFrame, results_dir: Path) -> None:
    if table.empty:
        raise ValueError(
            f"the table of {results_dir} must have rows, but it is empty;"
            " run the sweep again so that it writes some"
        )
    finite = table["gfid"].abs() < float("inf")
    if not (finite & (table["status"] == "done")).any():
        raise ValueError(
            f"the table of {results_dir} must have a done row with a generation distance, but it"
            f" has none: {summarize(table)}\nmend what failed and run the sweep again"
        )


def _remove_stale(out_dir: Path) -> None:
    for file in out_dir.iterdir():
        if OWN_FILE.fullmatch(file.name) and not file.is_dir():
            file.unlink()


def save_figure(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """Saves a figure in every format, without dates or random names, so equal data gives it."""
    paths = [out_dir / f"{name}.{suffix}" for suffix in SUFFIXES]
    with mpl.rc_context(REPRODUCIBLE_STYLE):
        for path, suffix in zip(paths, SUFFIXES, strict=True):
            figure.savefig(path, format=suffix, metadata=METADATA[suffix])
    return paths


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80]


if __name__ == "__main__":
    sys.exit(main())
