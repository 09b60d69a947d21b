"""What many artifacts in the store and many rows in a sweep cost before any work begins.

    python tests/benchmarks/bench_scale.py [--artifacts 100 100000] [--rows 5000]

Stores are filled with records of made-up stages; the sweep is the embedded one over many seeds.
Printed are CPU seconds of one process without the start of Python: a dry run and a status of the
embedded sweep and the checks before a run, by the number of artifacts in its store, and a plan.
"""

import argparse
import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.commands.options import RunOptions
from harness.commands.planning import print_plan
from harness.commands.run_stages import check_start
from harness.config.sweep import Sweep, load_sweep
from harness.plan.graph import stages_to_run
from harness.plan.plan import make_plan
from harness.reporting.plan_record import read_record, write_record
from harness.reporting.recording import record_of
from harness.reporting.status import look
from harness.results.folder import write_yaml
from harness.stages.registry import KINDS
from harness.storage.artifacts import Store

SWEEP = Path(__file__).resolve().parents[2] / "sweeps" / "frontier.yaml"


def fill(root: Path, count: int) -> None:
    """Write records of `count` stages of all kinds and a hundred sizes."""
    kinds = list(KINDS)
    for number in range(count):
        kind, size = kinds[number % len(kinds)], number // len(kinds) % 100
        key = hashlib.sha256(str(number).encode()).hexdigest()
        cost = {
            "wall_s": 10.0 + size, "cpus": 1, "gpus": 0.0, "workers": 1,
            "estimated_flops": 1e12 * 1.05**size, "images": 1000 * (1 + size % 10),
        }  # fmt: skip
        record = {
            "kind": kind, "key": key, "inputs": {}, "result": {}, "files": {}, "cost": cost,
            "config": {f"field_{i}": i for i in range(60)}, "environment": {"device": "a CPU"},
        }  # fmt: skip
        folder = root / kind / key
        folder.mkdir(parents=True)
        (folder / "artifact.json").write_text(json.dumps(record, indent=1))


def seconds(act: Callable[[], object]) -> float:
    """CPU seconds, the least of two calls."""
    taken = []
    for _ in range(2):
        before = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            act()
        taken.append(time.process_time() - before)
    return min(taken)


def measure(sweep: Sweep, count: int, folder: Path) -> dict[str, float]:
    """CPU seconds of the commands on a store of so many artifacts."""
    plan, store, results = make_plan(sweep), Store(folder / "store"), folder / "results"
    fill(store.root, count)
    results.mkdir()
    write_yaml(results / "sweep.yaml", {})
    write_record(record_of(plan, store), results)
    run = RunOptions(sweep=SWEEP, store=store.root, results=results)
    to_run = stages_to_run(plan.stages, plan.read_keys, store)
    recorded = read_record(results)
    assert recorded is not None
    return {
        "checks": seconds(lambda: check_start(run, to_run, {}, results, sweep.source)),
        "dry run": seconds(lambda: print_plan(run, plan, to_run, [])),
        "status": seconds(lambda: look(recorded, store, results)),
    }


def main() -> None:
    """Print a JSON line a store size, then one for the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=int, nargs="*", default=[100, 100_000])
    parser.add_argument("--rows", type=int, default=5000)
    options = parser.parse_args()
    sweep = load_sweep(SWEEP)
    for count in options.artifacts:
        with tempfile.TemporaryDirectory() as folder:
            told = measure(sweep, count, Path(folder))
            told = {name: round(value, 3) for name, value in told.items()}
            print(json.dumps({"artifacts": count, **told}), flush=True)
    if options.rows:
        settings = [f"grid.seed={list(range(-(-options.rows // len(sweep.points))))}"]
        taken = seconds(lambda: make_plan(load_sweep(SWEEP, settings)))
        print(json.dumps({"rows at least": options.rows, "file and plan": round(taken, 3)}))


if __name__ == "__main__":
    main()
