"""The closing text of a run: short, findings first, with the axes of the sweep and no constants."""

from pathlib import Path
from typing import Any

from harness.plan.plan import make_plan
from harness.reporting.bill import Bill
from harness.reporting.closing_text import MAX_LINES, closing_text
from harness.results.folder import Written
from harness.results.rows import make_row
from harness.storage.artifacts import Store

NO_COST = Bill(kinds={}, alone_s=0.0, shared_s=0.0, use={})


def text_of(sweep: Any, tmp_path: Path, words: str = "", page: bool = True, **values: Any) -> str:
    """The closing text of a sweep whose rows have these values, the same or one after another."""
    plan = make_plan(sweep)
    rows = [make_row(row, sweep, Store(tmp_path), {}) for row in plan.rows]
    for number, row in enumerate(rows):
        row |= {"status": "done", "distance_name": "FID", "rank_deficient": "no"}
        row |= {n: v[number] if isinstance(v, list) else v for n, v in values.items()}
    figures = [tmp_path / "report.html"] if page else []
    written = Written(rows=rows, figures=figures, grids=[], words=words, wall_s=1.0)
    return closing_text(plan, written, {}, tmp_path, NO_COST)


def test_what_the_sweep_varies_is_shown_and_what_is_constant_is_not(load, tmp_path):
    sweep = load(
        "grid={tokenizer.loss.kl_weight: [1e-6, 1e-3], tokenizer.latent_dim: [2, 3], seed: [7]}"
    )
    text = text_of(sweep, tmp_path, rfid=1.5, gfid=[4.0, 3.0, 2.0, 1.0])
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("kl_weight"))
    assert head.split() == ["kl_weight", "latent_dim", "reconstruction", "generation"]
    assert [line.split() for line in lines[lines.index(head) + 1 :][:4]] == [
        ["1e-06", "2", "1.5", "4"],
        ["1e-06", "3", "1.5", "3"],
        ["0.001", "2", "1.5", "2"],
        ["0.001", "3", "1.5", "1"],
    ]
    assert "everywhere seed 7" in text


def test_it_is_short_begins_with_the_findings_and_ends_with_the_report(load, tmp_path):
    sweep = load(f"grid={{seed: {list(range(40))}}}")
    words = "\n".join(f"finding {number}" for number in range(60))
    bad = [*["failed"] * 20, *["done"] * 20]
    text = text_of(
        sweep, tmp_path, words, status=bad, error="out of luck", gfid=[float(n) for n in range(40)]
    )
    lines = text.strip().splitlines()
    assert len(text.splitlines()) <= MAX_LINES
    assert lines[0] == "finding 0"
    assert "55 more lines of findings in the report" in text
    assert "the best 7 of 40 rows by generation" in text
    assert "failed row" in text
    assert "seed=0" in text
    assert "17 more remarks" in text
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"


def test_a_run_without_a_report_says_so(load, tmp_path):
    text = text_of(load(), tmp_path, "no figures: a reason", page=False)
    assert text.splitlines()[-1] == "report: none was written, for the reason above"
