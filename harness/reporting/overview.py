"""A sweep at one moment, and what is said of it in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from harness.config.resources import Capacity
from harness.reporting.stage_states import OPEN, StageState, State
from harness.reporting.words import duration

ORDER: tuple[State, ...] = (
    "running", "failed", "diverged", "interrupted", "stopped", "ready", "waiting", "blocked",
    "done", "reused",
)  # fmt: skip
"""In which order stages are shown: what moves and what went wrong first."""
ALWAYS_COUNTED: tuple[State, ...] = ("running", "ready", "waiting", "done")
BOOKKEEPING = (
    "step", "total", "eta_s", "images_per_s", "data_wait_s", "data_wait_share", "spent_s",
    "attempt", "time", "measuring",
)  # fmt: skip
"""Entries of a report beside the numbers of the stage itself, such as its loss."""


@final
@dataclass(frozen=True, kw_only=True)
class Overview:
    """A sweep at one moment."""

    stages: Sequence[StageState]
    used: Capacity | None = None
    """Cores and GPUs that running stages hold."""
    total: Capacity | None = None
    """Cores and GPUs of the machine or cluster."""
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


def progress_text(stage: StageState) -> str:
    """How far a stage is: step, its numbers, rate and ETA."""
    progress = stage.progress
    if "step" not in progress:
        return beginning(stage)
    done = f"{progress['step']}/{progress['total']}"
    measuring = progress.get("measuring")
    parts = [
        f"measuring {measuring}, image {done}" if measuring else f"step {done}",
        own_numbers(progress),
        rate_text(progress),
        f"ETA {duration(progress['eta_s'])}" if "eta_s" in progress else "",
    ]
    return ", ".join(filter(None, parts))


def beginning(stage: StageState) -> str:
    """What a stage does that has not said how far it is: its worker starts, or it is at work."""
    what = "at work" if stage.progress else "starting"
    return what if stage.running_s is None else f"{what}, {duration(stage.running_s)}"


def own_numbers(progress: Mapping[str, Any]) -> str:
    """The numbers that the stage itself reports, such as its loss, or what it does in a step."""
    return progress.get("within") or ", ".join(
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
