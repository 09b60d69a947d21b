"""The state of a sweep as a table for terminals of any width."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.reporting.overview import ORDER, Overview, beginning, headline, own_numbers
from harness.reporting.stage_states import OPEN, StageState
from harness.reporting.words import duration, printable

COLORS: Mapping[str, str] = {
    "running": "cyan", "done": "green", "reused": "green", "failed": "red", "diverged": "red",
    "blocked": "magenta", "interrupted": "yellow", "stopped": "yellow",
}  # fmt: skip
RESERVED = 5
"""Lines that are kept free of stages: headline, heading and a remainder."""
NARROW = 100
"""Columns of a terminal below which rates and losses share a cell with the progress."""


def drawing(overview: Overview, console: Console) -> RenderableType:
    """The overview for a terminal: a headline and a table that fits its width and height."""
    ordered = sorted(overview.stages, key=lambda stage: ORDER.index(stage.state))
    room = max(3, console.height - RESERVED)
    shown, hidden = ordered[:room], ordered[room:]
    # Not cut, but wrapped: on a narrow terminal the counts matter as much.
    parts: list[RenderableType] = [Text(headline(overview), style="bold")]
    parts.append(_table(shown, wide=console.width >= NARROW))
    if hidden:
        states = [state for state in ORDER if any(s.state == state for s in hidden)]
        rest = ", ".join(f"{sum(s.state == state for s in hidden)} {state}" for state in states)
        parts.append(Text(f"and {rest}", style="dim"))
    return Group(*parts)


def _table(stages: Sequence[StageState], *, wide: bool) -> Table:
    table = Table(expand=True, box=None, pad_edge=False, header_style="dim")
    table.add_column("state", no_wrap=True, min_width=7)
    table.add_column("stage", no_wrap=True, min_width=9)
    table.add_column("what", ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column("progress", no_wrap=True, justify="right")
    if wide:
        table.add_column("images/s", no_wrap=True, justify="right")
        table.add_column("numbers", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("ETA", no_wrap=True, justify="right")
    for stage in stages:
        progress = stage.progress if stage.state in OPEN else {}
        eta = duration(progress["eta_s"]) if "eta_s" in progress else ""
        cells = [Text(stage.state, style=COLORS.get(stage.state, "")), Text(stage.kind)]
        what = f"{stage.label}: {stage.remark}" if stage.remark else stage.label
        cells.append(Text(printable(what)))
        cells.append(Text(_share(stage, progress, wide=wide)))
        if wide:
            rate = progress.get("images_per_s")
            cells += [Text("" if rate is None else f"{rate:.4g}"), Text(own_numbers(progress))]
        table.add_row(*cells, Text(eta if stage.state == "running" else ""))
    return table


def _share(stage: StageState, progress: Mapping[str, Any], *, wide: bool) -> str:
    """How far it is: `accuracy 500/1800 28%`, or `28%` where there is little room."""
    if progress.get("total"):
        share = progress["step"] / progress["total"]
        far = f"{progress['step']}/{progress['total']} {share:4.0%}" if wide else f"{share:.0%}"
        return f"{progress.get('measuring', '')} {far}".lstrip()
    return beginning(stage) if stage.state == "running" else ""
