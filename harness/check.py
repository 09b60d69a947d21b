"""Hold the parts of a trial, your own among them, to what the program relies on.

check SWEEP                             every kind of a sweep file
check your_package.module               every kind that a module registers
check your_package.module:NAME --as tokenizer       one object, as `kind: python` takes it
"""

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
    parser.add_argument(
        "sweep",
        help="a sweep file that names your kinds; a module that registers some; or module:NAME, "
        "which builds one",
    )
    parser.add_argument(
        "--as",
        dest="part",
        choices=("data", "tokenizer", "encoder", "generator", "extractor"),
        help="the part of a trial that module:NAME is; what it must declare is given with --set, "
        "for example tokenizer.latent_dim=6",
    )
    add_settings(parser)
    asked = parser.parse_args(arguments)
    # After the command line was read: PyTorch takes seconds, and `--help` does not need it.
    from harness.commands.conformance import check, small_sweep
    from harness.commands.small_sweeps import sweeps_around
    from harness.config.sweep import load_sweep

    def work() -> int:
        if asked.sweep.endswith((".yaml", ".yml")) or Path(asked.sweep).is_file():
            sweeps = [load_sweep(Path(asked.sweep), asked.settings)]
        else:
            sweeps = list(sweeps_around(asked.sweep, asked.part, asked.settings))
        # All are looked at, also after one that does not hold.
        good = [check(small_sweep(sweep), print) for sweep in sweeps]
        return EXIT_DONE if all(good) else EXIT_ROWS_FAILED

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
