"""Times loops that take turns: each does a few steps, then waits while the others do theirs.

A training loop is timed unchanged: it runs in a thread, which waits after every step until it may
do the next. On a machine with other work, loops that take turns meet the same disturbances, so
that ratios of their times are fair. Where a loop needs all the memory, as on a GPU, loops run one
after the other instead.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch

from harness.execution.failures import one_line
from harness.machine.metering import Meter, free_device_memory

Pause = Callable[[], None]
"""Function that a loop calls after each of its steps."""
Work = Callable[[Pause], None]
"""Runs a loop, and calls its argument after every step."""
WARM_UP = 2
"""First turns of a loop, which build and warm up and are not counted."""
FEWEST = 3
"""Turns that are counted however long they take, if so many are asked for."""
TURN_S = 1.0
"""Seconds after which a turn begins no further step."""


@final
@dataclass(frozen=True, kw_only=True)
class Taken:
    """Time and memory of one turn."""

    wall_s: float
    """Seconds by the clock."""
    cpu_s: float
    """Processor seconds of this process, over all its threads."""
    steps: int = 1
    """Steps that it did."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Peak memory in GiB, as `Meter.peaks` gives it: of the process, and of tensors on a GPU."""


@final
@dataclass
class Times:
    """The turns of one loop, without those that warm up."""

    setup_s: float = 0.0
    """Seconds of the first turn: building, reading, compiling, one step."""
    in_rounds: bool = False
    """Whether other loops took turns with it, and held their memory all the time."""
    turns: list[Taken] = field(default_factory=list)
    error: str = ""
    """Why the loop failed; empty where it did not."""


class _Closed(BaseException):
    """Ends a loop that is no longer needed; `except Exception` does not catch it."""


@final
class Loop:
    """Runs `work` in a thread, some steps at a time; a step on a GPU ends when the GPU is done.

    The first turn is one step. The second ends after `steps` steps or after `TURN_S`, and every
    later one does as many steps as the second.
    """

    def __init__(self, work: Work, device: torch.device, steps: int = 1) -> None:
        self._work, self._device, self._most = work, device, steps
        self._number, self._steps = 0, 1
        self._done_steps, self._until_s, self._closing = 0, math.inf, False
        self._error: BaseException | None = None
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True, name="benchmark loop")

    def turn(self) -> Taken:
        """Does the next steps; raises what the loop raises, and `RuntimeError` where it ends."""
        if self._thread.ident is None:
            self._thread.start()
        meter = Meter(self._device)
        wall, cpu = time.perf_counter(), time.process_time()
        tries = self._number == 1
        if tries:
            self._steps, self._until_s = self._most, wall + TURN_S
        self._done_steps = 0
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        if tries:
            self._steps, self._until_s = self._done_steps, math.inf
        self._number += 1
        return Taken(wall_s=wall_s, cpu_s=cpu_s, steps=self._done_steps, peaks=meter.peaks())

    def close(self) -> None:
        """Ends the loop where it waits."""
        self._closing = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            self._wait()
            self._work(self._pause)
            self._error = RuntimeError("a loop that is timed must go on, but it ended")
        except _Closed:
            return
        except BaseException as error:
            self._error = error
        self._done.release()

    def _pause(self) -> None:
        self._done_steps += 1
        last = self._done_steps >= self._steps
        # A GPU's steps are only begun here; when they end is known after a wait.
        if last or self._until_s < math.inf:
            wait_for(self._device)
        if not last and time.perf_counter() < self._until_s:
            return
        self._done.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closing:
            raise _Closed


def repeated(function: Callable[[], object]) -> Work:
    """Makes a loop that calls one function."""

    def work(pause: Pause) -> None:
        while True:
            function()
            pause()

    return work


def take_turns(
    loops: Mapping[str, Work],
    device: torch.device,
    *,
    repeats: int,
    steps: int = 1,
    together: bool = True,
    limit_s: float = math.inf,
) -> dict[str, Times]:
    """Times loops; one that fails is left out from there on, with its error.

    Args:
        loops: Name -> work.
        repeats: Turns that count, beside those that warm up.
        steps: Most steps a turn; fewer where these would take longer than `TURN_S`.
        together: Whether loops take turns, or run one after the other, each alone in memory.
        limit_s: Seconds after which no further round begins, once there were `FEWEST`: of all
            loops where they are together, otherwise of each.
    """
    groups = [list(loops)] if together else [[name] for name in loops]
    times = {name: Times(in_rounds=len(group) > 1) for group in groups for name in group}
    for group in groups:
        running = {name: Loop(loops[name], device, steps) for name in group}
        started = time.monotonic()
        for number in range(WARM_UP + repeats):
            late = time.monotonic() - started > limit_s
            if late and number >= WARM_UP + FEWEST:
                break
            for name in list(running):
                try:
                    taken = running[name].turn()
                except Exception as error:
                    times[name].error = one_line(error)[:300]
                    running.pop(name).close()
                    continue
                if number == 0:
                    times[name].setup_s = taken.wall_s
                elif number >= WARM_UP:
                    times[name].turns.append(taken)
        for loop in running.values():
            loop.close()
        running.clear()
        if device.type == "cuda" or any(times[name].error for name in group):
            free_device_memory()
    return times


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has done what was begun."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
