"""The closing text of a run: findings, table, what failed, cost, and where things lie."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.axes import Axis, axes_words
from harness.execution.stage_run import Outcome
from harness.plan.plan import Plan
from harness.reporting.bill import Bill, bill_lines
from harness.reporting.words import columns, number
from harness.results.columns import axes_of_row, axis_column
from harness.results.folder import Written

MAX_LINES = 25
"""Lines of the closing text of a run. What has no room stands in the report and in table.csv."""
_FINDINGS, _REMARKS, _COST = 6, 4, 3
"""Lines of each part where there is more to say than fits; rows of the table have the rest."""
_METRICS = {
    "rfid": "reconstruction",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "gfid": "generation",
    "gfid_infinity": "at infinity",
    "precision": "precision",
    "recall": "recall",
    "label_accuracy": "label accuracy",
}
_OTHERS = {"generator_images": "images", "guidance": "guidance", "status": "status"}
"""What else may tell rows of one trial apart."""
_GIVEN = {
    "latent_dim": "latent dim",
    "alignment": "alignment",
    "generator_size": "generator",
    "seed": "seed",
}
"""What tells given images apart, which no sweep varies."""


def closing_text(
    plan: Plan, written: Written, outcomes: Mapping[str, Outcome], results: Path, bill: Bill
) -> str:
    """Write the closing text of a run, which ends with the report."""
    rows, axes = written.rows, plan.sweep.axes
    page = next((path for path in written.figures if path.suffix == ".html"), None)
    counts = Counter(outcome.status for outcome in outcomes.values())
    reused = len(plan.stages) - len(outcomes) + counts["reused"]
    busy_s = sum(outcome.wall_s for outcome in outcomes.values())
    cost = [
        f"executed {counts['done']} stages, reused {reused}; {written.wall_s:.0f} s wall, "
        f"{busy_s:.0f} s in stages",
        # What all trials and the machine cost first, then the kinds while there is room.
        *sorted(bill_lines(bill), key=lambda line: line.startswith(" ")),
    ]
    places = [f"table: {results / 'table.csv'} (and .parquet)"]
    if written.grids:
        places.append(f"samples and reconstructions: {results / 'grids'}")
    places.append(f"report: {page}" if page else "report: none was written, for the reason above")
    remarks = _some(_remarks(rows, axes), _REMARKS, "remarks of this kind; see table.csv")
    found = [line for line in written.words.splitlines() if line]
    # Beside these, three empty lines and two above the rows of the table.
    room = MAX_LINES - 5 - len(remarks) - min(len(cost), _COST) - len(places)
    num_rows = min(len(rows), room - min(len(found), _FINDINGS))
    words = _some(found, room - num_rows, "lines of findings in the report")
    shown = ["", *words, "", *_table(rows, axes, num_rows), "", *remarks]
    return "\n".join([*shown, *cost[: MAX_LINES - len(shown) - len(places)], *places])


def rows_text(rows: Sequence[Mapping[str, Any]], results: Path) -> str:
    """Write the closing text after given images were scored: all rows of the folder."""
    lines = ["", *_table(rows, (), len(rows)), "", *_remarks(rows, ())]
    return "\n".join([*lines, f"table: {results / 'table.csv'} (and .parquet)"])


def _some(lines: Sequence[str], most: int, of_what: str) -> list[str]:
    """The first lines, and how many more there are."""
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], f"... and {len(lines) - most + 1} more {of_what}"]


def _remarks(rows: Sequence[Mapping[str, Any]], axes: Sequence[Axis]) -> list[str]:
    """Rows that failed or are pending, and rows whose numbers call for caution."""
    lines = []
    for row in rows:
        if row["status"] in ("failed", "diverged", "blocked"):
            given = [f"{words} {row[name]}" for name, words in _GIVEN.items() if row[name]]
            words = axes_words(axes, axes_of_row(axes, row)) or ", ".join(given)
            name = f"{words}, guidance {row['guidance']}".removeprefix(", ")
            lines.append(f"{row['status']} row {row['row_id']} ({name}): {row['error']}")
    pending = sum(row["status"] == "pending" for row in rows)
    if pending:
        lines.append(f"{pending} rows are pending: not all of their stages have run")
    deficient = Counter(_say_counts(row) for row in rows if row["rank_deficient"] == "yes")
    return lines + [
        f"warning: {count} row{'s have' if count > 1 else ' has'} a distance whose covariance lacks"
        f" rank: {counts}; each must exceed the number of the extractor's features. Such distances"
        " are far too large and compare at equal numbers only (column rank_deficient)"
        for counts, count in deficient.items()
    ]


def _say_counts(row: Mapping[str, Any]) -> str:
    """Images behind the distances of a row, in words."""
    return ", ".join(
        f"{row[name]:,} {noun}"
        for name, noun in (
            ("num_images", "samples"),
            ("num_reference", "reference images"),
            ("num_reconstructions", "reconstructions"),
        )
        if row[name] is not None
    )


def _table(rows: Sequence[Mapping[str, Any]], axes: Sequence[Axis], most: int) -> list[str]:
    """The rows by what varies; the best ones where there is no room for all."""
    named = {axis_column(axis.name): axis.short for axis in axes} or _GIVEN
    varied = {**named, **_OTHERS}
    varied = {name: words for name, words in varied.items() if len({row[name] for row in rows}) > 1}
    measured = {
        name: words
        for name, words in _METRICS.items()
        if any(row[name] is not None for row in rows)
    }
    shown = varied | measured
    constant = [
        f"{words} {rows[0][name]}"
        for name, words in named.items()
        if rows and name not in varied and rows[0][name] is not None
    ]
    names = sorted({row["distance_name"] for row in rows if row["distance_name"]})
    title = f"reconstruction and generation: {' / '.join(names) or 'not measured'}, lower is better"
    if constant:
        title += f"; everywhere {', '.join(constant)}"
    best = list(rows)
    if len(rows) > most:
        metric = "gfid" if "gfid" in measured else "rfid"
        best.sort(key=lambda row: (row[metric] is None, row[metric] or 0.0))
        title += f"; the best {most} of {len(rows)} rows by {_METRICS[metric]}"
    if not shown:
        return [title]
    cells = [[number(row[name]) for name in shown] for row in best[:most]]
    return [title, *columns([list(shown.values()), *cells])]
