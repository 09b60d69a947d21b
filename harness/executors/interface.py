"""The interface of every executor, and what all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.config.resources import Capacity, Resources
from harness.execution.stage_run import Outcome
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
    """CPUs and GPUs that the run can hold at this moment, where the executor knows it."""


Listener = Callable[[StageEvent], None]

Feed = Callable[[Mapping[str, Outcome], int], Sequence[Stage]]
"""Further stages for a graph that grows while it runs, given the outcomes so far and the capacity:
how many stages of any kind this machine or cluster holds at a time. Asked at the start and whenever
a stage has ended; without new stages the run ends when all known ones have."""


def fixed(outcomes: Mapping[str, Outcome], capacity: int) -> Sequence[Stage]:
    """The feed of a graph that does not grow."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The stages of a run, which may become more while it lasts, and how they have ended."""

    stages: list[Stage]
    """Inputs first."""
    listen: Listener
    """Called in this process when a stage begins and ends."""
    feed: Feed
    """Gives further stages; those that are known already are left out."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Key -> outcome of the stages that have ended."""

    def kinds(self, resources: Mapping[str, Resources]) -> set[str]:
        """The kinds that must be possible: all, where it is not known what a feed will ask for."""
        return {s.kind for s in self.stages} if self.feed is fixed else set(resources)

    def end(self, stage: Stage, outcome: Outcome) -> None:
        """Record how a stage ended; what needs one that failed ends as blocked."""
        self.outcomes[stage.key] = outcome
        self.listen(StageEvent(stage=stage, what="ended", outcome=outcome))
        self._block_descendants(stage)

    def grow(self, capacity: int) -> bool:
        """Append the stages that the feed gives, those that need a failed one as blocked; whether
        there were any."""
        grown = False
        while True:
            # A search proposes trials whose stages the graph may have already.
            known = {stage.key for stage in self.stages}
            fed = {s.key: s for s in self.feed(self.outcomes, capacity) if s.key not in known}
            self.stages.extend(fed.values())
            grown = grown or bool(fed)
            for stage in self.stages:
                self._block_descendants(stage)
            # What was blocked at once has ended too, and the feed is to know.
            if not any(key in self.outcomes for key in fed):
                return grown

    def _block_descendants(self, failed: Stage) -> None:
        cause, reached = self.outcomes.get(failed.key), {failed.key}
        if cause is None or cause.status not in ("failed", "diverged"):
            return
        # Recorded and not just skipped: each of their rows names the failure that it waits for.
        error = f"needs {failed.kind} {failed.label!r}, which failed: {cause.error}"
        for stage in self.stages:
            if reached.isdisjoint(stage.input_keys):
                continue
            reached.add(stage.key)
            if stage.key not in self.outcomes:
                key, failure = stage.key, cause.failure
                self.end(stage, Outcome(key=key, status="blocked", error=error, failure=failure))


class Executor(ABC):
    """Runs a graph of stages, each at most once and after its inputs are in the store; a stage
    whose input failed ends as `blocked`, and all others go on."""

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
            feed: Gives further stages; those that are known already are left out.
            stop: When it is requested, running stages write a checkpoint and end, and no further
                one is started.

        Returns:
            Key -> outcome, for every stage; after a stop request for those that had begun.

        Raises:
            ValueError: The machine or cluster can never meet a request.
        """
        graph = Graph(stages=list(stages), listen=listen, feed=feed)
        self.run_graph(graph, store_root.resolve(), resources, stop or StopRequest(store_root))
        return graph.outcomes

    @abstractmethod
    def run_graph(
        self, graph: Graph, root: Path, resources: Mapping[str, Resources], stop: StopRequest
    ) -> None:
        """Run until all stages of a graph have ended or, after a stop request, none runs."""
