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
N_co = TypeVar("N_co", bound=Node, covariant=True)


@runtime_checkable
class Graph(Protocol[N_co]):
    """Stages and what is wanted of them."""

    @property
    def stages(self) -> Sequence[N_co]:
        """Inputs first."""
        ...

    @property
    def read_keys(self) -> Set[str]:
        """Keys of the stages whose artifacts rows are made of."""
        ...


def stages_to_run(graph: Graph[N], store: Store) -> list[N]:
    """Stages that lead to something the graph wants and whose artifacts are not in the store.

    An intermediate artifact that was removed is not made again where nothing needs it any more.
    """
    # From the ends backwards: a generator that is done needs no latents, even where these are gone.
    missing = {stage.key: stage for stage in graph.stages if not store.find(stage.kind, stage.key)}
    inner = {key for stage in graph.stages for key in stage.input_keys}
    needed, read = set[str](), graph.read_keys
    waiting = [key for key in missing if key not in inner or key in read]
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += [source for source in missing[key].input_keys if source in missing]
    return [stage for stage in graph.stages if stage.key in needed]


def critical_paths(stages: Sequence[N], length: Callable[[N], float]) -> dict[str, float]:
    """Key -> length from the start of that stage to the end of the longest chain behind it.

    Args:
        stages: Inputs first.
        length: Of one stage.
    """
    lengths: dict[str, float] = {}
    behind: dict[str, float] = {}
    for stage in reversed(stages):
        lengths[stage.key] = length(stage) + behind.get(stage.key, 0.0)
        for key in stage.input_keys:
            behind[key] = max(behind.get(key, 0.0), lengths[stage.key])
    return lengths
