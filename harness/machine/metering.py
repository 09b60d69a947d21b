"""Measures time and memory of a stage while it runs, for the `cost` of its artifact."""

import dataclasses
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from harness.machine.devices import Precision, mfu, precision_in_force

GIB = 2**30
RESET_PEAK = "5"
"""Written to /proc/self/clear_refs, it makes Linux start a process's peak of memory anew."""


@final
@dataclass(frozen=True, kw_only=True)
class Spent:
    """Time that all attempts at one stage took together."""

    wall_s: float
    """Seconds of all attempts."""
    lost_s: float = 0.0
    """Seconds of them whose work was done again after a kill."""
    attempts: int = 1
    """How often the stage was started."""

    @property
    def useful_s(self) -> float:
        """Seconds that led to the artifact."""
        return self.wall_s - self.lost_s


@final
@dataclass
class Meter:
    """Peaks of memory since it was made, also in a process that has run other stages before."""

    device: torch.device
    _started: float = field(default_factory=time.monotonic, init=False)
    _high_water_gib: float = field(default=0.0, init=False)
    _was_reset: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        # The system's peak is that of the whole process, which may have run larger stages before.
        self._was_reset = _reset_high_water()
        self._high_water_gib = high_water_gib()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    def peaks(self) -> dict[str, float]:
        """Peak memory in GiB: `peak_host_gib` of this process, `peak_device_gib` of tensors.

        The host's is absent where an earlier stage of this process has used more and the system
        cannot start its peak anew.
        """
        peaks = {}
        high_water = high_water_gib()
        if self._was_reset or high_water > self._high_water_gib:
            peaks["peak_host_gib"] = high_water
        if self.device.type == "cuda":
            peaks["peak_device_gib"] = torch.cuda.max_memory_allocated(self.device) / GIB
        return peaks


def high_water_gib() -> float:
    """The most memory that this process has held, in GiB."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        (line,) = [each for each in text.splitlines() if each.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / GIB
    except (OSError, ValueError):
        # Where there is no /proc. Kibibytes, except on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def _reset_high_water() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="utf-8")
    except OSError:
        return False
    return True


def cost_record(
    *,
    spent: Spent,
    cpus: int,
    gpus: float,
    workers: int,
    flops: float,
    images: int,
    device_name: str,
    precision: Precision,
    peaks: Mapping[str, float],
    data_wait_s: float | None,
    slices: int,
) -> dict[str, Any]:
    """Put together the `cost` of an artifact.

    Args:
        spent: Seconds and attempts.
        cpus: CPU cores of each worker.
        gpus: GPUs of all workers together; a fraction for a shared one.
        workers: Processes that computed together.
        flops: Analytic estimate of the stage's floating-point operations.
        images: Images that it works through, counted every time.
        device_name: As its environment has it.
        precision: Arithmetic that its MFU is held to.
        peaks: Peak memory in GiB, as `Meter.peaks` gives it.
        data_wait_s: Seconds spent waiting for batches; None where none were asked for.
        slices: Parts in which each batch was computed.
    """
    # A cost counts all attempts: they were paid for. A rate leaves out what kills lost, or an
    # unlucky stage would look like a slow machine.
    record: dict[str, Any] = {
        "wall_s": spent.wall_s,
        "lost_s": spent.lost_s,
        "attempts": spent.attempts,
        "device_s": spent.wall_s * (gpus if gpus > 0 else cpus * workers),
        "cpus": cpus,
        "gpus": gpus,
        "workers": workers,
        "estimated_flops": flops,
        "images": images,
        "images_per_s": images / spent.useful_s if spent.useful_s > 0 else None,
        **peaks,
        "slices": slices,
    }
    if data_wait_s is not None:
        record["data_wait_s"] = data_wait_s
    # MFU stays absent rather than guessed where the peak is unknown, and on a CPU.
    share = mfu(flops, spent.useful_s, gpus, device_name, precision) if gpus > 0 else None
    if share is not None:
        record |= {"mfu": share, "mfu_precision": precision}
    return record


def precision_of(config: Any) -> Precision:
    """Arithmetic that a stage's MFU is held to: the fastest that any of its networks uses."""
    # cuDNN's fp32 convolutions use TF32 unless told otherwise, even where matrix products do not.
    short = {"bfloat16": "bf16", "float32": "fp32"}
    configured = [short.get(each, each) for each in _values(config, "precision") if each]
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    return precision_in_force(configured, tf32=convolutions or products != "highest")


def _values(config: Any, name: str) -> Iterator[str | None]:
    """Values of all fields of this name in a tree of dataclasses."""
    if not dataclasses.is_dataclass(config):
        return
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name == name:
            yield value
        else:
            yield from _values(value, name)
