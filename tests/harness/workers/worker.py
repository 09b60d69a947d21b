"""One of several workers of some stages, as a process: `python worker.py JOB.json RANK`.

The job names a sweep file with settings, and runs: each a stage of it by its key, a store that
holds the stage's inputs, the seconds between checkpoints, other resources, the images in a shard of
latents, and perhaps a step after which one rank does something to itself. Outcomes are written to
`outcomes-RANK.json` beside the job.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import my_regularizer
import pytest
import torch

from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.execution.stage_run import run_stage
from harness.machine.world import join
from harness.plan.plan import make_plan
from harness.stages import latents
from harness.stages.running.context import StageContext
from models.objectives import flow

assert my_regularizer.REGULARIZERS  # The import has registered the kind `centre`.


def main(job_path: Path, rank: int) -> None:
    job = json.loads(job_path.read_text())
    torch.set_num_threads(1)
    sweep = load_sweep(Path(job["sweep"]), job["settings"])
    stages = {stage.key: stage for stage in make_plan(sweep).stages}
    outcomes = []
    for number, run in enumerate(job["runs"]):
        # A worker that failed has left its group, so every run has its own.
        rendezvous = job_path.with_name(f"rendezvous-{number}")
        with join(rank, job["size"], rendezvous, patience_s=job["patience_s"]) as world:
            every_s = run["checkpoint_every_s"]
            resources = Resources(checkpoint_every_s=every_s, **run["resources"])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(latents, "SHARD_IMAGES", run["shard_images"])
                if run["act"] is not None and run["act"]["rank"] == rank:
                    act(patch, **run["act"])
                outcome = run_stage(stages[run["key"]], Path(run["store"]), resources, 0.0, world)
        outcomes.append(dataclasses.asdict(outcome))
        job_path.with_name(f"outcomes-{rank}.json").write_text(json.dumps(outcomes))


def act(patch: pytest.MonkeyPatch, rank: int, step: int, what: str) -> None:
    """Have this worker go wrong after a step, or have its loss in the step after be no number."""
    after, total = StageContext.after_step, flow.flow_total
    seen = 0

    def after_step(self: StageContext, done: int, *arguments: Any, **named: Any) -> None:
        nonlocal seen
        after(self, done, *arguments, **named)
        seen = done
        if done != step:
            return
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fail":
            raise ValueError(f"worker {rank} is on fire")
        if what == "run out of memory" and self.slices == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def flow_total(*arguments: Any) -> torch.Tensor:
        loss = total(*arguments)
        return loss * torch.nan if seen == step and what == "diverge" else loss

    patch.setattr(StageContext, "after_step", after_step)
    patch.setattr(flow, "flow_total", flow_total)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
