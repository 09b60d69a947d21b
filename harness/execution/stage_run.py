"""Runs one stage: the only place where a failure becomes a recorded status."""

import contextlib
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from threadpoolctl import threadpool_limits

from harness.config.resources import Resources
from harness.execution import attempts
from harness.execution.failures import FailureKind, classify, one_line
from harness.machine.devices import mfu
from harness.machine.environment import environment
from harness.machine.metering import Meter, free_device_memory, precision_of, values_of
from harness.machine.world import WorkerLost, World
from harness.plan.cost import estimate
from harness.plan.plan import with_inputs
from harness.schema.imported import code_of
from harness.schema.keys import to_plain
from harness.stages import registry
from harness.stages.running.context import StageContext
from harness.stages.stage import Stage
from harness.storage import stage_log
from harness.storage import stop_requests as stopping
from harness.storage.artifacts import Artifact, DamagedArtifact, Store, Work
from harness.storage.durable import write_text
from harness.storage.lease import StageBusy
from harness.storage.stop_requests import StopRequested

Status = Literal["done", "reused", "busy", "failed", "diverged", "stopped", "blocked"]
"""How a stage ended: run here, found in the store, held by another process, ended by an error, by
a non-finite loss or by a stop request, or never started because an input failed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one stage ended."""

    key: str
    status: Status
    error: str = ""
    """One line for the table; the traceback lies in the store."""
    failure: FailureKind = ""
    """Class of the failure; see `harness.execution.failures`."""
    wall_s: float = 0.0
    again: bool = False
    """Whether running it again at once, in new processes, may end otherwise: a worker ran out of
    device memory, and the next attempt computes every batch in slices."""
    set_aside: str = ""
    """Tells of a damaged input that was set aside; its stage makes it anew when it runs again."""


ALONE = World()
"""The only worker of its stage."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that libraries read when they are loaded."""


def run_stage(
    stage: Stage,
    store_root: Path,
    resources: Resources,
    gpus: float,
    world: World = ALONE,
    stop: Path | None = None,
) -> Outcome:
    """Bring one stage's artifact into the store, alone or together with other workers.

    All workers call this alike. The first one holds the lease and writes into the store. A failure
    of one ends them all: what went wrong stands in the outcome of each that can still tell.

    Args:
        stage: The stage; its inputs must be in the store.
        store_root: Root of the store.
        resources: Threads and checkpoint interval of each worker.
        gpus: GPUs granted to this worker; 0 computes on the CPU even where a GPU is visible.
        world: The workers of the stage.
        stop: File in which the driver asks its stages to stop; see `harness.storage.stop_requests`.

    Returns:
        How it ended. Errors are caught here and nowhere else; `KeyboardInterrupt` passes through.
        A failed worker of several has left the group: the next attempt needs a new one.
    """
    given = _Assignment(
        stage=stage, store=Store(store_root), resources=resources, gpus=gpus, world=world, stop=stop
    )
    try:
        return _lead(given) if world.is_first else _follow(given)
    except WorkerLost as error:
        world.leave()
        return _failure(stage, error)


