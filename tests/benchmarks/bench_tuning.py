"""TPE against random search on the embedded search, at equal trials over several seeds.

    python tests/benchmarks/bench_tuning.py [--seeds 0 1 2] [--samplers tpe random] [--trials 14]

Every search has its own results folder, `<results>/<sampler>-<seed>`, and all share one store, so
encoders, extractor and the first trials are made once; running the command again finishes what is
missing. A seed moves the proposals only: the trials' own seed is the file's. Printed are the mean
hypervolume (± standard error over seeds) after every third trial, under one reference point for
all searches, and the difference to the first sampler paired by seed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.tuning.trials import compute_hypervolumes, load_trials, reference_point
from harness.tune import main as tune

EVERY = 3


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=Path("sweeps/tune_alignment.yaml"))
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--results", type=Path, default=Path("results/compare_samplers"))
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--executor", default="ray")
    return parser.parse_args()


def search(options: argparse.Namespace, sampler: str, seed: int) -> Path:
    """Run one search, or finish it; returns its folder."""
    name = f"{sampler}-{seed}"
    settings = [
        f"name={name}",
        f"sampler.kind={sampler}",
        f"sampler.seed={seed}",
        f"num_trials={options.trials}",
        "confirmation.seeds=[]",
    ]
    arguments = [str(options.file), *(part for s in settings for part in ("--set", s))]
    arguments += ["--results", str(options.results), "--store", str(options.store)]
    if code := tune([*arguments, "--executor", options.executor]):
        sys.exit(code)
    return options.results / name


def curves(folders: Sequence[Sequence[Path]]) -> NDArray[np.float64]:
    """Hypervolumes of shape (samplers, seeds, trials), under one reference point."""
    searches = [[load_trials(folder) for folder in row] for row in folders]
    reference = reference_point([trials for row in searches for trials in row])
    return np.array(
        [
            [compute_hypervolumes(trials, reference)["hypervolume"] for trials in row]
            for row in searches
        ]
    )


def spread(values: NDArray[np.float64]) -> str:
    """Mean and standard error of one number a seed."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.4g} ± {error:.2g}"


def main() -> None:
    """Run all searches and print their hypervolumes."""
    options = parse()
    folders = [
        [search(options, sampler, seed) for seed in options.seeds] for sampler in options.samplers
    ]
    volumes = curves(folders)
    last = options.trials - 1
    print(f"\nhypervolume over {len(options.seeds)} seeds, mean ± standard error")
    for trial in sorted({*range(EVERY - 1, last, EVERY), last}):
        words = [
            f"{sampler} {spread(volumes[number, :, trial])}"
            for number, sampler in enumerate(options.samplers)
        ]
        print(f"after {trial + 1:3d} trials: {', '.join(words)}")
    for number, sampler in enumerate(options.samplers[1:], start=1):
        difference = volumes[0, :, last] - volumes[number, :, last]
        wins = int((difference > 0).sum())
        print(
            f"{options.samplers[0]} less {sampler}, paired by seed: {spread(difference)}; "
            f"higher in {wins} of {len(difference)}"
        )


if __name__ == "__main__":
    main()
