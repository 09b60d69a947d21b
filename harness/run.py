"""`python -m harness.run SWEEP`: run a sweep, or finish it, and draw its frontier."""

import argparse
import sys
from collections.abc import Sequence

from harness.commands.exit_codes import exit_code
from harness.commands.options import RunOptions, add_run_options
from harness.reporting.saying import saying


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: all rows are done. 1: some rows failed, each is named. 2: the request is wrong.
    """
    parser = _parser()
    options = RunOptions.of(parser.parse_args(arguments), parser)
    # After the command line was read: PyTorch and Ray take seconds, and `--help` needs neither.
    with saying("loading PyTorch"):
        from harness.commands.run_sweep import run_sweep
        from harness.config.sweep import load_sweep

    return exit_code(lambda: run_sweep(options, load_sweep(options.sweep, options.settings)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.run",
        description="Run a sweep: every stage once, a table row for every trial, and the frontier. "
        "Running the same command again finishes what is missing and repeats nothing.",
        epilog="exit codes: 0 all rows done, 1 some rows failed, 2 the request is wrong, "
        "130 stopped by Ctrl-C",
    )
    add_run_options(parser, sweep="a sweep file, for example sweeps/frontier.yaml")
    parser.add_argument(
        "--only",
        type=_kind_of_stages,
        metavar="KIND",
        help="run stages of one kind, for example tokenizer, and what they need",
    )
    parser.add_argument(
        "--write-only",
        action="store_true",
        help="write table, figures and report of what is finished, and start nothing; a run that "
        "goes on does so by itself, at most once a minute",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="write over the table and report of other settings under the same name; without it "
        "they are kept in `earlier/` of the results folder",
    )
    return parser


def _kind_of_stages(name: str) -> str:
    # Not argparse's `choices`: the kinds are known only after PyTorch was imported.
    from harness.stages.registry import kinds_of_sweeps

    if name not in kinds_of_sweeps():
        kinds = ", ".join(map(repr, kinds_of_sweeps()))
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {kinds})")
    return name


if __name__ == "__main__":
    sys.exit(main())
