"""What every part of the benchmark is given: the subject, the clock and the peaks to hold it to."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch

from harness.benchmarks.rows import Clock, Row, against, measured
from harness.benchmarks.subject import Subject
from harness.benchmarks.turns import FEWEST, WARM_UP, Pause, Times, take_turns
from harness.devices import Precision, peak_flops
from harness.plan import Stage
from harness.stages import registry
from harness.stages.context import StageContext
from harness.store import Artifact
from harness.training import arithmetic

MATMUL_SIDE = 2048
MATMUL_S = 0.3
"""Seconds that a peak is looked for; the best product counts."""
ENDLESS = 10**9
"""Steps of a training that is stopped when it has been timed."""


@final
@dataclass(kw_only=True)
class Bench:
    """How this run measures."""

    subject: Subject
    clock: Clock
    threads: int
    repeats: int
    steps: int
    """Steps a turn."""
    together: bool
    """Whether variants take turns, or run one after the other, each alone in memory."""
    limit_s: float
    """Seconds that the turns of one measurement may take together: it is left out where the fewest
    would take longer by estimate, and begins no further round after it."""
    compiled: bool
    """Whether compiled variants are measured."""
    num_points: int
    """Most points of the sampler's time grid."""
    _peaks: dict[str, tuple[float, str]] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        """Where to measure."""
        return self.subject.device

    def peak(self, precision: Precision) -> tuple[float, str]:
        """FLOP/s to hold a measurement to, and where they come from.

        Of a known GPU the published ones. Otherwise those of a product of two square matrices in
        the same arithmetic and run, on one thread times the threads of this run.
        """
        if precision not in self._peaks:
            self._peaks[precision] = self._find_peak(precision)
        return self._peaks[precision]

    def _find_peak(self, precision: Precision) -> tuple[float, str]:
        if self.device.type == "cuda":
            published = peak_flops(torch.cuda.get_device_name(self.device), precision)
            if published is not None:
                return published, f"published, {precision}"
        name = f"measured here, product of {MATMUL_SIDE} x {MATMUL_SIDE}, {precision}"
        return _fastest_product(self.device, precision, self.threads), name

    def takes_too_long(self, flops_a_turn: float, precision: Precision) -> str:
        """Why a measurement is not worth its time, or an empty text."""
        peak, _ = self.peak(precision)
        turns = WARM_UP + min(self.repeats, FEWEST)
        expected_s = flops_a_turn * self.steps * turns / (0.3 * peak)
        if expected_s <= self.limit_s:
            return ""
        return (
            f"{turns} turns would take some {expected_s:,.0f} s at 30% of this device's "
            f"peak, over the limit of {self.limit_s:g} s (--limit-s)"
        )

    def run(
        self, loops: Mapping[str, Callable[[Pause], None]], *, together: bool | None = None
    ) -> dict[str, Times]:
        """Time loops in turns."""
        return take_turns(
            loops,
            self.device,
            repeats=self.repeats,
            steps=self.steps,
            together=self.together if together is None else together,
            limit_s=self.limit_s,
        )

    def row(self, row: Row, times: Times, plain: Times | None = None) -> Row:
        """A row with its times, and its speed relative to the plain variant's."""
        done = measured(row, times, clock=self.clock, threads=self.threads, steps=self.steps)
        if plain is None or done.status != "measured":
            return done
        return against(done, times, plain, clock=self.clock, threads=self.threads)

    def with_peak(self, row: Row, precision: Precision, flops_per_image: float | None) -> Row:
        """A row that names its arithmetic, its operations and the peak that they are held to."""
        peak, name = self.peak(precision)
        return dataclasses.replace(
            row,
            precision=precision,
            flops_per_image=flops_per_image,
            peak_flops=peak,
            peak_name=name,
        )

    def training_loop(
        self,
        stage: Stage,
        config: Any,
        inputs: Mapping[str, Artifact],
        settings: Mapping[str, Any],
        waits: list[float] | None = None,
    ) -> Callable[[Pause], None]:
        """A stage's own training loop, from its configuration, as work that takes turns.

        Args:
            stage: Names the kind and the key of the scratch folder.
            config: What is run in place of the stage's configuration.
            inputs: Its inputs.
            settings: Settings of its context.
            waits: Filled with the seconds waited for data up to the end of each step.
        """

        def work(pause: Pause) -> None:
            torch.set_num_threads(self.threads)
            with self.subject.store.scratch(stage.kind, stage.key) as folder:

                def after_each() -> None:
                    if waits is not None:
                        waits.append(context.data_wait_s or 0.0)
                    pause()

                context = StageContext(
                    inputs=inputs,
                    work=folder,
                    device=self.device,
                    checkpoint_every_s=float(ENDLESS),
                    after_each=after_each,
                    **settings,
                )
                try:
                    registry.KINDS[stage.kind].run(config, context)
                finally:
                    context.close()

        return work


def _fastest_product(device: torch.device, precision: Precision, threads: int) -> float:
    """FLOP/s of the best of several products of square matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left, right = (torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=device) for _ in range(2))
    if precision == "bf16":
        left, right = left.bfloat16(), right.bfloat16()
    best, until = 0.0, time.perf_counter() + MATMUL_S
    with arithmetic(precision, device):
        _ = left @ right
        while time.perf_counter() < until or best == 0.0:
            _wait_for(device)
            wall, cpu = time.perf_counter(), time.process_time()
            _ = left @ right
            _wait_for(device)
            seconds = time.perf_counter() - wall
            if device.type == "cpu":
                seconds = min(seconds, max(1e-9, (time.process_time() - cpu) / threads))
            best = max(best, 2 * MATMUL_SIDE**3 / seconds)
    torch.set_num_threads(before)
    return best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
