"""Options that several commands take, and the values that options take."""

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

N = TypeVar("N", int, float)

EXAMPLE = "generator.training.steps=100 or grid.tokenizer.latent_dim='[4, 8]'"
"""How one value of a sweep file is overridden."""


def add_options(parser: argparse.ArgumentParser, example: str = EXAMPLE) -> None:
    """Options of every command that runs stages; `example` shows how one value is overridden."""
    add_settings(parser, example)
    parser.add_argument("--json", action="store_true", help="print plan or outcome as JSON")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder that holds one folder of results a sweep (default: results)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("artifacts"),
        metavar="DIR",
        help="folder of the artifacts, shared by sweeps and machines (default: artifacts)",
    )
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
        "--download",
        action="store_true",
        help="fetch missing published weights (Inception-v3, VGG16, timm) from their usual places "
        "before anything starts; without it nothing is ever downloaded",
    )


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that don't go together."""
    if options.address and options.executor != "ray":
        parser.error("--address names a Ray cluster; it goes with --executor ray")
    if options.wait_for_nodes and not options.address:
        parser.error("--wait-for-nodes is for a cluster; it goes with --address")


def add_settings(parser: argparse.ArgumentParser, example: str = EXAMPLE) -> None:
    """`--set`, as `settings`: overrides of the file that the command reads."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help=f"override one value of the file, for example {example}; may be given several times",
    )


def count(text: str) -> int:
    """The value of an option that counts something: 1 or more."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def seconds(text: str) -> float:
    """The value of an option that is a length of time, in seconds."""
    return _number(text, float, lambda value: value > 0, "a number of seconds above 0")


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
