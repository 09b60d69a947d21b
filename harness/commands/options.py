"""Options that several commands take, and the values that options take."""

import argparse
import contextlib
import dataclasses
import difflib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from analysis.outputs import path_at
from harness.machine.devices import PEAKS

N = TypeVar("N", int, float)
T = TypeVar("T", bound=Any)

EXAMPLE = "generator.training.steps=100 or grid.tokenizer.latent_dim='[4, 8]'"
"""How one value of a sweep file is overridden."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run. They are made once, from the command line, and handed on as one object."""

    sweep: Path
    """The file that says what is run."""
    settings: Sequence[str] = ()
    """`PATH=VALUE` overrides of it."""
    json: bool = False
    """Print plan or outcome as JSON."""
    results: Path = Path("results")
    """Folder that holds one folder of results a sweep."""
    store: Path = Path("artifacts")
    """Folder of the artifacts."""
    executor: str = "ray"
    """`ray` or `inline`."""
    address: str | None = None
    """Address of a running Ray cluster; absent: Ray is started here."""
    wait_for_nodes: bool = False
    """Requests that no machine of the cluster can meet wait for machines that join."""
    max_failures: float | None = None
    """Share of failed stages above which everything stops; absent: nothing stops."""
    deadline: float | None = None
    """When running stages are asked to end, on the monotonic clock; absent: never."""
    download: bool = False
    """Fetch missing published weights."""
    dry_run: bool = False
    """Print the plan and start nothing."""
    assume_device: str = ""
    """GPU that a dry run reckons with in place of this machine's."""
    replace: bool = False
    """Write over the table of another version of the sweep."""
    only: str | None = None
    """Run stages of this kind and what they need."""
    write_only: bool = False
    """Write the results of what is finished, and start nothing."""

    @classmethod
    def of(cls, asked: argparse.Namespace, parser: argparse.ArgumentParser) -> "RunOptions":
        """The options of a parsed command line; what the command has no option for is the default.

        Options that don't go together end the process with the parser's usage message.
        """
        options = read_into(cls, asked)
        if options.sweep.is_dir() or not options.sweep.exists():
            parser.exit(2, f"error: {_absent(options.sweep)}\n")
        if options.address and options.executor != "ray":
            parser.error("--address names a Ray cluster; it goes with --executor ray")
        if options.wait_for_nodes and not options.address:
            parser.error("--wait-for-nodes is for a cluster; it goes with --address")
        if options.assume_device and not options.dry_run:
            parser.error("--assume-device is for a plan; it goes with --dry-run")
        return options


def _absent(path: Path) -> str:
    """What is said of a sweep file that is not there."""
    places = (Path(__file__).parents[2] / "sweeps", Path("sweeps"), Path(), path.parent)
    near = {file.name: str(file) for place in places for file in sorted(place.glob("*.yaml"))}
    names = difflib.get_close_matches(path.name, near, n=1) or list(near)[-3:]
    why = "is a folder" if path.is_dir() else "no such file"
    there = " or ".join(near[name] for name in names)
    return (
        f"{path}: cannot be read ({why}; the working directory is {Path.cwd()}); give a sweep "
        f"file{there and ', such as '}{there}"
    )


def read_into(kind: type[T], asked: argparse.Namespace) -> T:
    """A dataclass from the options of a parsed command line that have its fields' names."""
    given = vars(asked)
    return kind(**{f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given})


