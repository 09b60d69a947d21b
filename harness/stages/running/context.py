"""The context of a running stage: inputs, a work folder, a device and a place to report."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.config.resources import Resources
from harness.data.prefetch import Ahead, pinned
from harness.machine.finite import Diverged
from harness.machine.metering import Spent
from harness.machine.world import World
from harness.stages.running.curves import Curve
from harness.storage.artifacts import Artifact, Work
from harness.storage.checkpoints import CheckpointWriter, load_checkpoint
from harness.storage.durable import write_text
from harness.storage.stop_requests import POLL_S, StopRequested
from models.batch_part import WHOLE, BatchPart, slices_of

Batch = TypeVar("Batch")

WARM_UP = 10
"""Steps of a training before the first one of a trace."""
REPORT_EVERY_S = 0.5
"""Seconds between two progress reports."""


@dataclass
class StageContext:
    """One running stage's view of the world."""

    inputs: Mapping[str, Artifact]
    """Artifacts of the stages that this one depends on, by the name of the dependency."""
    work: Work
    """Folder of the payload and the checkpoints."""
    device: torch.device
    resources: Resources = field(default_factory=Resources)
    """Cores, GPUs and ways of computing that enter no key, as the sweep file asks for them."""
    after_each: Callable[[], None] | None = None
    """Called after every step; the benchmark's loops wait there for their turn."""
    world: World = field(default_factory=World)
    stop_requested: Callable[[], bool] = lambda: False
    """Whether the driver wants the stage to end at its next checkpoint."""
    measured: dict[str, float] = field(default_factory=dict)
    """Numbers that a stage measures of its own speed; they join its artifact's cost."""
    slices: int = 1
    """Parts that every batch is computed in, at the same batch: more need less device memory."""
    earlier_s: float = field(default=0.0, init=False)
    """Seconds of earlier attempts that this one continues."""
    _started: float = field(default_factory=time.monotonic, init=False)
    _reported: float = field(default=0.0, init=False)
    _saved: float = field(default_factory=time.monotonic, init=False)
    _saved_step: int = field(default=-1, init=False)
    _checkpoints: CheckpointWriter = field(default_factory=CheckpointWriter, init=False)
    _bad_steps: dict[str, Tensor] = field(default_factory=dict, init=False)
    _first: tuple[float, float] | None = field(default=None, init=False)
    _earlier_wait_s: float = field(default=0.0, init=False)
    _batches: list[Ahead[Any]] = field(default_factory=list, init=False)
    _meeting: int = field(default=0, init=False)
    _spent_before_s: float = field(default=0.0, init=False)
    _attempt: int = field(default=1, init=False)
    _curve: Curve | None = field(default=None, init=False)
    _asked: float = field(default=-math.inf, init=False)
    _profiler: Any = field(default=None, init=False)
    _traced_from: int | None = field(default=None, init=False)
    _steps_here: int = field(default=0, init=False)

    def ahead(self, function: Callable[[int], Batch], steps: Iterable[int]) -> Ahead[Batch]:
        """Batches of coming steps, computed in the background and, for CUDA, page-locked.

        They end with the stage at the latest. Time spent waiting for them is reported and recorded.

        Args:
            function: Computes a step's batch, a tensor or a tuple with tensors, from no global
                random generator.
        """
        compute = pinned(function, self.device)
        batches = Ahead(compute, steps, depth=self.resources.batches_ahead)
        self._batches.append(batches)
        return batches

    @property
    def data_wait_s(self) -> float | None:
        """Seconds that this stage has waited for batches, earlier attempts included; None for one
        that asks for none."""
        if not self._batches:
            return None
        return self._earlier_wait_s + sum(batches.waited_s for batches in self._batches)

    def close(self) -> None:
        """End what works in the background and close what is open."""
        self._checkpoints.close(self.work.warn)
        for batches in self._batches:
            batches.close()
        if self._curve is not None:
            self._curve.end_log()
        self._end_trace()

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            StageBusy: Another process took the stage over.
            StorageError: It could not be written; the one before stays.
        """
        if self.world.is_first:
            # Says best what is wrong where the folder is gone.
            self.work.require_lease()
            self._checkpoints.wait()

    @property
    def is_sharded(self) -> bool:
        """Whether the workers share the weights of what they train; see `Resources.shard`."""
        return self.resources.shard and not self.world.is_alone

    def parts(self, batch_size: int) -> list[slice]:
        """The rows of a batch that this worker computes, one slice after the other; ValueError
        where the batch has fewer images than there are workers."""
        if batch_size < self.world.size:
            raise ValueError(
                f"a batch must have an image for each of the {self.world.size} workers, but "
                f"`batch_size` is {batch_size}; use fewer workers"
            )
        own, slices = self.world.part(batch_size), self.slices
        if self.is_sharded:
            # Workers put each layer together at every pass: all must take as many.
            slices = min(slices, batch_size // self.world.size)
        return [
            slice(own.start + part.start, own.start + part.stop)
            for part in slices_of(own.stop - own.start, slices)
        ]

    def curve(self, steps: int) -> Curve:
        """A curve of some 200 points over this many steps; it is written whenever a report is."""
        self._curve = Curve(self.work, every=max(1, steps // 200))
        return self._curve

    def begin(self) -> None:
        """Count this attempt and what those before it took, as far as they have said."""
        if not self.world.is_first:
            return
        before = self.work.last_report()
        self._spent_before_s = before.get("spent_s", 0.0)
        self._attempt = before.get("attempt", 0) + 1
        self.work.report(self._bill())

    def spent(self) -> Spent:
        """Time that all attempts took so far; time of work that was repeated counts as lost."""
        now_s = time.monotonic() - self._started
        useful_s = self.earlier_s + now_s
        # A checkpoint may be younger than the last report.
        wall_s = max(self._spent_before_s + now_s, useful_s)
        return Spent(wall_s=wall_s, lost_s=wall_s - useful_s, attempts=self._attempt)

    def _bill(self) -> dict[str, float]:
        spent = self.spent()
        return {"spent_s": spent.wall_s, "attempt": spent.attempts}

    def batch_part(self, batch_size: int) -> BatchPart:
        """The same as a network or loss needs to know it, whose slices are its own business."""
        if self.world.is_alone:
            return WHOLE
        return BatchPart(
            first=self.parts(batch_size)[0].start,
            total=batch_size,
            sum=self.world.sum,
            differentiable_sum=self.world.differentiable_sum,
        )

    def watch(self, step: int, loss: Tensor, what: str = "the loss") -> None:
        """Remember, on the device, the first step at which a scalar is not finite."""
        never = torch.full((), 2**62, dtype=torch.int64, device=loss.device)
        # Reading the value would wait for the device at every step. The first bad step is kept
        # there and read with the next report.
        now = torch.where(torch.isfinite(loss.detach()), never, torch.full_like(never, step))
        before = self._bad_steps.get(what)
        self._bad_steps[what] = now if before is None else torch.minimum(before, now)

    def watch_gradient(self, step: int, norm: Tensor) -> None:
        """The same for the norm of a gradient, which spoils the weights before a loss shows it."""
        self.watch(step, norm, "the gradient")

    def after_step(
        self,
        step: int,
        total: int,
        numbers: Callable[[], Mapping[str, float]],
        state: Callable[[], Mapping[str, Any]] | None = None,
        images: int = 1,
        shared: bool = False,
    ) -> None:
        """Report progress, begin a checkpoint and stop where they are due; synchronises only then.

        The workers of a training agree on what is due: they meet at a step that the first one chose
        at the meeting before, so that nothing is exchanged in between.

        Args:
            numbers: What to show (the loss); called only when a report is due.
            state: What to save; None for stages that are cheap to run again.
            shared: Whether all workers call `state` together, to gather what each has.

        Raises:
            Diverged: A watched loss or gradient was not finite; the last finite checkpoint stays.
            StopRequested: The driver wants the stage to end; the checkpoint is written.
            StageBusy: Another process took the stage over.
            StorageError: The checkpoint before could not be written; the one before that stays.
        """
        if self.after_each is not None:
            self.after_each()
        if self.resources.profile and self._curve is not None:
            self._trace(step, total, self.resources.profile)
        # Reports and checkpoints go by time: a step may take a millisecond or a minute.
        now = time.monotonic()
        together = state is not None and not self.world.is_alone
        if together and step < self._meeting and step < total:
            return
        save_due = state is not None and now - self._saved >= self.resources.checkpoint_every_s
        stop_due = step < total and self._stop_is_due(now)
        if together:
            save_due, stop_due, self._meeting = self.world.broadcast(
                (save_due, stop_due, self._next_meeting(step, now))
            )
        elif not (step == total or save_due or stop_due or now - self._reported >= REPORT_EVERY_S):
            return
        self._check_finite()
        if self.world.is_first:
            self._report(step, total, now, numbers(), images)
            if self._curve is not None:
                self._curve.flush()
        if state is not None and (save_due or stop_due) and step < total:
            if self.world.is_first:
                self._save(step, state)
            elif shared:
                state()
        if stop_due:
            self.wait_for_checkpoint()
            raise StopRequested(f"the driver asked this stage to stop; it did after step {step}")

    def _trace(self, step: int, total: int, count: int) -> None:
        """Trace some steps of a training, after those that compile and warm up."""
        self._steps_here += 1
        if self._traced_from is None and (self._steps_here == WARM_UP or total - step <= count):
            self._traced_from, self._profiler = step, torch.profiler.profile()
            self._profiler.start()
        elif self._traced_from is not None and step == self._traced_from + count:
            self._end_trace()

    def _end_trace(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            path = self.work.shared / f"trace-worker{self.world.rank}.json.gz"
            self._profiler.export_chrome_trace(str(path))
            self._profiler = None

    def after_batch(
        self,
        measuring: str,
        done: int,
        total: int,
        step: int,
        state: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Report how far a training is with what it measures at its end; stop where that is asked.

        Args:
            done: Images done; 0 before the first batch.
            step: Steps of the training. From its checkpoint a stopped stage measures anew.

        Raises:
            StopRequested: The driver wants the stage to end; the checkpoint is written.
            StageBusy: Another process took the stage over.
            StorageError: A checkpoint cannot be written; the last one stays.
        """
        now = time.monotonic()
        if done == 0:
            # Images a second and what is left are those of the measurement from now on.
            self._first = None
        stop_due = self.world.broadcast(done < total and self._stop_is_due(now))
        report_due = done in (0, total) or now - self._reported >= REPORT_EVERY_S
        if self.world.is_first and (report_due or stop_due):
            self._report(done, total, now, {"measuring": measuring})
        if stop_due:
            self.leave(step, state)
            raise StopRequested(
                f"the driver asked this stage to stop; it did while it measured its {measuring}"
            )

    def leave(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint, unless there is one after this step; every worker calls it."""
        if self.world.broadcast(self._saved_step != step):
            if self.world.is_first:
                self._save(step, state)
            elif self.is_sharded:
                state()
        self.wait_for_checkpoint()

    def between_steps(self, within: str, step: float, total: int) -> None:
        """Report what goes on between steps, where that is due; never synchronises.

        Args:
            step: Steps done, with the part of the next one that is done.
        """
        now = time.monotonic()
        if self.world.is_first and (step == total or now - self._reported >= REPORT_EVERY_S):
            self._report(step, total, now, {"within": within})

    def _report(
        self, step: float, total: int, now: float, more: Mapping[str, Any], images: int = 1
    ) -> None:
        # Rates count from the end of the first step, which may compile.
        is_warm = self._first is not None or "within" not in more
        speed = self._speed(step, total, now, images) if is_warm else {}
        self.work.report({"step": int(step), "total": total, **more, **speed, **self._bill()})
        self._reported = now

    def _stop_is_due(self, now: float) -> bool:
        if now - self._asked < POLL_S:
            return False
        self._asked = now
        return self.stop_requested()

    def resume(self, most: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """Steps done, `most` of them, and state of the newest whole checkpoint, or None; one for
        all workers.

        The training curve is put back to what it was then. Checkpoints that had to be passed over
        are told in the stage's log and history.

        Raises:
            ValueError: Another worker than the first cannot read the checkpoint that it chose.
        """
        work, found = self.work, None
        folder = work.shared_checkpoints
        if self.world.is_first:
            found = load_checkpoint(folder, payload=work.payload, most=most, warn=work.warn)
        chosen = self.world.broadcast(None if found is None else found[0])
        if chosen is None:
            return None
        found = found or load_checkpoint(folder, chosen)
        if found is None:
            raise ValueError(
                f"all workers must read the checkpoint after step {chosen} in {folder}, but worker "
                f"{self.world.rank} cannot; put the store on a file system that all machines see"
            )
        step, content = found
        self._saved_step = step
        self.earlier_s = content["elapsed_s"]
        self._earlier_wait_s = content.get("data_wait_s", 0.0)
        write_text(work.curve, content["curve"])
        work.note("resumed", step=step)
        return step, content["state"]

    def _save(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Begin a checkpoint, unless the stage was taken over by another process."""
        work = self.work
        # Before the state is gathered, or the host would hold two copies.
        self.wait_for_checkpoint()
        # Called first: it brings the curve up to date.
        content: dict[str, Any] = {"state": state()}
        content |= {
            "elapsed_s": self.earlier_s + time.monotonic() - self._started,
            "data_wait_s": self.data_wait_s or 0.0,
            "curve": work.curve.read_text(encoding="utf-8") if work.curve.exists() else "",
        }
        self._checkpoints.save(work.checkpoints, step, content, work.payload)
        self._saved, self._saved_step = time.monotonic(), step

    def _next_meeting(self, step: int, now: float) -> int:
        """The step at which the workers meet next, about when a report or checkpoint is due."""
        wait_s = min(REPORT_EVERY_S, self.resources.checkpoint_every_s)
        if self._first is None or now <= self._first[1]:
            return step + 1
        return step + max(1, int(wait_s * (step - self._first[0]) / (now - self._first[1])))

    def _speed(self, step: float, total: int, now: float, images: int) -> dict[str, float]:
        if self._first is None:
            self._first = (step, now)
        steps, seconds = step - self._first[0], now - self._first[1]
        if steps <= 0 or seconds <= 0:
            return {}
        return {
            "images_per_s": steps * images / seconds,
            "eta_s": (total - step) * seconds / steps,
            **self._waited(now),
        }

    def _waited(self, now: float) -> dict[str, float]:
        if self.data_wait_s is None:
            return {}
        elapsed_s = self.earlier_s + now - self._started
        return {"data_wait_s": self.data_wait_s, "data_wait_share": self.data_wait_s / elapsed_s}

    def _check_finite(self) -> None:
        found = {what: int(step) for what, step in self._bad_steps.items()}
        # Of one step, the loss comes before its gradient.
        what = min(found, key=lambda name: (found[name], name != "the loss"), default="")
        if what and found[what] < 2**62:
            raise Diverged(
                f"{what} is not finite at step {found[what]}; lower the learning rate, "
                "or set training.max_grad_norm (a generator may also set qk_norm)"
            )
