"""What every executor promises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from harness.execution import Outcome
from harness.plan import Stage, descendants
from harness.sweep import Resources


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A stage began or ended."""

    stage: Stage
    what: Literal["started", "waiting", "ended"]
    """`waiting`: another process works on the stage."""
    outcome: Outcome | None = None
    """Set when it ended."""


Listener = Callable[[StageEvent], None]


@runtime_checkable
class Executor(Protocol):
    """Runs a graph of stages.

    Every stage is started after its inputs are in the store, each at most once; a stage whose
    input failed ends as `blocked`, and all others go on.
    """

    def run(
        self,
        stages: Sequence[Stage],
        store_root: Path,
        resources: Mapping[str, Resources],
        listen: Listener,
    ) -> dict[str, Outcome]:
        """Run all stages.

        Args:
            stages: Inputs first.
            store_root: Root of the store, seen by every worker.
            resources: Stage kind -> what it holds.
            listen: Called in this process when a stage begins and ends.

        Returns:
            Key -> outcome, for every stage.

        Raises:
            ValueError: The machine or cluster can never meet a request.
        """
        ...


def block_descendants(
    failed: Stage, stages: Sequence[Stage], outcomes: dict[str, Outcome], listen: Listener
) -> None:
    """Record every stage that needs `failed` as blocked."""
    keys = descendants(stages, failed.key)
    for stage in stages:
        if stage.key in keys and stage.key not in outcomes:
            error = f"needs {failed.kind} {failed.label!r}, which failed: "
            outcome = Outcome(
                key=stage.key, status="blocked", error=error + outcomes[failed.key].error
            )
            outcomes[stage.key] = outcome
            listen(StageEvent(stage=stage, what="ended", outcome=outcome))
