"""The state of a sweep at one moment, as words and as a table for terminals of any width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.executors.interface import Capacity

State = Literal[
    "running", "ready", "waiting", "interrupted", "done", "reused", "failed", "diverged", "stopped",
    "blocked",
]  # fmt: skip
"""`ready`: its inputs are there; `waiting`: they are not, or another process works on it;
`interrupted`: begun by a process that is gone, or to be run again; the others as in
`execution.Status`."""

ORDER: tuple[State, ...] = (
    "running", "failed", "diverged", "interrupted", "stopped", "ready", "waiting", "blocked",
    "done", "reused",
)  # fmt: skip
"""In which order stages are shown: what moves and what went wrong first."""
ALWAYS_COUNTED: tuple[State, ...] = ("running", "ready", "waiting", "done")
OPEN: tuple[State, ...] = ("running", "ready", "waiting", "interrupted", "stopped")
"""States of stages that are to run yet."""
COLORS: Mapping[str, str] = {
    "running": "cyan", "done": "green", "reused": "green", "failed": "red", "diverged": "red",
    "blocked": "magenta", "interrupted": "yellow", "stopped": "yellow",
}  # fmt: skip
BOOKKEEPING = (
    "step", "total", "eta_s", "images_per_s", "data_wait_s", "data_wait_share", "spent_s",
    "attempt", "time", "measuring",
)  # fmt: skip
"""What a report holds beside the numbers of the stage itself, such as its loss."""
NARROW = 100
"""Columns of a terminal below which rates and losses share a cell with the progress."""


@final
@dataclass(frozen=True, kw_only=True)
class StageState:
    """One stage at one moment."""

    key: str
    kind: str
    label: str
    state: State
    progress: Mapping[str, Any] = field(default_factory=dict)
    """Its last report; empty where there is none."""
    running_s: float | None = None
    """Seconds since it was started, where that is known."""
    remark: str = ""
    """Its error, or where to look."""


@final
@dataclass(frozen=True, kw_only=True)
class Overview:
    """A sweep at one moment."""

    stages: Sequence[StageState]
    used: Capacity | None = None
    """What running stages hold."""
    total: Capacity | None = None
    """What the machine or cluster has."""
    eta_s: float | None = None
    """Seconds until the last stage ends, if nothing fails."""

    def counts(self) -> dict[State, int]:
        """State -> number of stages."""
        counts: dict[State, int] = dict.fromkeys(ALWAYS_COUNTED, 0)
        for stage in self.stages:
            counts[stage.state] = counts.get(stage.state, 0) + 1
        return counts


def headline(overview: Overview) -> str:
    """The whole in one line: stages by state, what is busy, and when it will end."""
    counts = overview.counts()
    ended = sum(number for state, number in counts.items() if state not in OPEN)
    states: list[State] = [*OPEN[:3], *(state for state in ORDER if state not in OPEN[:3])]
    numbers = [
        f"{counts[state]} {state}"
        for state in states
        if counts.get(state) or state in ALWAYS_COUNTED
    ]
    parts = [f"{ended}/{len(overview.stages)} stages: {', '.join(numbers)}"]
    if busy := busy_text(overview):
        parts.append(busy)
    if overview.eta_s is not None and ended < len(overview.stages):
        parts.append(f"sweep ETA {duration(overview.eta_s)}")
    return "; ".join(parts)


def busy_text(overview: Overview) -> str:
    """CPUs and GPUs that are busy, of how many; empty where that is not known."""
    used, total = overview.used, overview.total
    if used is None or total is None:
        return ""
    parts = [f"CPUs {used.cpus:g}/{total.cpus:g}"] if total.cpus else []
    parts += [f"GPUs {used.gpus:g}/{total.gpus:g}"] if total.gpus else []
    return f"{', '.join(parts)} busy" if parts else ""


def stage_line(stage: StageState) -> str:
    """One running stage in words."""
    return f"{stage.kind} {stage.label}: {progress_text(stage)}"


def progress_text(stage: StageState) -> str:
    """How far a stage is: step, its numbers, rate and ETA."""
    progress = stage.progress
    if "step" not in progress:
        since = stage.running_s
        return "starting" if since is None else f"starting, {since:.0f} s"
    done = f"{progress['step']}/{progress['total']}"
    measuring = progress.get("measuring")
    parts = [
        f"measuring {measuring}, image {done}" if measuring else f"step {done}",
        own_numbers(progress),
        rate_text(progress),
        f"ETA {duration(progress['eta_s'])}" if "eta_s" in progress else "",
    ]
    return ", ".join(filter(None, parts))


def own_numbers(progress: Mapping[str, Any]) -> str:
    """The numbers that the stage itself reports, such as its loss."""
    return ", ".join(
        f"{name} {value:.4g}"
        for name, value in progress.items()
        if name not in BOOKKEEPING and isinstance(value, int | float)
    )


def rate_text(progress: Mapping[str, Any]) -> str:
    """Images a second, and the share of time spent waiting for data where it is felt."""
    if "images_per_s" not in progress:
        return ""
    share = progress.get("data_wait_share", 0.0)
    waits = f" ({share:.0%} waiting for data)" if share >= 0.05 else ""
    return f"{progress['images_per_s']:.4g} images/s{waits}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that say something: `45 s`, `3 min 20 s`, `2 d 4 h`."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def drawing(overview: Overview, console: Console, *, reserved: int = 5) -> RenderableType:
    """The overview for a terminal: a headline and a table that fits its width and height.

    Args:
        overview: What to draw.
        console: The terminal.
        reserved: Lines that are kept free of stages: headline, heading and a remainder.
    """
    ordered = sorted(overview.stages, key=lambda stage: ORDER.index(stage.state))
    room = max(3, console.height - reserved)
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
        cells.append(Text(f"{stage.label}: {stage.remark}" if stage.remark else stage.label))
        cells.append(Text(_share(stage, progress, wide=wide)))
        if wide:
            rate = progress.get("images_per_s")
            cells += [Text("" if rate is None else f"{rate:.4g}"), Text(own_numbers(progress))]
        table.add_row(*cells, Text(eta if stage.state == "running" else ""))
    return table


def _share(stage: StageState, progress: Mapping[str, Any], *, wide: bool) -> str:
    """How far it is: `1200/5000 24%`, or `24%` where there is little room; after the steps of a
    training `accuracy 500/1800 28%`."""
    if progress.get("total"):
        share = progress["step"] / progress["total"]
        far = f"{progress['step']}/{progress['total']} {share:4.0%}" if wide else f"{share:.0%}"
        return f"{progress.get('measuring', '')} {far}".lstrip()
    if stage.state != "running":
        return ""
    return "starting" if stage.running_s is None else f"starting {duration(stage.running_s)}"
