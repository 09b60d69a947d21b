"""Rounds: the workers of a stage go through its images batch by batch and accumulate numbers.

A batch is one worker's, and a round is a batch each. Between rounds the stage can be interrupted:
its checkpoint has what each worker has accumulated, a part for each. The same number of workers
goes on with the same bits; another number adds the parts, which rounds sums in another order.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from harness.stages.running.context import StageContext


class Round(NamedTuple):
    """One worker's batch."""

    number: int
    """Number of the batch among all, from 0."""
    positions: Int64[np.ndarray, " b"]
    """Where its images stand among all; none where no batch is left for this worker."""
    done: int
    """Images that all workers have done after this round and those before."""


class Rounds:
    """The rounds of one stage, from where it was interrupted; its last batch may be short."""

    def __init__(self, context: StageContext, count: int, batch_size: int) -> None:
        self._context, self._count, self._batch_size = context, count, batch_size
        self.done = 0
        """Images that were done before."""
        self._parts: list[Mapping[str, Tensor]] = []
        if resumed := context.resume():
            self.done, saved = resumed
            self._parts = _own(saved["parts"], context)

    def take_parts(self) -> Iterator[Mapping[str, Tensor]]:
        """Hand over, once, what earlier attempts accumulated; this worker adds it to its own."""
        while self._parts:
            yield self._parts.pop(0)

    def __iter__(self) -> Iterator[Round]:
        """This worker's rounds; in the order of ranks, the batches of a round are consecutive."""
        world, size = self._context.world, self._batch_size
        for first in range(self.done, self._count, size * world.size):
            start = first + size * world.rank
            positions = np.arange(start, min(start + size, self._count), dtype=np.int64)
            yield Round(start // size, positions, min(first + size * world.size, self._count))

    def sampling(self, turn: Round, step: int, steps: int) -> None:
        """Report which of its steps a round's batch begins; `steps` is 0 where nobody knows it."""
        first = (turn.number - self._context.world.rank) * self._batch_size
        done = first + (turn.done - first) * (step - 1) / (steps or math.inf)
        self._context.between_steps(f"sampling step {step}/{steps or '?'}", done, self._count)

    def end(self, turn: Round, accumulated: Callable[[], Mapping[str, Tensor]]) -> None:
        """Report, save a checkpoint and stop where they are due; every worker, after each round.
        `accumulated`, what it has so far, is called where a checkpoint is due."""

        def state() -> Mapping[str, Sequence[Mapping[str, Tensor]]]:
            own = {name: tensor.to("cpu", copy=True) for name, tensor in accumulated().items()}
            return {"parts": self._context.world.gather(own)}

        self._context.after_step(turn.done, self._count, dict, state, shared=True)


def _own(parts: list[Mapping[str, Tensor]], context: StageContext) -> list[Mapping[str, Tensor]]:
    """A worker's own part; of another number of workers the first takes all."""
    if len(parts) == context.world.size:
        return [parts[context.world.rank]]
    return parts if context.world.is_first else []
