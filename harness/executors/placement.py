"""Chooses which stages start now, and on which machines. It keeps no state and knows no Ray.

Ray has neither priorities nor reservations: a gang that is submitted among small stages starts when
all of them are done. So stages are handed to Ray only when their resources are free, in an order of
our own, and what the first stages in that order lack is held for them: later ones get what is left.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.executors.requests import Amounts, Demand, as_packed, slots
from harness.stages.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A stage that starts now."""

    stage: Stage
    nodes: tuple[str, ...]
    """Machine of each worker."""


def place(
    stages: Sequence[Stage],
    demands: Mapping[str, Demand],
    totals: Mapping[str, Amounts],
    free: Mapping[str, Amounts],
    held_back: Collection[str] = (),
) -> list[Placement]:
    """Choose what starts now.

    Args:
        stages: Stages whose inputs exist, most urgent first.
        totals: Machine -> what it has.
        free: Machine -> what of it is free.
        held_back: Keys of stages that start in a moment only; what they need is held for them.
    """
    left = {node: dict(amounts) for node, amounts in free.items()}
    # What no earlier stage of the order will ever need of a machine.
    unclaimed = {node: dict(amounts) for node, amounts in totals.items()}
    placements = []
    for stage in stages:
        demand = demands[stage.kind]
        # In the amounts that a machine really spends, or a plan would not fit on it.
        each = as_packed(demand.each)
        nodes = _choose(demand.workers, each, left, totals)
        if len(nodes) == demand.workers and stage.key not in held_back:
            placements.append(Placement(stage=stage, nodes=nodes))
            _take(nodes, each, left, unclaimed)
            continue
        # Free workers first: what is held already stays held at the next look.
        wanted = _choose(demand.workers, each, unclaimed, totals, prefer=left)
        if len(wanted) == demand.workers:
            _take(wanted, each, left, unclaimed)
    return placements


def _choose(
    workers: int,
    each: Amounts,
    amounts: Mapping[str, Amounts],
    totals: Mapping[str, Amounts],
    prefer: Mapping[str, Amounts] | None = None,
) -> tuple[str, ...]:
    """Machines for the workers of one stage, as few as possible; fewer than asked if it can't be.

    A machine that just fits is taken before one that more would fit on, and machines with GPUs are
    left to stages that use them.
    """
    room = {node: slots(held, each) for node, held in amounts.items()}
    at_once = {node: slots(held, each) for node, held in (prefer or amounts).items()}

    def rank(node: str) -> tuple[bool, bool, int, int, str]:
        spares_gpus = "GPU" not in each and totals[node].get("GPU", 0) > 0
        fits = room[node] >= workers
        # Of machines that hold the whole stage the fullest, of others the emptiest.
        size = room[node] if fits else -room[node]
        return not fits, spares_gpus, -min(at_once.get(node, 0), workers), size, node

    chosen: list[str] = []
    for node in sorted(room, key=rank):
        chosen += [node] * min(room[node], workers - len(chosen))
    return tuple(chosen)


def _take(nodes: Sequence[str], each: Amounts, *pools: Mapping[str, dict[str, float]]) -> None:
    for pool in pools:
        for node in nodes:
            for name, need in each.items():
                pool[node][name] = pool[node].get(name, 0.0) - need
