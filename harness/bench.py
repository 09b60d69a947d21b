"""`python -m harness.bench [SWEEP]`: what this machine makes of training, sampling and measuring.

Everything is measured in one run, each variant with its spread: on a CPU the variants of one thing
in turns, on a GPU one after the other. Rows go to `results/bench/<machine>-<date>.parquet` and
`.csv`.
"""

import argparse
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from analysis.outputs import path_at
from harness.benchmarks import training_parts, use_parts
from harness.benchmarks.measuring import Bench
from harness.benchmarks.rows import Row, as_json, as_text, write_rows
from harness.benchmarks.subject import default_sizes, default_trial, make_subject, named, size_names
from harness.commands.exit_codes import EXIT_DONE, exit_code
from harness.commands.options import add_settings, count, seconds
from harness.config.generator_settings import GeneratorBase
from harness.config.sweep import load_sweep
from harness.config.trial import Trial
from harness.execution.failures import one_line
from harness.machine.environment import command_line, environment

PARTS = ("tokenizer", "parts", "encoding", "generator", "sampling", "metrics", "data")
"""Parts of the benchmark, in the order in which they run."""
QUICK_SIZES = 2
"""Generator sizes that `--quick` measures unless some are named, the smallest ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 measured, 1 a part failed, 2 a wrong request."""
    options = parse_options(arguments)
    return exit_code(lambda: bench(options))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.bench",
        description="Measure this machine: training steps and their parts, encoding, sampling, "
        "metrics and reading of data, with each optimisation's contribution.",
        epilog="exit codes: 0 measured, 1 a measurement failed, 2 the request is wrong",
    )
    parser.add_argument(
        "sweep",
        type=path_at,
        nargs="?",
        help="bench the first trial of this sweep; default: the published system on a GPU, a "
        "small one on a CPU",
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--quick", action="store_true", help="few turns, small sizes, nothing compiled: a minute"
    )
    add_settings(parser)
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=size_names(),
        metavar="SIZE",
        help="generators without a sweep; default: B, L and XL on a GPU, smaller ones too on a CPU",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--threads",
        type=count,
        help="threads that compute on a CPU and that decode images; default 1, on a GPU a decoding "
        "thread for every core",
    )
    parser.add_argument("--repeats", type=count, help="turns that count; default 10, quick 3")
    parser.add_argument(
        "--batch-size", type=count, help="images a step, of every part; default: the trial's"
    )
    parser.add_argument("--points", type=count, help="points of the sampler's time grid at most")
    parser.add_argument(
        "--limit-s",
        type=seconds,
        metavar="S",
        help="seconds for each measurement (of all variants that take turns, or of one that runs "
        "alone): fewer turns count where they are slow, and what would take longer by its "
        "operations is left out; default 60 on a CPU, 120 on a GPU, quick 30",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave compiled variants out")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--out",
        type=path_at,
        default=Path("results/bench"),
        metavar="DIR",
        help="where the rows go; default results/bench",
    )
    options = parser.parse_args(arguments)
    if options.sizes and options.sweep is not None:
        parser.error("--sizes goes without a sweep, which has a generator of its own")
    if options.settings and options.sweep is None:
        parser.error("--set overrides a value of a sweep; name the sweep file too")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch sees, but it sees none; use auto")
    return options


def bench(options: argparse.Namespace) -> int:
    """Measure what is asked for, print it and write it."""
    device = _device(options.device)
    trial = _trial(options, device)
    name = f"{_plain(socket.gethostname())}-{time.strftime('%Y-%m-%d-%H%M%S')}"
    paths: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="frontier-bench-") as folder:
        run = make_bench(options, trial, device, Path(folder))
        facts = _facts(run, options)
        rows: list[Row] = []
        for found in _measure(run, options, _sizes(options, trial, device), Path(folder)):
            # Written part by part, so that a run that is killed leaves what it has measured.
            rows += found
            paths = write_rows(rows, facts, options.out, name)
    print(as_json(rows, facts) if options.json else as_text(rows, facts))
    print(f"\nrows: {', '.join(map(str, paths))}", file=sys.stderr)
    return 1 if any(row.status == "failed" for row in rows) else EXIT_DONE


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _trial(options: argparse.Namespace, device: torch.device) -> Trial:
    if options.sweep is None:
        return default_trial(device)
    return load_sweep(options.sweep, options.settings).points[0].trial


def _sizes(
    options: argparse.Namespace, trial: Trial, device: torch.device
) -> dict[str, GeneratorBase]:
    """Generators to measure: a sweep's own, or all that there are."""
    if options.sweep is not None:
        if trial.generator is None:
            return {}
        return {named(trial.generator): trial.generator}
    sizes = default_sizes(device, options.sizes)
    cut = options.quick and not options.sizes
    return dict(list(sizes.items())[:QUICK_SIZES]) if cut else sizes


def make_bench(
    options: argparse.Namespace, trial: Trial, device: torch.device, folder: Path
) -> Bench:
    """How a run with these options measures; generated images and artifacts go into `folder`."""
    quick, cuda = options.quick, device.type == "cuda"
    threads = options.threads or 1
    decode_workers = options.threads or ("auto" if cuda else 1)
    subject = make_subject(
        trial,
        folder,
        device,
        threads=threads,
        decode_workers=decode_workers,
        batch_size=options.batch_size,
        num_images=512 if cuda else 64,
    )
    return Bench(
        subject=subject,
        clock="wall" if cuda else "cpu",
        threads=threads,
        repeats=options.repeats or (3 if quick else 10),
        steps=1 if quick or not cuda else 5,
        together=not cuda,
        limit_s=options.limit_s or (30.0 if quick else (120.0 if cuda else 60.0)),
        compiled=not (quick or options.no_compile),
        num_points=options.points or (5 if quick else 11),
        num_latents=1_000 if quick else 20_000,
        decode_workers=decode_workers,
    )


def _measure(
    run: Bench, options: argparse.Namespace, sizes: dict[str, GeneratorBase], folder: Path
) -> Iterator[list[Row]]:
    """The rows of each part asked for; one that fails as a whole is a row too."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "tokenizer": lambda: training_parts.tokenizer_training(run),
        "parts": lambda: training_parts.tokenizer_parts(run),
        "encoding": lambda: use_parts.encoding(run),
        "generator": lambda: training_parts.generator_training(run, sizes),
        "sampling": lambda: use_parts.sampling(run, sizes),
        "metrics": lambda: use_parts.metrics(run),
        "data": lambda: use_parts.data(run, folder),
    }
    for name in options.only:
        started = time.monotonic()
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        try:
            rows = parts[name]()
        except (RuntimeError, ValueError, OSError) as error:
            why = one_line(error)[:300]
            rows = [Row(part=name, what="whole part", status="failed", reason=why)]
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
        yield rows


def _facts(run: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Settings that all rows share."""
    return {
        **environment(run.device),
        "cuda": torch.version.cuda or "" if run.device.type == "cuda" else "",
        "threads": run.threads,
        "clock": run.clock,
        "together": run.together,
        "subject": str(options.sweep or "default"),
        "command": command_line(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


if __name__ == "__main__":
    sys.exit(main())
