"""The interface of every executor, and what all of them share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from harness.config.resources import Capacity, Resources
from harness.execution.stage_run import Outcome
from harness.plan.plan import descendants
from harness.stages.stage import Stage
from harness.storage.stop_requests import StopRequest


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A stage began or ended."""

    stage: Stage
    what: Literal["started", "waiting", "again", "ended"]
    """`waiting`: another process works on the stage; `again`: an attempt failed in a way that the
    next one may not."""
    outcome: Outcome | None = None
    """Set when it ended, and of the attempt that is followed by another."""
    held: Capacity | None = None
    """CPUs and GPUs that the stage holds while it runs; set when it started."""
    total: Capacity | None = None
    """CPUs and GPUs of the machine or cluster at this moment, where the executor knows it."""


Listener = Callable[[StageEvent], None]

Feed = Callable[[Mapping[str, Outcome], int], Sequence[Stage]]
"""Further stages for a graph that grows while it runs, given the outcomes so far and the capacity:
how many stages of any kind this machine or cluster holds at a time. Asked at the start and whenever
a stage has ended; without new stages the run ends when all known ones have."""


def fixed(outcomes: Mapping[str, Outcome], capacity: int) -> Sequence[Stage]:
    """The feed of a graph that does not grow."""
    return ()


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
        feed: Feed = fixed,
        stop: StopRequest | None = None,
    ) -> dict[str, Outcome]:
        """Run all stages.

        Args:
            stages: Inputs first.
            store_root: Root of the store, seen by every worker.
            resources: Stage kind -> what it holds.
            listen: Called in this process when a stage begins and ends.
            feed: Gives further stages; those that are known already are left out.
            stop: When it is requested, running stages write a checkpoint and end, and no further
                one is started.

        Returns:
            Key -> outcome, for every stage; after a stop request for those that had begun.

        Raises:
            ValueError: The machine or cluster can never meet a request.
        """
        ...


def block_descendants(
    failed: Stage, stages: Sequence[Stage], outcomes: dict[str, Outcome], listen: Listener
) -> None:
    """Record every stage that needs `failed` as blocked."""
    # Recorded and not just skipped: each of their rows names the failure that it waits for.
    keys = descendants(stages, failed.key)
    for stage in stages:
        if stage.key in keys and stage.key not in outcomes:
            error = f"needs {failed.kind} {failed.label!r}, which failed: "
            cause = outcomes[failed.key]
            outcome = Outcome(
                key=stage.key, status="blocked", error=error + cause.error, failure=cause.failure
            )
            outcomes[stage.key] = outcome
            listen(StageEvent(stage=stage, what="ended", outcome=outcome))


def grow(
    feed: Feed,
    capacity: int,
    stages: list[Stage],
    outcomes: dict[str, Outcome],
    listen: Listener,
) -> bool:
    """Append the stages that the feed gives; those that need a failed one end as blocked.

    Returns:
        Whether a stage was appended.
    """
    grown = False
    while True:
        # A search proposes trials whose stages the graph may have already.
        known = {stage.key for stage in stages}
        fed = {stage.key: stage for stage in feed(outcomes, capacity) if stage.key not in known}
        stages += fed.values()
        grown = grown or bool(fed)
        for failed in [s for s in stages if _ended_badly(outcomes.get(s.key))]:
            block_descendants(failed, stages, outcomes, listen)
        # What was blocked at once has ended too, and the feed is to know.
        if not any(key in outcomes for key in fed):
            return grown


def _ended_badly(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.status in ("failed", "diverged")
