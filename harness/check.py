"""`python -m harness.check SWEEP`: hold the parts of a sweep's trial, your own kinds among them, to
what the program relies on."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands.exit_codes import EXIT_DONE, EXIT_ROWS_FAILED, exit_code
from harness.commands.options import add_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: everything holds. 1: something does not, each is named. 2: the request is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m harness.check",
        description="Run small trials of a sweep, those in which each kind is met first, trainings "
        "cut to a few steps, and look at data sets, tokenizers, generators and encoders: shapes, "
        "ranges, determinism, and that a training that was stopped and resumed gives the same "
        "bits. Nothing is kept.",
        epilog="exit codes: 0 everything holds, 1 something does not, 2 the request is wrong",
    )
    parser.add_argument("sweep", type=Path, help="a sweep file that names your kinds")
    add_settings(parser)
    asked = parser.parse_args(arguments)
    # After the command line was read: PyTorch takes seconds, and `--help` does not need it.
    from harness.commands.conformance import check, small_sweep
    from harness.config.sweep import load_sweep

    def work() -> int:
        good = check(small_sweep(load_sweep(asked.sweep, asked.settings)), print)
        return EXIT_DONE if good else EXIT_ROWS_FAILED

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
