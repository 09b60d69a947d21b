"""Measures time and memory of a stage while it runs, for the `cost` of its artifact."""

import dataclasses
import gc
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from harness.machine.devices import Precision, precision_in_force

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
class Meter:
    """Peaks of memory since it was made, also in a process that has run other stages before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # The system's peak is that of the whole process, which may have run larger stages before.
        self._was_reset = _reset_high_water()
        self._high_water_gib = high_water_gib()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

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


def free_device_memory() -> None:
    """Give back what ended work has held; the frames of an error hold a failed one's tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def lost_device() -> str:
    """Why this process can use its GPU no more, as after a failed launch; empty where it can."""
    try:
        # CUDA keeps such an error for the life of the process and repeats it at every call.
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""


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


def precision_of(config: Any, *, convolves: bool = False) -> Precision:
    """Arithmetic that a stage's MFU is held to: the fastest that any of its networks uses; one that
    `convolves` is mostly convolutions."""
    # cuDNN's fp32 convolutions use TF32 unless told otherwise, even where matrix products do not.
    short = {"bfloat16": "bf16", "float32": "fp32"}
    configured = [short.get(each) or each for each in values_of(config, "precision") if each]
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    rounded = products != "highest" or (convolves and convolutions)
    return precision_in_force(configured, tf32=rounded)


def values_of(config: Any, name: str) -> Iterator[Any]:
    """Values of all fields of this name in a tree of dataclasses."""
    if not dataclasses.is_dataclass(config):
        return
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name == name:
            yield value
        else:
            yield from values_of(value, name)