def add_run_options(
    parser: argparse.ArgumentParser, *, sweep: str, example: str = EXAMPLE, dry_run: bool = True
) -> None:
    """Declare the options of a command that runs stages, those of `RunOptions`.

    Args:
        sweep: Help of the file that says what is run.
        example: How one value of that file is overridden.
    """
    parser.add_argument("sweep", type=path_at, help=sweep)
    add_settings(parser, example)
    parser.add_argument("--json", action="store_true", help="print plan or outcome as JSON")
    for option, folder, holds in (
        ("--results", "results", "folder that holds one folder of results a sweep"),
        ("--store", "artifacts", "folder of the artifacts, shared by sweeps and machines"),
    ):
        about = f"{holds} (default: {folder})"
        parser.add_argument(option, type=path_at, default=Path(folder), metavar="DIR", help=about)
    parser.add_argument(
        "--executor",
        choices=("ray", "inline"),
        default="ray",
        help="ray: stages in parallel, on this machine or a cluster (default); inline: one after "
        "the other in this process, without Ray",
    )
    parser.add_argument(
        "--address",
        metavar="A",
        help="address of a running Ray cluster (HOST:PORT or auto); default: start Ray here",
    )
    parser.add_argument(
        "--wait-for-nodes",
        action="store_true",
        help="requests that no machine of the cluster can meet wait for machines that join "
        "(autoscaling) instead of being refused; `gpus: auto` looks at those that are there",
    )
    parser.add_argument(
        "--fail-fast",
        action="store_const",
        const=0.0,
        dest="max_failures",
        help="stop at the first stage that fails: running ones write a checkpoint and end",
    )
    parser.add_argument(
        "--max-failures",
        type=share,
        metavar="SHARE",
        help="stop so when more than this share of the stages have failed, for example 0.2; "
        "default: rows without numbers never stop the others",
    )
    parser.add_argument(
        "--time-limit",
        type=lambda text: time.monotonic() + length_of_time(text),
        metavar="TIME",
        dest="deadline",
        help="ask running stages to write a checkpoint and end after this time, for example 90s, "
        "8m or 1.5h, and leave with exit code 124; the same command goes on",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch missing published weights (Inception-v3, VGG16, timm) from their usual places "
        "before anything starts; without it nothing is ever downloaded",
    )
    parser.add_argument(
        "--profile",
        action="append",
        type=lambda text: f"resources.default.profile={count(text)}",
        metavar="N",
        dest="settings",
        help="have every training write a trace of N of its steps beside its log in the store, for "
        "chrome://tracing or Perfetto",
    )
    if dry_run:
        parser.add_argument(
            "--dry-run", action="store_true", help="print the plan and start nothing"
        )
        parser.add_argument(
            "--assume-device",
            type=known_device,
            default=argparse.SUPPRESS,
            metavar="NAME",
            help="with --dry-run: device time on this GPU, for example H100, where it is not here",
        )


def add_settings(parser: argparse.ArgumentParser, example: str = EXAMPLE) -> None:
    """`--set`, as `settings`: overrides of the file that the command reads."""
    parser.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help=f"override one value of the file, for example {example}; may be given several times",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        type=lambda module: f"plugins+={module}",
        metavar="MODULE",
        dest="settings",
        help="import a module of your own that registers kinds, beside the file's `plugins`",
    )


def _setting(text: str) -> str:
    # A shell has split `--set grid.seed=[0, 1]` at the space.
    if any(text.count(opening) > text.count(closing) for opening, closing in ("[]", "{}")):
        raise argparse.ArgumentTypeError(
            f"{text!r} ends early; put the whole in quotes: '{text} ...'"
        )
    return text


def known_device(text: str) -> str:
    """The first GPU of `PEAKS` whose name has these words."""
    words = set(re.findall(r"\w+", text.lower()))
    for name in PEAKS:
        if words and words <= set(re.findall(r"\w+", name.lower())):
            return name
    listed = ", ".join(name.removeprefix("NVIDIA ") for name in PEAKS)
    raise argparse.ArgumentTypeError(f"a GPU whose peak is known, not {text!r}: {listed}")


def count(text: str) -> int:
    """The value of an option that counts something: 1 or more."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def seconds(text: str) -> float:
    """The value of an option that is a length of time, in seconds."""
    # Beyond, no clock of the system can wait.
    must = "a number of seconds above 0 and below 1e9"
    return _number(text, float, lambda value: 0 < value < 1e9, must)


def length_of_time(text: str) -> float:
    """The value of an option that is a length of time, in seconds: 90, 90s, 8m, 1.5h or 2d."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        return (unit or 1) * seconds(text[:-1] if unit else text)
    except argparse.ArgumentTypeError:
        must = "must be a number of seconds above 0 and below 1e9, or of m, h or d as 8m or 1.5h"
        raise argparse.ArgumentTypeError(f"{must}, but got {text!r}") from None


def share(text: str) -> float:
    """The value of an option that is a share of a whole, and less than all of it."""
    must = "a share from 0 to below 1"
    return _number(text, float, lambda value: 0 <= value < 1, must, "0.2")


def _number(
    text: str, read: Callable[[str], N], fits: Callable[[N], bool], must: str, example: str = "10"
) -> N:
    with contextlib.suppress(ValueError):
        value = read(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"must be {must}, but got {text!r}; for example {example}")
