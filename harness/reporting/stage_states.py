"""In which state each stage of a sweep is.

One rule serves the command that runs the stages and a look from outside. They differ in the
witness: the command knows what its executor has told, a look from outside reads what running,
finished and killed processes have left in the store.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from harness.plan.graph import Node
from harness.storage.artifacts import HOLDER, Store, read_history
from harness.storage.lease import describe_holder, is_held

State = Literal[
    "running", "ready", "waiting", "interrupted", "done", "reused", "failed", "diverged", "stopped",
    "blocked",
]  # fmt: skip
"""`ready`: its inputs are there; `waiting`: they are not, or another process works on it;
`interrupted`: begun by a process that is gone, or to be run again; the others as in
`execution.Status`."""

OPEN: tuple[State, ...] = ("running", "ready", "waiting", "interrupted", "stopped")
"""States of stages that are to run yet."""
BAD: tuple[State, ...] = ("failed", "diverged", "blocked")
"""States of stages that will not run again by themselves."""


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

    @classmethod
    def of(cls, stage: Node, state: State, **known: Any) -> "StageState":
        """A stage in a state, with what else is known of it."""
        return cls(key=stage.key, kind=stage.kind, label=stage.label, state=state, **known)


Witness = Callable[[Node], StageState | None]
"""News of one stage by itself; None where nothing has begun it."""


def stage_states(stages: Iterable[Node], witness: Witness) -> dict[str, StageState]:
    """Key -> state of every stage, given inputs first; inputs that are not given are stored."""
    states: dict[str, StageState] = {}
    for stage in stages:
        sources = [states[key] for key in stage.input_keys if key in states]
        culprit = next((source for source in sources if source.state in BAD), None)
        found = witness(stage)
        # An earlier attempt says nothing where an input has failed since.
        if culprit and (found is None or found.state in (*BAD, "interrupted")):
            remark = f"needs {culprit.kind} {culprit.label}"
            found = StageState.of(stage, "blocked", remark=remark)
        elif found is None:
            ready = all(source.state in ("done", "reused") for source in sources)
            found = StageState.of(stage, "ready" if ready else "waiting")
        states[stage.key] = found
    return states


def witness_of(store: Store) -> Witness:
    """Reads the state of a stage from what processes have left in the store."""

    def witness(stage: Node) -> StageState | None:
        if store.find(stage.kind, stage.key) is not None:
            return StageState.of(stage, "done")
        folder = store.folder(stage.kind, stage.key)
        partial = folder.with_name(f"{folder.name}.partial")
        lease = store.lease(stage.kind, stage.key)
        progress = store.progress(stage.kind, stage.key)
        started = _last_start(partial)
        if is_held(lease):
            # By this machine's clock.
            since = None if started is None else max(0.0, time.time() - started)
            holder = describe_holder(lease)
            return StageState.of(
                stage, "running", remark=holder, progress=progress, running_s=since
            )
        if _has_failed(partial):
            error = _last_line(partial / "error.txt")
            state: State = "diverged" if "Diverged:" in error else "failed"
            there = [partial / name for name in ("error.txt", "log.txt")]
            seen = " and ".join(str(path) for path in there if path.is_file())
            remark = f"{error}; see {seen}"
            return StageState.of(stage, state, remark=remark, progress=progress)
        if partial.is_dir():
            remark = _interrupted(partial)
            return StageState.of(stage, "interrupted", remark=remark, progress=progress)
        return None

    return witness


def _last_start(partial: Path) -> float | None:
    """When the last attempt began, in seconds since 1970; None where that is not known."""
    started = [entry["at"] for entry in read_history(partial) if entry.get("what") == "started"]
    return started[-1] if started else None


def _has_failed(partial: Path) -> bool:
    """Whether the last attempt ended with an error; one that was killed leaves an older one's."""
    try:
        failed_ns = (partial / "error.txt").stat().st_mtime_ns
    except OSError:
        return False
    # Both times are the disk's: clocks of machines disagree.
    try:
        return (partial / HOLDER).stat().st_mtime_ns <= failed_ns
    except OSError:
        # Work folders of earlier versions do not say when they were begun.
        return True


def _interrupted(partial: Path) -> str:
    steps = sorted((partial / "checkpoints").glob("step-*.json"))
    if not steps:
        return "its process is gone and left no checkpoint: it starts anew"
    step = int(steps[-1].stem.partition("-")[2])
    return f"its process is gone: it goes on after step {step}"


def _last_line(path: Path) -> str:
    """The line of a traceback that says what went wrong."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"its error cannot be read ({error})"
    told = [line for line in lines if line and not line.startswith(" ")]
    return told[-1][:500] if told else "no error was told"
