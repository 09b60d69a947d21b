"""Sorts errors into classes of failure, which decide whether a stage is run again.

| class | what | what follows |
|---|---|---|
| infrastructure | a worker, machine, GPU or connection was lost | again, a few times a checkpoint |
| host_memory | the machine's memory ran out | run again, fewer times |
| device_memory | a GPU's memory ran out | again in more slices, in `harness.execution.stage_run` |
| divergence | a loss or gradient is not finite | never again: it would end the same way |
| storage | a disk is full, or cannot be written | the user's to mend |
| configuration | the request is wrong | the user's to mend |
| error | anything else | the user's to mend |

Classes are found by the names of exception classes, so that Ray's are known here without Ray.
"""

import errno
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from harness.machine.devices import is_out_of_memory

FailureKind = Literal[
    "",
    "divergence",
    "device_memory",
    "host_memory",
    "storage",
    "configuration",
    "error",
    "infrastructure",
]
"""Class of a failure, what explains the others first; empty where nothing failed. A lost connection
comes last: it is what the failure of another worker looks like from here."""

# Bounded, and ours: Ray would repeat what ran out of host memory for ever.
RETRIES: dict[FailureKind, int] = {"infrastructure": 3, "host_memory": 1}
"""How often a stage is run again after a failure of this class; others are not."""

RETRY_AFTER_S = 1.0
"""Seconds before the first further attempt; doubled for each one after it."""

COUNTED_ANEW: FailureKind = "infrastructure"
"""Class whose count starts anew once a stage has a newer checkpoint than at its last failure."""

_BY_CLASS_NAME: dict[str, FailureKind] = {
    "Diverged": "divergence",
    "ConfigError": "configuration",
    "MemoryError": "host_memory",
    "WorkerLost": "infrastructure",
    # torch; its OutOfMemoryError is a RuntimeError, Ray's is not.
    "DistBackendError": "infrastructure",
    "DistNetworkError": "infrastructure",
    "DistStoreError": "infrastructure",
    # Ray.
    "WorkerCrashedError": "infrastructure",
    "NodeDiedError": "infrastructure",
    "ActorDiedError": "infrastructure",
    "ActorUnavailableError": "infrastructure",
    "RayActorError": "infrastructure",
    "LocalRayletDiedError": "infrastructure",
    "OwnerDiedError": "infrastructure",
    "ObjectLostError": "infrastructure",
    "TaskUnschedulableError": "infrastructure",
    "ActorUnschedulableError": "infrastructure",
    "RpcError": "infrastructure",
    "WorkerGroupStartupFailedError": "infrastructure",
    "WorkerGroupStartupTimeoutError": "infrastructure",
    "WorkerHealthCheckFailedError": "infrastructure",
    "WorkerHealthCheckTimeoutError": "infrastructure",
    "ConnectionError": "infrastructure",
}

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_UNREACHABLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
_HOST_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""Text of torch's RuntimeError for what is a MemoryError in Python."""
_LOST = (
    *("Connection closed by peer", "Connection reset by peer", "gloo/transport", "NCCL "),
    # A device that is broken, gone or another's.
    *("uncorrectable ECC error", "uncorrectable NVLink error", "unspecified launch failure"),
    *("device(s) is/are busy or unavailable", "devices are busy or unavailable"),
    *("CUDA error: no CUDA-capable device", "GPU is lost", "launch timed out"),
)
"""Texts of torch's RuntimeErrors for a lost connection or device."""


def classify(error: BaseException) -> FailureKind:
    """The class of a failure, from the error or from what caused it."""
    # From the outside in: Ray and Ray Train wrap the error of a worker in their own.
    for each in _chain(error):
        if (kind := _classify_one(each)) != "error":
            return kind
    return "error"


@final
@dataclass
class Failures:
    """Failed attempts at one stage, and whether another one follows.

    Each class is counted by itself. A training of weeks on machines that come and go loses more of
    them than its retries; as long as it has a newer checkpoint each time, they are counted anew.
    """

    _counts: Counter[FailureKind] = field(default_factory=Counter, init=False)
    _last: FailureKind = field(default="", init=False)
    _step: int = field(default=-1, init=False)

    def add(self, kind: FailureKind, step: int) -> bool:
        """Count a failed attempt; whether another one follows it. `step` is that of the stage's
        newest checkpoint, -1 where there is none."""
        # It has got on since: a long training loses more machines than a fixed number of retries.
        if kind == COUNTED_ANEW and step > self._step:
            self._counts[kind] = 0
        self._step, self._last = max(step, self._step), kind
        self._counts[kind] += 1
        return self._counts[kind] <= RETRIES.get(kind, 0)

    @property
    def wait_s(self) -> float:
        """Seconds before the next attempt."""
        return RETRY_AFTER_S * 2 ** (self._counts[self._last] - 1)

    def told(self, error: str) -> str:
        """The last error, with the number of failures where there were several."""
        count = self._counts.total()
        return error if count <= 1 else f"failed {count} times, the last time by {error}"


def most_telling(kinds: list[FailureKind]) -> int:
    """Position of the failure that explains the others: where one rank of a gang fails, the others
    lose their connection to it."""
    return min(range(len(kinds)), key=lambda i: get_args(FailureKind).index(kinds[i] or "error"))


def one_line(error: BaseException) -> str:
    """An error in one line, for the table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]


def _classify_one(error: BaseException) -> FailureKind:
    names = [parent.__name__ for parent in type(error).__mro__]
    text = str(error)
    if is_out_of_memory(error):
        return "device_memory"
    # Ray's, of the same name as torch's.
    if "OutOfMemoryError" in names:
        return "host_memory"
    if isinstance(error, RuntimeError) and _HOST_MEMORY in text:
        return "host_memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "host_memory"
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return "storage"
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return "infrastructure"
    for name in names:
        if name in _BY_CLASS_NAME:
            return _BY_CLASS_NAME[name]
    if isinstance(error, RuntimeError) and any(part in text for part in _LOST):
        return "infrastructure"
    # safetensors tells a full disk in words only.
    if "SafetensorError" in names and "os error 28" in text:
        return "storage"
    return "error"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = getattr(current, "cause", None) or current.__cause__