@dataclass(frozen=True, kw_only=True)
class _Assignment:
    """The arguments of `run_stage`, for the functions below."""

    stage: Stage
    store: Store
    resources: Resources
    gpus: float
    world: World
    stop: Path | None

    @property
    def device(self) -> torch.device:
        if self.gpus <= 0 or not torch.cuda.is_available():
            return torch.device("cuda" if self.gpus > 0 else "cpu")
        # With its number: threads of a process, such as the one that reads batches, begin at GPU 0.
        return torch.device("cuda", torch.cuda.current_device())

    def slices(self, work: Work) -> int:
        """Slices of every batch: as asked for, more where earlier attempts found no memory."""
        return max(self.resources.slices, attempts.slices(work))

    @property
    def most_slices(self) -> int:
        """Slices of which none has more than one image, on this worker."""
        # Of networks whose work is not shared, batch normalisation sees a slice at a time.
        if not registry.KINDS[self.stage.kind].shares_work:
            return 2
        largest = max(values_of(self.stage.config, "batch_size"), default=2)
        return max(2, -(-largest // self.world.size))

    def stop_requested(self) -> bool:
        """Whether the driver asks its stages to stop."""
        return self.stop is not None and stopping.is_requested(self.stop)


def _lead(given: _Assignment) -> Outcome:
    """The first worker's part; it tells the others to go on, and how the stage ended."""
    stage, store, world = given.stage, given.store, given.world
    outcome = Outcome(key=stage.key, status="reused")
    try:
        # Looked for before the lease is taken: most stages of a repeated command are there.
        try:
            if store.examine(stage.kind, stage.key):
                return world.broadcast(outcome, patient=True)
        except DamagedArtifact as error:
            store.set_aside(error)
        with store.work(stage.kind, stage.key, stage.work_key) as work:
            # Again under the lease: another process may have published in between.
            if not store.find(stage.kind, stage.key):
                attempts.clear_failures(work)
                outcome = _attempt(given, work, world.broadcast(given.slices(work), patient=True))
                # A gang starts its next attempt in new processes; see `Outcome.again`.
                while outcome.again and world.is_alone:
                    free_device_memory()
                    outcome = _attempt(given, work, given.slices(work))
                if outcome.status in ("failed", "diverged", "stopped"):
                    # The group is gone: there is nobody to tell.
                    return outcome
    except StageBusy:
        outcome = Outcome(key=stage.key, status="busy")
    except OSError as error:
        outcome = _failure(stage, error)
    return world.broadcast(outcome, patient=True)


def _follow(given: _Assignment) -> Outcome:
    """Any other worker's part."""
    stage, world = given.stage, given.world
    told: int | Outcome = world.broadcast(0, patient=True)
    if isinstance(told, Outcome):
        return told
    with given.store.scratch(stage.kind, stage.key, stage.work_key) as work:
        outcome = _attempt(given, work, told)
    return world.broadcast(outcome, patient=True) if outcome.status == "done" else outcome


def _attempt(given: _Assignment, work: Work, slices: int) -> Outcome:
    started = time.monotonic()
    try:
        with stage_log.kept(work.shared / stage_log.name(given.world.rank)):
            _run(given, work, slices)
    except StageBusy:
        raise
    except Exception as error:
        if work.lease is not None:
            # Who was taken for dead may have stumbled over its successor's files.
            work.require_lease()
        return _failed(given, work, error, time.monotonic() - started, slices)
    return Outcome(key=given.stage.key, status="done", wall_s=time.monotonic() - started)


def _run(given: _Assignment, work: Work, slices: int) -> None:
    stage, resources, device = given.stage, given.resources, given.device
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"a stage that was granted {given.gpus:g} GPUs must see one, but torch sees none; "
            "check the driver and CUDA_VISIBLE_DEVICES, or set gpus: 0 in the sweep file's "
            "resources"
        )
    if code_of(stage.config) != stage.code:
        raise ValueError(
            f"the code behind a stage must be what was planned with ({dict(stage.code)}), but this "
            f"process finds {code_of(stage.config)}; run the command again to plan with it"
        )
    definition = registry.KINDS[stage.kind]
    work.note("started", gpus=given.gpus, cpus=resources.cpus, workers=given.world.size)
    inputs = _find_inputs(stage, given.store)
    context = StageContext(
        inputs=inputs,
        work=work,
        device=device,
        resources=resources,
        world=given.world,
        slices=slices,
        stop_requested=given.stop_requested,
    )
    # Before the stage opens anything, so that its peak memory holds all of it.
    created, meter = time.time(), Meter(device)
    context.begin()
    with contextlib.closing(context), _threads(resources.cpus):
        result = definition.run(stage.config, context)
        context.wait_for_checkpoint()
    if device.type == "cuda":
        torch.cuda.synchronize()
    # One record and one publication; the others have given their part to the first worker.
    if not given.world.is_first:
        return
    seen = environment(device)
    work.publish(
        {
            "kind": stage.kind,
            "key": stage.key,
            "version": definition.version,
            "label": stage.label,
            "config": to_plain(stage.config),
            "inputs": {name: s.key for name, s in stage.inputs.items()},
            **({"code": dict(stage.code)} if stage.code else {}),
            "made_of": _made_of(stage, inputs),
            "result": dict(result),
            "cost": cost_record(stage, context, given.gpus, seen["device"], meter.peaks()),
            "environment": seen,
            "created": created,
        }
    )


def _find_inputs(stage: Stage, store: Store) -> dict[str, Artifact]:
    """The artifacts that a stage reads, each made of the artifacts that the store holds now.

    A tokenizer that had to be trained again may have come out otherwise, on a GPU say; what was
    learnt from latents of the old one must not be decoded with the new one.

    Raises:
        ValueError: One is not in the store.
        DamagedArtifact: One was altered, or made of other artifacts than those in the store.
    """
    found = {name: store.get(s.kind, s.key) for name, s in stage.inputs.items()}
    for name, source in stage.inputs.items():
        made_of = found[name].record.get("made_of", {})
        for ancestor in with_inputs(source.inputs.values()):
            # What nobody reads now need not be there any more.
            present = store.find(ancestor.kind, ancestor.key)
            if present and made_of.get(ancestor.key, present.digest) != present.digest:
                raise DamagedArtifact(
                    found[name].path,
                    f"it was made of another {ancestor.kind} {ancestor.key} than is there now",
                )
    return found


def _made_of(stage: Stage, inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """Key -> content digest of every artifact that this one goes back to."""
    made_of: dict[str, str] = {}
    for name, source in stage.inputs.items():
        made_of |= inputs[name].record.get("made_of", {})
        made_of[source.key] = inputs[name].digest
    return made_of


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Pin the number of threads: with another number, sums are rounded in another order."""
    before = torch.get_num_threads()
    # For libraries that are loaded within the stage.
    variables: dict[str, str] = dict.fromkeys(THREAD_VARIABLES, str(count))
    variables_before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        # For libraries that are loaded already: BLAS and OpenMP.
        with threadpool_limits(limits=count):
            torch.set_num_threads(count)
            yield
    finally:
        torch.set_num_threads(before)
        for name, value in variables_before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cost_record(
    stage: Stage, context: StageContext, gpus: float, device_name: str, peaks: Mapping[str, float]
) -> dict[str, Any]:
    """Put together the `cost` of an artifact.

    Args:
        stage: The stage that has run.
        context: What it ran in.
        gpus: GPUs of each worker; a fraction for a shared one.
        device_name: As its environment has it.
        peaks: Peak memory in GiB, as `Meter.peaks` gives it.
    """
    # A cost counts all attempts: they were paid for. A rate leaves out what kills lost, or an
    # unlucky stage would look like a slow machine.
    spent, expected, workers = context.spent(), estimate(stage), context.world.size
    cpus, gpus = context.resources.cpus, gpus * workers
    record: dict[str, Any] = {
        "wall_s": spent.wall_s,
        "lost_s": spent.lost_s,
        "attempts": spent.attempts,
        "device_s": spent.wall_s * (gpus if gpus > 0 else cpus * workers),
        "cpus": cpus,
        "gpus": gpus,
        "workers": workers,
        "estimated_flops": expected.flops,
        "images": expected.images,
        "images_per_s": expected.images / spent.useful_s if spent.useful_s > 0 else None,
        **context.measured,
        **peaks,
        "slices": context.slices,
    }
    if context.data_wait_s is not None:
        record["data_wait_s"] = context.data_wait_s
    # MFU stays absent rather than guessed where the peak is unknown, and on a CPU.
    precision = precision_of(stage.config, convolves=registry.KINDS[stage.kind].convolves)
    share = mfu(expected.flops, spent.useful_s, gpus, device_name, precision)
    if share is not None:
        record |= {"mfu": share, "mfu_precision": precision}
    return record


def _failed(
    given: _Assignment, work: Work, error: Exception, wall_s: float, slices: int
) -> Outcome:
    """Record how an attempt failed, and tell the other workers."""
    world = given.world
    found = attempts.failure_behind(error, work, world) or _describe(
        error, work, slices, given.most_slices
    )
    if isinstance(error, DamagedArtifact):
        with contextlib.suppress(OSError):
            found["set_aside"] = given.store.set_aside(error)
    outcome = Outcome(key=given.stage.key, wall_s=wall_s, **found)
    name = "error.txt" if world.is_first else f"error-worker{world.rank}.txt"
    # A full disk may be what failed; the outcome says so anyway.
    with contextlib.suppress(OSError):
        work.shared.mkdir(parents=True, exist_ok=True)
        attempts.tell_failure(work, world, found)
        if not isinstance(error, StopRequested):
            write_text(work.shared / name, "".join(traceback.format_exception(error)))
    # A network in shards holds the connections that leaving closes.
    traceback.clear_frames(error.__traceback__)
    # After the reason is written: the others look for it as soon as their exchange fails.
    world.leave()
    return outcome


def _describe(error: Exception, work: Work, slices: int, most: int) -> dict[str, Any]:
    """Status, message, class and whether another attempt is worth it."""
    text, failure = one_line(error), classify(error)
    if isinstance(error, StopRequested):
        return {"status": "stopped"}
    if failure != "device_memory":
        status = "diverged" if failure == "divergence" else "failed"
        return {"status": status, "error": text, "failure": failure}
    # Where a single image does not fit either, the user has to choose what to change.
    if slices < most:
        more = min(2 * slices, most)
        attempts.ask_for_slices(work, more, text)
        work.warn(f"{text}; run again in {more} slices of every batch")
        return {"status": "failed", "error": text, "failure": failure, "again": True}
    attempts.forget_slices(work)
    return {
        "status": "failed",
        "failure": failure,
        "error": f"the device ran out of memory although every batch was computed in {slices} "
        "slices; give the stage a whole GPU, a larger one or more workers (`resources`), set "
        f"`precision: bf16`, or make the batch or the network smaller ({text})",
    }


def _failure(stage: Stage, error: Exception) -> Outcome:
    return Outcome(key=stage.key, status="failed", error=one_line(error), failure=classify(error))
