"""The closing text of a run: table, cost, where things lie, and what failed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.execution.stage_run import Outcome
from harness.plan.plan import Plan
from harness.reporting.bill import Bill, bill_lines
from harness.reporting.words import columns, number
from harness.results.folder import Written


def closing_text(
    plan: Plan, written: Written, outcomes: Mapping[str, Outcome], results: Path, bill: Bill
) -> str:
    """Write the closing text of a run: table, places, cost, and what failed."""
    lines = ["", *_table(written.rows), "", *_remarks(written.rows)]
    pending = sum(row["status"] == "pending" for row in written.rows)
    if pending:
        lines.append(f"{pending} rows are pending: not all of their stages have run")
    if written.words:
        lines += [written.words, ""]
    counts = Counter(outcome.status for outcome in outcomes.values())
    reused = len(plan.stages) - len(outcomes) + counts["reused"]
    busy_s = sum(outcome.wall_s for outcome in outcomes.values())
    lines.append(
        f"executed {counts['done']} stages, reused {reused}; {written.wall_s:.0f} s wall, "
        f"{busy_s:.0f} s in stages"
    )
    lines += bill_lines(bill)
    lines.append(f"table: {results / 'table.csv'} (and .parquet)")
    lines += [f"figure: {path}" for path in written.figures if path.suffix == ".png"]
    if written.grids:
        lines.append(f"samples and reconstructions: {results / 'grids'}")
    return "\n".join(lines)


def rows_text(rows: Sequence[Mapping[str, Any]], results: Path) -> str:
    """Write the closing text after given images were scored: all rows of the folder."""
    lines = ["", *_table(rows), "", *_remarks(rows)]
    return "\n".join([*lines, f"table: {results / 'table.csv'} (and .parquet)"])


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows that failed, and rows whose numbers call for caution."""
    lines = []
    for row in rows:
        if row["status"] in ("failed", "diverged", "blocked"):
            name = (
                f"latent dim {row['latent_dim']}, {row['alignment']}, {row['generator_size']}, "
                f"seed {row['seed']}, guidance {row['guidance']}"
            )
            lines.append(f"{row['status']} row {row['row_id']} ({name}): {row['error']}")
    return lines + [_rank_warning(row) for row in rows if row["rank_deficient"] == "yes"]


def _rank_warning(row: Mapping[str, Any]) -> str:
    counts = ", ".join(
        f"{row[name]:,} {noun}"
        for name, noun in (
            ("num_images", "samples"),
            ("num_reference", "reference images"),
            ("num_reconstructions", "reconstructions"),
        )
        if row[name] is not None
    )
    return (
        f"warning: row {row['row_id']} has a distance whose covariance lacks rank: {counts}; each "
        "must exceed the number of the extractor's features. Such distances are far too large and "
        "compare at equal numbers only (column rank_deficient)"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = {
        "latent_dim": "latent dim",
        "alignment": "alignment",
        "generator_size": "generator",
        "seed": "seed",
        "guidance": "guidance",
        "status": "status",
        "rfid": "reconstruction",
        "psnr": "PSNR [dB]",
        "ssim": "SSIM",
        "gfid": "generation",
        "gfid_infinity": "at infinity",
        "precision": "precision",
        "recall": "recall",
        "label_accuracy": "label accuracy",
    }
    cells = [[number(row[name]) for name in shown] for row in rows]
    names = sorted({row["distance_name"] for row in rows if row["distance_name"]})
    title = f"reconstruction and generation: {' / '.join(names) or 'not measured'}, lower is better"
    return [title, *columns([list(shown.values()), *cells])]
