"""Describes the machine, versions, code revision and command that made a number."""

import contextlib
import os
import platform
import socket
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch


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
    # From harness/machine/ up to the folder that holds the packages.
    return revision_of(Path(__file__).resolve().parents[2])


def revision_of(root: Path) -> str:
    """The same of a folder; `unknown` with the reason, and a warning, where git cannot tell."""

    def git(*arguments: str) -> str:
        # In containers the checkout is often another user's, which git would refuse to read.
        command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        # An environment may lie inside the checkout of another project.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return package_version()
        # Files that are not tracked are mostly results, and change no code that was committed.
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError) as error:
        if not (root / ".git").exists():
            return package_version()
        said = getattr(error, "stderr", "") or str(error)
        reason = " ".join(said.split())[:200]
        print(f"warning: the revision of {root} is unknown ({reason})", file=sys.stderr)
        return f"unknown ({reason})"


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
