"""`python -m harness.tune TUNE_FILE`: search settings of a trial with Optuna, or go on doing so."""

import argparse
import sys
from collections.abc import Sequence

from harness.commands.exit_codes import exit_code
from harness.commands.options import RunOptions, add_run_options
from harness.reporting.saying import saying


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: the asked number of trials is finished. 1: some failed, each is named. 2: the request is
    wrong.
    """
    parser = _parser()
    asked = parser.parse_args(arguments)
    options = RunOptions.of(asked, parser)
    # After the command line was read: PyTorch and Optuna take seconds, and `--help` needs neither.
    with saying("loading PyTorch and Optuna"):
        from harness.tuning.run_search import run_search

    return exit_code(
        lambda: run_search(
            options, promote=asked.promote, allow_changed_space=asked.allow_changed_space
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.tune",
        description="Search settings of a trial with Optuna: every proposal is a row of the table, "
        "shared stages are made once. Running the same command again goes on to the asked number "
        "of finished trials.",
        epilog="exit codes: 0 all trials finished, 1 some failed, 2 the request is wrong, "
        "130 stopped by Ctrl-C",
    )
    add_run_options(
        parser,
        sweep="a tune file: sweeps/tune_alignment.yaml",
        example="num_trials=100, sampler.kind=gp or "
        "search.tokenizer.alignment.cos_margin='{uniform: [0, 0.5]}'",
    )
    parser.add_argument(
        "--promote",
        action="store_true",
        help="after the search, run the Pareto set at full budget over several seeds, and say "
        "whether the order held",
    )
    parser.add_argument(
        "--allow-changed-space",
        action="store_true",
        help="where search space, first trials, objectives or caps have changed, go on with the "
        "trials that lie in both",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
