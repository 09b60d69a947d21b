"""Run one stage: the only place where a failure becomes a recorded status."""

import contextlib
import os
import platform
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from harness.cost import estimate
from harness.keys import to_plain
from harness.lease import StageBusy
from harness.plan import Stage
from harness.stages import registry
from harness.stages.context import Diverged, StageContext
from harness.store import Store, Work
from harness.sweep import Resources

Status = Literal["done", "reused", "busy", "failed", "diverged", "blocked"]
"""What became of a stage: run here, found in the store, held by another process, ended by an
error, ended by a non-finite loss, or never started because an input failed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one stage ended."""

    key: str
    status: Status
    error: str = ""
    """One line for the table; the traceback lies in the store."""
    wall_s: float = 0.0


def run_stage(stage: Stage, store_root: Path, resources: Resources, gpus: float) -> Outcome:
    """Bring one stage's artifact into the store.

    Args:
        stage: The stage; its inputs must be in the store.
        store_root: Root of the store.
        resources: Threads and checkpoint interval.
        gpus: GPUs granted; 0 computes on the CPU even where a GPU is visible.

    Returns:
        How it ended. Errors are caught here and nowhere else; `KeyboardInterrupt` passes through.
    """
    store = Store(store_root)
    if store.find(stage.kind, stage.key):
        return Outcome(key=stage.key, status="reused")
    started = time.monotonic()
    try:
        with store.work(stage.kind, stage.key) as work:
            if store.find(stage.kind, stage.key):
                return Outcome(key=stage.key, status="reused")
            try:
                _run(stage, store, work, resources, gpus)
            except StageBusy:
                raise
            except Exception as error:
                return _failed(stage, work, error, time.monotonic() - started)
    except StageBusy:
        return Outcome(key=stage.key, status="busy")
    except OSError as error:
        return Outcome(key=stage.key, status="failed", error=_one_line(error))
    return Outcome(key=stage.key, status="done", wall_s=time.monotonic() - started)


def _run(stage: Stage, store: Store, work: Work, resources: Resources, gpus: float) -> None:
    if gpus > 0 and not torch.cuda.is_available():
        raise RuntimeError(
            f"a stage that was granted {gpus:g} GPUs must see one, but torch sees none; check the "
            "driver and CUDA_VISIBLE_DEVICES, or set gpus: 0 in the sweep file's resources"
        )
    device = torch.device("cuda" if gpus > 0 else "cpu")
    definition = registry.KINDS[stage.kind]
    context = StageContext(
        inputs={name: store.get(s.kind, s.key) for name, s in stage.inputs.items()},
        work=work,
        device=device,
        checkpoint_every_s=resources.checkpoint_every_s,
        compile=resources.compile,
        batches_ahead=resources.batches_ahead,
    )
    started, created = time.monotonic(), time.time()
    with contextlib.closing(context), _threads(resources.cpus):
        result = definition.run(stage.config, context)
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall_s = context.earlier_s + time.monotonic() - started
    work.publish(
        {
            "kind": stage.kind,
            "key": stage.key,
            "version": definition.version,
            "label": stage.label,
            "config": to_plain(stage.config),
            "inputs": {name: s.key for name, s in stage.inputs.items()},
            "result": dict(result),
            "cost": {
                "wall_s": wall_s,
                "cpus": resources.cpus,
                "gpus": gpus,
                "estimated_flops": estimate(stage).flops,
                **_waited(context),
                **_peak(device),
            },
            "environment": environment(device),
            "created": created,
        }
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Pin the number of threads: with another number, sums are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _peak(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"peak_device_gib": torch.cuda.max_memory_allocated(device) / 2**30}


def _waited(context: StageContext) -> dict[str, float]:
    return {} if context.data_wait_s is None else {"data_wait_s": context.data_wait_s}


def _failed(stage: Stage, work: Work, error: Exception, wall_s: float) -> Outcome:
    work.partial.mkdir(parents=True, exist_ok=True)
    text = "".join(traceback.format_exception(error))
    (work.partial / "error.txt").write_text(text, encoding="utf-8")
    return Outcome(
        key=stage.key,
        status="diverged" if isinstance(error, Diverged) else "failed",
        error=_one_line(error),
        wall_s=wall_s,
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]


def environment(device: torch.device) -> dict[str, str]:
    """Machine, device, versions and code revision behind a number."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "host": socket.gethostname(),
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": metadata.version("timm"),
        "numpy": metadata.version("numpy"),
        "git_revision": git_revision(),
    }


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """Model name of the processor, with the number of cores this process may use."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


@lru_cache(maxsize=1)
def git_revision() -> str:
    """Revision of the checkout this code runs from, `+changes` where it is altered; or a version.

    An installed package has no checkout; its version stands in.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return package_version()
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return package_version()


def package_version() -> str:
    """Version of the installed package, or `unversioned` in a bare checkout."""
    try:
        return f"latent-frontier {metadata.version('latent-frontier')}"
    except metadata.PackageNotFoundError:
        return "unversioned"


def command_line() -> str:
    """The command that started this process, as a user would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    head = f"python -m {module.name}" if module else Path(sys.argv[0]).name
    return " ".join([head.removesuffix(".__main__"), *sys.argv[1:]])


def summarize(outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    """Status -> number of stages."""
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    return counts
