"""Batches computed ahead of the step that needs them, in one background thread.

A batch is a pure function of its step, so it is the same whichever thread computes it and when.
Batches come in the order of the steps, and an error is raised at the step that it belongs to.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

Batch = TypeVar("Batch")

DEPTH = 2
"""Batches ahead unless asked otherwise."""


def ahead(
    function: Callable[[int], Batch], steps: Iterable[int], *, depth: int = DEPTH
) -> "Ahead[Batch]":
    """`map(function, steps)`, up to `depth` batches ahead of the consumer.

    Args:
        function: Computes the batch of a step. It runs in another thread, so it must draw from no
            global random generator.
        steps: Steps in the order in which they are needed.
        depth: Batches at most that are ready or in work; 0 computes each when it is asked for.

    Raises:
        ValueError: `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"`depth` must not be negative, but got {depth}; use 0 or more")
    return Ahead(function, steps, depth)


@final
class Ahead(Generic[Batch], Iterator[Batch]):
    """Iterator of `ahead`. Close it, or use it as a context manager, where it may end early."""

    def __init__(self, function: Callable[[int], Batch], steps: Iterable[int], depth: int) -> None:
        self.waited_s = 0.0
        """Seconds that the consumer has waited for batches."""
        self._batches = map(function, steps)
        self._line = _Line(depth)
        self._thread: threading.Thread | None = None
        # One thread: several would finish out of order. A batch is decoded by more (`in_threads`).
        if depth:
            # The thread must not hold this object, or one that is forgotten would never end.
            arguments = (self._batches, self._line)
            self._thread = threading.Thread(target=_produce, args=arguments, daemon=True)
            self._thread.name = "batches ahead"
            self._thread.start()
        weakref.finalize(self, self._line.stop)

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: There are no more steps, an error came before, or it was closed.
            BaseException: Whatever the function raised for this step.
        """
        if self._line.ended:
            raise StopIteration
        started = time.perf_counter()
        try:
            return next(self._batches) if self._thread is None else self._line.take()
        except BaseException:
            self._line.stop()
            raise
        finally:
            self.waited_s += time.perf_counter() - started

    def __enter__(self) -> "Ahead[Batch]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, after the batch that is in work; batches not taken are dropped."""
        self._line.stop()
        # Files that the thread reads may be closed or removed after this call.
        if self._thread is not None:
            self._thread.join()


class _Line:
    """The queue between thread and consumer: batches in order, or the error that ends it."""

    def __init__(self, depth: int) -> None:
        self.ended = False
        # A permit for every batch that may be ready or in work. With a bounded queue the thread
        # would compute one more than `depth` and hold it while the queue is full.
        self._permits = threading.Semaphore(depth)
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def wait(self) -> bool:
        """Wait until another batch may be computed; False where none is wanted any more."""
        self._permits.acquire()
        return not self.ended

    def put(self, batch: Any, error: BaseException | None = None) -> None:
        self._ready.put((batch, error))

    def take(self) -> Any:
        batch, error = self._ready.get()
        if error is not None:
            raise error
        self._permits.release()
        return batch

    def stop(self) -> None:
        self.ended = True
        self._permits.release()


def _produce(batches: Iterator[Any], line: _Line) -> None:
    while line.wait():
        try:
            batch = next(batches)
        except BaseException as error:  # StopIteration too: the consumer meets it at its step.
            line.put(None, error)
            return
        line.put(batch)


def pinned(function: Callable[[int], Any], device: torch.device) -> Callable[[int], Any]:
    """Have a function put its tensors into page-locked memory where they go to a CUDA device.

    Args:
        function: Computes the batch of a step: a tensor or a tuple with tensors.
        device: Where the batch will be used.
    """
    if device.type != "cuda":
        return function

    # Only from there does `to(device, non_blocking=True)` return before the copy is done.
    def compute(step: int) -> Any:
        return _pin(function(step))

    return compute


def _pin(batch: Any) -> Any:
    if isinstance(batch, tuple):
        return tuple(_pin(part) for part in batch)
    if isinstance(batch, Tensor) and batch.device.type == "cpu":
        return batch.pin_memory()
    return batch
