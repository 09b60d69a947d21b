"""Rows of the benchmark: what was measured, how fast it was, or why it was not measured."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import pandas as pd

from harness.benchmarks.turns import Times

Clock = Literal["wall", "cpu"]
"""`wall`: seconds by the clock. `cpu`: processor seconds over threads, which other work on the
machine hardly lengthens."""


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    part: str
    """Part of the benchmark, as `--only` takes it."""
    what: str
    """Part of the benchmark."""
    variant: str = ""
    """How it was run."""
    status: Literal["measured", "skipped", "failed"] = "measured"
    reason: str = ""
    """Why it was skipped or failed, or what to know about the number."""
    precision: str = ""
    """Arithmetic of its products."""
    images: int | None = None
    """Images a repetition."""
    repeats: int = 0
    """Turns behind medians and quartiles."""
    steps_a_turn: int | None = None
    """Repetitions a turn."""
    seconds: float | None = None
    """Median seconds a repetition, by `clock`; of a part, its share of the whole step's."""
    seconds_q1: float | None = None
    seconds_q3: float | None = None
    wall_s: float | None = None
    """Median seconds a repetition, by the wall clock."""
    setup_s: float | None = None
    """Seconds by the wall clock of the first repetition: building, reading and compiling too."""
    images_per_s: float | None = None
    """Images over median seconds."""
    images_per_s_q1: float | None = None
    images_per_s_q3: float | None = None
    to_plain: float | None = None
    """Speed relative to the plain variant of the same part: the median over rounds of the ratio
    where they took turns, the ratio of the medians where they ran one after the other."""
    to_plain_q1: float | None = None
    """Quartiles over rounds; empty where there were none."""
    to_plain_q3: float | None = None
    share: float | None = None
    """Share of the whole step that this part takes."""
    flops_per_image: float | None = None
    """Analytic operations, as `harness/plan/cost.py` counts them."""
    mfu: float | None = None
    """Operations a second over `peak_flops`."""
    peak_flops: float | None = None
    peak_name: str = ""
    """Where the peak comes from."""
    peak_device_gib: float | None = None
    """Most device memory in tensors; empty where variants took turns, since all of them held
    memory at that time."""
    peak_host_gib: float | None = None
    """Most memory of the process; empty likewise."""
    data_wait: float | None = None
    """Share of the time that was spent waiting for data."""
    configuration: str = ""
    """Settings as JSON."""


def measured(
    row: Row, times: Times, plain: Times | None = None, *, clock: Clock, threads: int
) -> Row:
    """Fills in the times of a row of `images` a step, or why there are none; its speed is compared
    with the turns of `plain`, if any."""
    if not times.turns:
        return dataclasses.replace(row, status="failed", reason=times.error or "no turn was taken")
    seconds = _seconds(times, clock, threads)
    low, median, high = quartiles(seconds)
    filled: dict[str, Any] = {
        "repeats": len(seconds),
        "steps_a_turn": times.turns[0].steps,
        "seconds": median,
        "seconds_q1": low,
        "seconds_q3": high,
        "wall_s": statistics.median(turn.wall_s / turn.steps for turn in times.turns),
        "setup_s": times.setup_s,
    }
    if row.images:
        speeds = row.images / median, row.images / high, row.images / low
        names = ("images_per_s", "images_per_s_q1", "images_per_s_q3")
        filled |= dict(zip(names, speeds, strict=True))
        if row.flops_per_image is not None and row.peak_flops is not None:
            filled["mfu"] = speeds[0] * row.flops_per_image / row.peak_flops
    if not times.in_rounds:
        for name in ("peak_device_gib", "peak_host_gib"):
            found = [turn.peaks[name] for turn in times.turns if name in turn.peaks]
            filled[name] = max(found, default=None)
    if plain is not None and plain.turns:
        others = _seconds(plain, clock, threads)
        filled["to_plain"] = statistics.median(others) / median
        if times.in_rounds and plain.in_rounds:
            # Loops of one round meet the same disturbances, so the ratio is taken in every round.
            ratios = quartiles([b / a for a, b in zip(seconds, others, strict=False)])
            names = ("to_plain_q1", "to_plain", "to_plain_q3")
            filled |= dict(zip(names, ratios, strict=True))
    return dataclasses.replace(row, **filled)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Gives the lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _seconds(times: Times, clock: Clock, threads: int) -> list[float]:
    """Seconds of one repetition, for every turn."""
    return [
        (turn.wall_s if clock == "wall" else turn.cpu_s / threads) / turn.steps
        for turn in times.turns
    ]


def write_rows(rows: Sequence[Row], run: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Writes rows, each with the facts of the run, as Parquet and CSV files of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{**dataclasses.asdict(row), **run} for row in rows])
    paths = [folder / f"{name}.parquet", folder / f"{name}.csv"]
    table.to_parquet(paths[0].absolute(), index=False)
    table.to_csv(paths[1].absolute(), index=False, float_format="%.6g")
    return paths


def as_json(rows: Sequence[Row], run: dict[str, Any]) -> str:
    """Gives the run and its rows as JSON."""
    return json.dumps({"run": run, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1)


def as_text(rows: Sequence[Row], run: dict[str, Any]) -> str:
    """Gives a table for people: numbers with their spread, and why others are absent."""
    lines = [
        f"{run['device']}, {run['threads']} threads, torch {run['torch']}, {run['clock']} time"
    ]
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            heads = ("images/s", "quartiles", "to plain", "MFU", "GiB", "share", "waits")
            lines += ["", f"{part:42}" + "".join(f"{head:>15}" for head in heads)]
        lines.append(_line(row))
    return "\n".join(lines)


def _line(row: Row) -> str:
    label = f"  {row.what} {row.variant}".rstrip()
    if row.status != "measured":
        return f"{label:42}  {row.status}: {row.reason}"
    memory = row.peak_device_gib if row.peak_device_gib is not None else row.peak_host_gib
    cells = (
        _number(row.images_per_s) if row.images else f"{_number(row.seconds)} s",
        f"{_number(row.images_per_s_q1)}..{_number(row.images_per_s_q3)}" if row.images else "",
        f"{row.to_plain:.2f}" if row.to_plain is not None else "",
        f"{row.mfu:.1%}" if row.mfu is not None else "",
        _number(memory),
        f"{row.share:.1%}" if row.share is not None else "",
        f"{row.data_wait:.2%}" if row.data_wait is not None else "",
    )
    note = f"   {row.reason}" if row.reason else ""
    return f"{label:42}" + "".join(f"{cell:>15}" for cell in cells) + note


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
