"""Questions to a graph of stages, planned or read from a record. Nothing here imports PyTorch."""

from collections.abc import Callable, Sequence, Set
from typing import Protocol, TypeVar, runtime_checkable

from harness.storage.artifacts import Store


@runtime_checkable
class Node(Protocol):
    """A stage as a place in a graph, without its configuration."""

    @property
    def kind(self) -> str:
        """Name of the stage's kind."""
        ...

    @property
    def key(self) -> str:
        """Its content key."""
        ...

    @property
    def label(self) -> str:
        """A few words for people."""
        ...

    @property
    def input_keys(self) -> tuple[str, ...]:
        """Keys of the stages whose artifacts it reads."""
        ...


N = TypeVar("N", bound=Node)


def stages_to_run(stages: Sequence[N], read_keys: Set[str], store: Store) -> list[N]:
    """Stages that lead to something that is wanted and whose artifacts are not in the store.

    An intermediate artifact that was removed is not made again where nothing needs it any more.

    Args:
        stages: Inputs first.
        read_keys: Keys of the stages whose artifacts rows are made of.
        store: Where the artifacts lie.
    """
    # From the ends backwards: a generator that is done needs no latents, even where these are gone.
    missing = {stage.key: stage for stage in stages if not store.find(stage.kind, stage.key)}
    inner = {key for stage in stages for key in stage.input_keys}
    needed = set[str]()
    waiting = [key for key in missing if key not in inner or key in read_keys]
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += [source for source in missing[key].input_keys if source in missing]
    return [stage for stage in stages if stage.key in needed]


def critical_paths(stages: Sequence[N], length: Callable[[N], float]) -> dict[str, float]:
    """Key -> length from the start of that stage to the end of the longest chain behind it."""
    lengths: dict[str, float] = {}
    behind: dict[str, float] = {}
    for stage in reversed(stages):
        lengths[stage.key] = length(stage) + behind.get(stage.key, 0.0)
        for key in stage.input_keys:
            behind[key] = max(behind.get(key, 0.0), lengths[stage.key])
    return lengths
