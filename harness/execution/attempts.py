"""Notes in a stage's work folder, for the other workers and for the next attempt.

The workers of a process group learn that one was lost but not why, so a failing worker writes its
reason down. A stage that ran out of device memory writes down in how many slices the next attempt
computes its batches; that holds, across kills, until the stage is done or fails for good.
"""

import time
from typing import Any

from harness.execution.failures import classify
from harness.machine.world import World
from harness.storage.artifacts import Work
from harness.storage.durable import read_object, write_json

WORD_S = 5.0
"""Seconds that a worker waits for the reason of another one's failure."""
_MEMORY = "memory.json"
_FAILURE = "failure-worker{rank}.json"


def slices(work: Work) -> int:
    """Slices of every batch in the coming attempt, as far as earlier ones have asked for them."""
    found = read_object(work.shared / _MEMORY).get("slices", 1)
    # A note of another form says nothing: the batch is tried whole.
    return found if isinstance(found, int) and found >= 1 else 1


def ask_for_slices(work: Work, slices: int, error: str) -> None:
    """Have the coming attempts slice their batches."""
    # In a file and not in this process: the attempt after a kill must not run out of memory again.
    work.shared.mkdir(parents=True, exist_ok=True)
    write_json(work.shared / _MEMORY, {"slices": slices, "error": error})


def forget_slices(work: Work) -> None:
    """Let the next attempt, perhaps on a larger device, compute whole batches again."""
    (work.shared / _MEMORY).unlink(missing_ok=True)


def clear_failures(work: Work) -> None:
    """Forget why workers of earlier attempts failed."""
    for path in work.shared.glob(_FAILURE.format(rank="*")):
        path.unlink(missing_ok=True)


def tell_failure(work: Work, world: World, failure: dict[str, Any]) -> None:
    """Write down why this worker ends, for the others that lose it."""
    if not world.is_alone:
        write_json(work.shared / _FAILURE.format(rank=world.rank), failure, durable=False)


def failure_behind(error: Exception, work: Work, world: World) -> dict[str, Any]:
    """The reason that another worker wrote down before this one lost it; empty where the error is
    this one's own, or the other was killed."""
    # The connection of a failing worker may close before its note is seen here.
    deadline = time.monotonic() + WORD_S
    others = [rank for rank in range(world.size) if rank != world.rank]
    while classify(error) == "infrastructure" and time.monotonic() < deadline:
        for rank in others:
            if failure := read_object(work.shared / _FAILURE.format(rank=rank)):
                return failure
        time.sleep(0.1)
    return {}
