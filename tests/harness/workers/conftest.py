"""Stages that run on several real processes, and the same on one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import my_regularizer
import pytest
import yaml

from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.latents import SHARD_IMAGES
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store

from ..conftest import SMALL_SWEEP

assert my_regularizer.REGULARIZERS  # The import has registered the kind `centre`.

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).resolve().parents[3]
PATHS = (str(ROOT), str(ROOT / "sweeps" / "examples"))
LONGEST_S = 150.0
"""Workers that take longer hang."""
PATIENCE_S = 100.0
"""How long a worker waits for another one that does not tell that it ended."""
EVERY_STEP = 1e-9
ADVERSARY = "{kind: patchgan, num_layers: 1, base_width: 4, start_step: 3}"
ENCODER = (
    "{kind: timm, name: vit_tiny_patch16_224, weights: random, "
    "model_args: {img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}}"
)
SETTINGS = (
    "grid.alignment=[vf]",
    f"tokenizer.loss={{discriminator: {ADVERSARY}}}",
    "tokenizer.architecture.dropout=0.1",
    "tokenizer.regularizers=[{kind: centre}, {kind: eq, min_scale: 0.5, plain_share: 0.3}, "
    "{kind: denoise, unit: latent}]",
    "tokenizer.training.steps=6",
    "tokenizer.training.batch_size=9",
    "tokenizer.training.max_grad_norm=1.0",
    "generator.training.steps=6",
    "generator.training.batch_size=9",
    "generator.training.max_grad_norm=0.5",
    "generator.ema.warmup=true",
    f"generator.repa={{kind: repa, block: 1, hidden_width: 8, encoder: {ENCODER}}}",
    "latents.flip=true",
    "evaluation.keep_samples=true",
    "evaluation.batch_size=9",
)


class Small:
    """The small sweep with some settings, and a store in which one worker ran it."""

    def __init__(self, folder: Path, tree: Any, settings: tuple[str, ...] = SETTINGS) -> None:
        self.file, self.settings = folder / "sweep.yaml", settings
        self.file.write_text(yaml.safe_dump(tree, sort_keys=False))
        self.store = Store(folder / "alone")
        self.stages = make_plan(load_sweep(self.file, settings)).stages

    def stage(self, kind: str) -> Stage:
        return next(stage for stage in reversed(self.stages) if stage.kind == kind)

    def bring(self, stage: Stage) -> Artifact:
        for source in stage.inputs.values():
            self.bring(source)
        outcome = run_stage(stage, self.store.root, Resources(), 0.0)
        assert outcome.status in ("done", "reused"), outcome.error
        return self.store.get(stage.kind, stage.key)

    def empty_store(self, folder: Path, stage: Stage) -> Store:
        """A store with the inputs of a stage, and without the stage."""
        store = Store(folder)
        for source in stage.inputs.values():
            self.bring(source)
            target = store.folder(source.kind, source.key)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(self.store.folder(source.kind, source.key))
        return store


class Run(NamedTuple):
    """A stage that several workers are to run."""

    stage: Stage
    store: Store
    checkpoint_every_s: float = 600.0
    shard_images: int = SHARD_IMAGES
    act: dict[str, Any] | None = None
    resources: dict[str, Any] = {}  # noqa: RUF012


class Ended(NamedTuple):
    """Workers that ended."""

    codes: list[int]
    outcomes: list[list[dict[str, Any]]]
    """By rank, then by run; empty for one that was killed."""
    seconds: float


def run_workers(folder: Path, small: Small, runs: list[Run], size: int = 2) -> Ended:
    """Run stages on `size` processes and wait for them, but not for ever."""
    folder.mkdir(parents=True)
    job = {
        "sweep": str(small.file),
        "settings": small.settings,
        "size": size,
        "patience_s": PATIENCE_S,
        "runs": [
            {
                "key": run.stage.key,
                "store": str(run.store.root),
                "checkpoint_every_s": run.checkpoint_every_s,
                "shard_images": run.shard_images,
                "act": run.act,
                "resources": run.resources,
            }
            for run in runs
        ],
    }
    (folder / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    processes = []
    for rank in range(size):
        log = (folder / f"log-{rank}.txt").open("w")
        command = [sys.executable, str(WORKER), str(folder / "job.json"), str(rank)]
        with log:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(timeout=LONGEST_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    outcomes = []
    for rank in range(size):
        path = folder / f"outcomes-{rank}.json"
        outcomes.append(json.loads(path.read_text()) if path.exists() else [])
    return Ended(codes, outcomes, time.monotonic() - started)


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))


def largest_difference(ours: Artifact, theirs: Artifact) -> float:
    """Between the numbers in the tensors of two artifacts.

    Biases of keys are left out: attention does not depend on them, so that their gradient is
    nothing but round-off, which Adam scales up.
    """
    differences = []
    names = [name for name in theirs.record["files"] if name.endswith(".safetensors")]
    assert names
    for name in names:
        mine, yours = ours.tensors(name), theirs.tensors(name)
        assert list(mine) == list(yours)
        differences += [
            float((mine[key].double() - value.double()).abs().max())
            for key, value in yours.items()
            if not key.endswith("attn_1.k.bias")
        ]
    return max(differences)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small sweep with every loss term, run by one worker as far as tests ask for."""
    return Small(tmp_path_factory.mktemp("small"), SMALL_SWEEP)
