"""What the harness adds to its stages: 50 stages of one second on two workers of Ray.

    python tests/benchmarks/bench_overhead.py [--stages 50] [--seconds 1] [--commands]

Rows are seconds. `overhead a stage` is what neither a stage's own work nor the start of its process
with its imports accounts for; it must stay below 0.2 s. `--commands` also takes the time of a dry
run and of a run that finds everything done.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 0.2
"""Overhead that a stage may have."""
WORKERS = 2


def main() -> int:
    """Measure, print rows as JSON lines, and say whether the limit is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=50, help="how many stages (default: 50)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each (default: 1)")
    parser.add_argument("--commands", action="store_true", help="also time the commands")
    options = parser.parse_args()
    # Workers find the stage kind and this checkout by it.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    rows = _imports()
    with tempfile.TemporaryDirectory(prefix="nap") as folder:
        rows |= _stages(Path(folder), options.stages, options.seconds)
    if options.commands:
        rows |= _commands()
    for name, seconds in rows.items():
        print(json.dumps({"what": name, "value": round(seconds, 3)}))
    kept = rows["overhead a stage"] < LIMIT_S
    print(f"overhead a stage is {'below' if kept else 'NOT below'} {LIMIT_S} s")
    return 0 if kept else 1


def _imports() -> dict[str, float]:
    """CPU seconds of importing what a worker needs, and torch alone."""
    code = "import time, {0}; print(time.process_time())"
    rows = {}
    for name in ("torch", "harness.execution.stage_run", "harness.run"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True
        )
        rows[f"import {name}, CPU"] = float(done.stdout)
    return rows


def _stages(folder: Path, count: int, seconds: float) -> dict[str, float]:
    import napping
    import ray

    from harness.config.resources import Resources
    from harness.executors import StageEvent
    from harness.executors.ray_executor import RayExecutor
    from harness.storage.artifacts import Store

    submitted: dict[str, float] = {}
    ended: dict[str, float] = {}

    def listen(event: StageEvent) -> None:
        if event.what == "started":
            submitted.setdefault(event.stage.key, time.time())
        elif event.what == "ended":
            assert event.outcome is not None
            assert event.outcome.status == "done", event.outcome.error
            ended[event.stage.key] = time.time()

    stages, store = napping.naps(count, seconds), Store(folder / "store")
    # Two CPUs are two workers, on a machine with more cores too.
    cpus = max(1, (os.cpu_count() or 1) // WORKERS)
    resources = {napping.KIND: Resources(cpus=cpus, gpus=0.0)}
    called = time.time()
    RayExecutor(None).run(stages, store.root, resources, listen)
    assert not ray.is_initialized()
    first, last = min(submitted.values()), max(ended.values())
    results = {stage.key: store.get(stage.kind, stage.key).result for stage in stages}
    own = sum(result["ended"] - result["began"] for result in results.values())
    starts: dict[int, float] = {}
    for key in sorted(results, key=lambda key: results[key]["began"]):
        starts.setdefault(results[key]["pid"], results[key]["began"] - submitted[key])
    lanes = (os.cpu_count() or 1) // cpus
    overhead = lanes * (last - first) - own - sum(starts.values())
    return {
        "start of Ray": first - called,
        "wall of the stages": last - first,
        "processes": float(len(starts)),
        "process start and imports, each": sum(starts.values()) / len(starts),
        "overhead a stage": overhead / count,
    }


def _commands() -> dict[str, float]:
    """Wall and CPU seconds of a dry run and of a rerun that has nothing to do."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="run") as folder:
        sweep = [str(ROOT / "sweeps" / "frontier.yaml")]
        small = [
            "--set", "grid.tokenizer.latent_dim=[4]", "--set", "grid.alignment=[none]",
            "--set", "generator.training.steps=200", "--set", "tokenizer.training.steps=60",
            "--set", "evaluation.num_images=200", "--executor", "inline",
        ]  # fmt: skip
        rows |= _timed("dry run of sweeps/frontier.yaml", [*sweep, "--dry-run"], folder)
        _timed("first run", [*sweep, *small], folder)
        rows |= _timed("rerun with nothing to do, 2 rows", [*sweep, *small], folder)
    return rows


def _timed(name: str, arguments: list[str], folder: str) -> dict[str, float]:
    before, started = os.times(), time.monotonic()
    command = [sys.executable, "-m", "harness.run", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {f"{name}, wall": time.monotonic() - started, f"{name}, CPU": cpu}


if __name__ == "__main__":
    sys.exit(main())
