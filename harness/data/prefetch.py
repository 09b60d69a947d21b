"""Batches computed ahead of the step that needs them, in one background thread.

A batch is a pure function of its step, so it is the same whichever thread computes it and when.
Batches come in the order of the steps, and an error is raised at the step that it belongs to.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

Batch = TypeVar("Batch")


@final
class Ahead(Generic[Batch], Iterator[Batch]):
    """`map(function, steps)`, up to `depth` batches ahead of the consumer.

    Close it, or use it as a context manager, where it may end early.

    Args:
        function: Computes the batch of a step. It runs in another thread, so it must draw from no
            global random generator.
        steps: Steps in the order in which they are needed.
        depth: Batches at most that are ready or in work; 0 computes each when it is asked for.
    """

    def __init__(
        self, function: Callable[[int], Batch], steps: Iterable[int], *, depth: int
    ) -> None:
        self.waited_s = 0.0
        """Seconds that the consumer has waited for batches."""
        self._function, self._steps, self._depth = function, iter(steps), depth
        # One thread: several would finish out of order. A batch is decoded by more (`in_threads`).
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches ahead")
        self._batches: deque[Future[Batch]] = deque()
        self._ask(depth)
        # The pool knows nothing of this object, so that one that is forgotten ends its thread.
        self._stop = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __next__(self) -> Batch:
        """The next batch, or the error that the function raised for this step. After an error, the
        last step or `close` it raises StopIteration."""
        if not self._stop.alive:
            raise StopIteration
        started = time.perf_counter()
        try:
            if not self._depth:
                return self._function(next(self._steps))
            if not self._batches:
                raise StopIteration
            batch = self._batches.popleft().result()
            # Only now: never are more than `depth` batches ready or in work.
            self._ask(1)
            return batch
        except BaseException:
            self._stop()
            raise
        finally:
            self.waited_s += time.perf_counter() - started

    def __enter__(self) -> "Ahead[Batch]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, after the batch that is in work; batches not taken are dropped."""
        self._stop()
        # Files that the thread reads may be closed or removed after this call.
        self._pool.shutdown()

    def _ask(self, count: int) -> None:
        for step in islice(self._steps, count):
            self._batches.append(self._pool.submit(self._function, step))


def pinned(function: Callable[[int], Any], device: torch.device) -> Callable[[int], Any]:
    """Have a function put the tensors of a batch (one, or a tuple with some) into page-locked
    memory where they go to a CUDA device."""
    if device.type != "cuda":
        return function

    here = nullcontext() if device.index is None else torch.cuda.device(device)

    # Only from there does `to(device, non_blocking=True)` return before the copy is done.
    def compute(step: int) -> Any:
        # A thread begins at GPU 0, where page-locking would open a context beside the worker's.
        with here:
            return _pin(function(step))

    return compute


def _pin(batch: Any) -> Any:
    if isinstance(batch, tuple):
        return tuple(_pin(part) for part in batch)
    if isinstance(batch, Tensor) and batch.device.type == "cpu":
        return batch.pin_memory()
    return batch
