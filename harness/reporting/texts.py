"""Plans and outcomes in words and in JSON: what a person reads before and after a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.execution.stage_run import Outcome, summarize
from harness.plan.cost import estimate
from harness.plan.plan import Plan
from harness.reporting.bill import SOURCES, Bill, bill_lines, device_time, forecast_plan
from harness.reporting.forecast import History
from harness.reporting.overview import duration
from harness.results.folder import Written
from harness.stages.stage import Stage
from harness.storage.artifacts import Store


def describe_plan(
    plan: Plan, store: Store, to_run: Sequence[Stage], missing: Sequence[str]
) -> dict[str, Any]:
    """The plan as JSON-able values; `plan_text` words it."""
    running = {stage.key for stage in to_run}
    forecasts = forecast_plan(to_run, plan.sweep.file, History.of(store))
    stages = []
    for stage in plan.stages:
        expected = estimate(stage)
        present = store.find(stage.kind, stage.key) is not None
        state = "run" if stage.key in running else "reuse" if present else "not needed"
        stages.append(
            {
                "kind": stage.kind,
                "label": stage.label,
                "key": stage.key,
                "state": state,
                "parameters": expected.parameters,
                "estimated_flops": expected.flops,
                "estimated_disk_bytes": expected.disk_bytes,
                "estimated_state_bytes": expected.state_bytes,
                "forecast": asdict(forecasts[stage.key]) if stage.key in forecasts else None,
                "inputs": {name: s.key for name, s in stage.inputs.items()},
            }
        )
    parameters = {stage["key"]: stage["parameters"] for stage in stages}
    rows = [
        {
            "row_id": row.row_id,
            "trial_id": row.trial_id,
            "axes": dict(row.axes),
            "step": row.generator.step if row.generator else None,
            "guidance": row.generator.guidance.kind if row.generator else None,
            "tokenizer_parameters": parameters.get(row.tokenizer.key),
            "generator_parameters": parameters.get(row.generator.training.key)
            if row.generator
            else None,
        }
        for row in plan.rows
    ]
    chosen = [stage for stage in stages if stage["state"] == "run"]
    return {
        "sweep": plan.sweep.file.name,
        "stages": stages,
        "rows": rows,
        "to_run": len(chosen),
        "to_reuse": sum(stage["state"] == "reuse" for stage in stages),
        "estimated_flops": sum(stage["estimated_flops"] for stage in chosen),
        "estimated_disk_bytes": sum(stage["estimated_disk_bytes"] for stage in chosen),
        "device_time": [asdict(each) for each in device_time(to_run, forecasts)],
        "missing": list(missing),
    }


def plan_text(described: Mapping[str, Any]) -> str:
    """A plan for people: stages, rows, totals and what is missing."""
    lines = [f"plan of {described['sweep']}", ""]
    heading = ("stage", "state", "parameters", "FLOPs", "memory", "disk", "what")
    stages = [
        (
            stage["kind"],
            stage["state"],
            f"{stage['parameters']:,}" if stage["parameters"] else "",
            f"{stage['estimated_flops']:.2e}",
            _bytes(stage["estimated_state_bytes"]) if stage["estimated_state_bytes"] else "",
            _bytes(stage["estimated_disk_bytes"]),
            stage["label"],
        )
        for stage in described["stages"]
    ]
    lines += columns([heading, *stages])
    lines.append("memory: weights, gradients, optimiser state and averages, without activations")
    lines += ["", f"{len(described['rows'])} rows:"]
    for row in described["rows"]:
        axes = ", ".join(f"{axis} {value}" for axis, value in row["axes"].items())
        sampled = f"guidance {row['guidance']}" if row["guidance"] else "tokenizer only"
        lines.append(f"  {row['row_id']}  {axes or 'one trial'}, {sampled}")
    lines += [
        "",
        f"{described['to_run']} stages to run, {described['to_reuse']} to reuse; estimated "
        f"{described['estimated_flops']:.2e} FLOPs and {_bytes(described['estimated_disk_bytes'])} "
        "on disk",
    ]
    lines += _device_time_lines(described["device_time"])
    if described["missing"]:
        lines += ["", "missing, and needed before this can run:"]
        lines += [f"  - {item}" for item in described["missing"]]
    return "\n".join(lines)


def _device_time_lines(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Device time of what is to run, a line a kind and one for the whole."""
    lines = []
    for kind in kinds:
        time = "unknown" if kind["device_s"] is None else duration(kind["device_s"])
        device = "GPU" if kind["on_gpu"] else "CPU core"
        lines.append(
            f"  {kind['kind']}: {kind['stages']} stages, {time} of one {device} "
            f"({', '.join(kind['sources'])})"
        )
    if not lines:
        return []
    for on_gpu, device in ((True, "GPU"), (False, "CPU core")):
        times = [kind["device_s"] for kind in kinds if kind["on_gpu"] == on_gpu]
        if times:
            known = sum(time for time in times if time is not None)
            more = ", and what is unknown" if None in times else ""
            lines.append(f"  in total: {duration(known)} of one {device}{more}")
    sources = dict.fromkeys(source for kind in kinds for source in kind["sources"])
    return ["", "device time:", *lines, *(f"  {name}: {SOURCES[name]}" for name in sources)]


def closing_text(
    plan: Plan, written: Written, outcomes: Mapping[str, Outcome], results: Path, bill: Bill
) -> str:
    """What a person reads when a run has ended: table, places, cost, and what failed."""
    lines = ["", *_table(written.rows), "", *_remarks(written.rows)]
    pending = sum(row["status"] == "pending" for row in written.rows)
    if pending:
        lines.append(f"{pending} rows are pending: not all of their stages have run")
    if written.words:
        lines += [written.words, ""]
    counts = summarize(outcomes)
    executed = counts.get("done", 0)
    reused = len(plan.stages) - len(outcomes) + counts.get("reused", 0)
    busy_s = sum(outcome.wall_s for outcome in outcomes.values())
    lines.append(
        f"executed {executed} stages, reused {reused}; {written.wall_s:.0f} s wall, "
        f"{busy_s:.0f} s in stages"
    )
    lines += bill_lines(bill)
    lines.append(f"table: {results / 'table.csv'} (and .parquet)")
    lines += [f"figure: {path}" for path in written.figures if path.suffix == ".png"]
    if written.grids:
        lines.append(f"samples and reconstructions: {results / 'grids'}")
    return "\n".join(lines)


def rows_text(rows: Sequence[Mapping[str, Any]], results: Path) -> str:
    """What a person reads when given images have been scored: all rows of the folder."""
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


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


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
    cells = [[_cell(row[name]) for name in shown] for row in rows]
    names = sorted({row["distance_name"] for row in rows if row["distance_name"]})
    title = f"reconstruction and generation: {' / '.join(names) or 'not measured'}, lower is better"
    return [title, *columns([list(shown.values()), *cells])]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
