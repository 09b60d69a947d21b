"""Work that takes turns: several loops side by side, each going on by a step when it is its turn.

A loop that trains is timed as it is: it runs in a thread of its own, which waits after every step
until it is given the next. On a machine with other work to do, loops that take turns in every round
meet the same disturbances, so that ratios of their times are fair. Where each needs the memory for
itself, as on a GPU, they run one after the other instead, and their rounds have nothing in common.
"""

import gc
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch

from harness.machine.metering import Meter

Pause = Callable[[], None]
"""What a loop calls after each of its steps."""
WARM_UP = 2
"""First turns of a loop, which build and warm up and count for nothing."""
FEWEST = 3
"""Turns that are taken and count however long they take, if so many are asked for."""
TURN_S = 1.0
"""Seconds after which a turn has no further step, whatever number is asked for."""


@final
@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one turn took."""

    wall_s: float
    """Seconds by the clock."""
    cpu_s: float
    """Seconds of all processors that this process used."""
    steps: int = 1
    """Steps that it did."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Peak memory in GiB, as `Meter.peaks` gives it: of the process, and of tensors on a GPU."""


@final
@dataclass
class Times:
    """All turns of one loop after those that warm up."""

    setup_s: float = 0.0
    """Seconds of the first turn: building, reading, compiling, one step."""
    in_rounds: bool = False
    """Whether other loops took turns with it, round by round, alive all the while."""
    turns: list[Taken] = field(default_factory=list)
    error: str = ""
    """Why there are no more turns, where the loop failed."""


class _Closed(BaseException):
    """Ends a loop that is not wanted any more; no `except Exception` holds it up."""


@final
class Loop:
    """A loop in a thread that goes on by some steps when it is given a turn.

    Its first turn is one step. The second goes on until it has done `steps` of them or taken
    `TURN_S`, and every later one does as many.

    Args:
        work: Runs the loop; calls what it is given after every step.
        device: Where it computes; a turn ends when the device is done.
        steps: Most steps a turn.
    """

    def __init__(self, work: Callable[[Pause], None], device: torch.device, steps: int = 1) -> None:
        self._work, self._device, self._most = work, device, steps
        self._number, self._steps = 0, 1
        self._done_steps, self._until_s, self._closing = 0, math.inf, False
        self._error: BaseException | None = None
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True, name="benchmark loop")

    def turn(self) -> Taken:
        """Do the next steps.

        Raises:
            Exception: What the loop raised.
            RuntimeError: The loop has ended.
        """
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
        """End the loop where it waits."""
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
        if self._device.type == "cuda" and (last or self._until_s < math.inf):
            torch.cuda.synchronize(self._device)
        if not last and time.perf_counter() < self._until_s:
            return
        self._done.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closing:
            raise _Closed


def repeated(function: Callable[[], object]) -> Callable[[Pause], None]:
    """A loop of one function's calls."""

    def work(pause: Pause) -> None:
        while True:
            function()
            pause()

    return work


def built(build: Callable[[], Callable[[], object]]) -> Callable[[Pause], None]:
    """The same of a function that is made in the loop's thread, with what it holds."""

    def work(pause: Pause) -> None:
        repeated(build())(pause)

    return work


def take_turns(
    loops: Mapping[str, Callable[[Pause], None]],
    device: torch.device,
    *,
    repeats: int,
    steps: int = 1,
    together: bool = True,
    limit_s: float = math.inf,
) -> dict[str, Times]:
    """Time loops in turns; one that fails is left out from there on and says why.

    Args:
        loops: Name -> work.
        device: Where they compute.
        repeats: Turns that count, beside those that warm up.
        steps: Most steps a turn; fewer where these would take longer than `TURN_S`.
        together: All loops side by side, in rounds. Otherwise one after the other, each alone in
            memory.
        limit_s: Seconds after which no further round is begun, if there were the fewest: of all
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
                    times[name].error = _in_words(error)
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
            free_memory(device)
    return times


def free_memory(device: torch.device) -> None:
    """Give back what loops that have ended have left; a failed one's lies in its traceback."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
