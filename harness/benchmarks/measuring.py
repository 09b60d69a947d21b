"""What every part of the benchmark is given: the subject, the clock and the peaks to hold it to."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch

from harness.benchmarks.rows import Clock, Row, against, measured
from harness.benchmarks.subject import Subject
from harness.benchmarks.turns import FEWEST, TURN_S, WARM_UP, Pause, Times, free_memory, take_turns
from harness.config.resources import Resources
from harness.data.pipelines import Workers
from harness.execution.failures import classify
from harness.machine.devices import Precision, peak_flops
from harness.stages import registry
from harness.stages.running.context import StageContext
from harness.stages.running.optimisation import arithmetic
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact

PUBLISHED = "published, {}"
"""Name of a peak that stands in a data sheet."""
MATMUL_SIDE = 2048
MATMUL_S = 0.3
"""Seconds that a peak is looked for; the best product counts."""
TENSOR_CORE_SHARE, PLAIN_SHARE = 0.3, 0.6
"""Shares of a peak that work is priced at before it runs: of tensor cores and of what is measured
here, and of a GPU's published peak without them, which products come close to."""
ENDLESS = 10**9
"""Steps of a training that is stopped when it has been timed."""
MOST_SLICES = 8
"""Slices of a batch beyond which a training is said not to fit."""


@final
@dataclass(kw_only=True)
class Watched:
    """What a training loop tells about itself."""

    waits: list[float] = field(default_factory=list)
    """Seconds waited for data up to the end of each step."""
    slices: int = 1
    """Slices in which every batch was computed."""


@final
@dataclass(kw_only=True)
class Bench:
    """How this run measures."""

    subject: Subject
    clock: Clock
    threads: int
    repeats: int
    steps: int
    """Most steps a turn; slow ones are fewer."""
    together: bool
    """Whether variants take turns, or run one after the other, each alone in memory."""
    limit_s: float
    """Seconds that the turns of one measurement may take together: of all variants of a thing where
    they take turns, otherwise of each. It is left out where the fewest turns would take longer by
    estimate, and begins no further round after it."""
    compiled: bool
    """Whether compiled variants are measured."""
    num_points: int
    """Most points of the sampler's time grid."""
    num_latents: int
    """Latents, at least, that a generator's waiting for data is measured with."""
    decode_workers: Workers
    """Threads that decode images."""
    _peaks: dict[str, tuple[float, str]] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        """Where to measure."""
        return self.subject.device

    def peak(self, precision: Precision, convolutions: float = 0.0) -> tuple[float, str]:
        """FLOP/s to hold a measurement to, and where they come from.

        Of a known GPU the published ones. Otherwise those of a product of two square matrices in
        the same arithmetic and run, on one thread times the threads of this run. Convolutions on
        fp32 numbers are held to TF32 where cuDNN uses it for them, which is PyTorch's default.

        Args:
            precision: Arithmetic of products.
            convolutions: Share of the operations that are convolutions.
        """
        if convolutions and precision == "fp32" and self._rounds_convolutions():
            (slow, slow_name), (fast, fast_name) = self.peak("fp32"), self.peak("tf32")
            peak = 1 / ((1 - convolutions) / slow + convolutions / fast)
            name = f"{fast_name} for cuDNN's convolutions ({convolutions:.0%} of the operations)"
            return peak, name if convolutions == 1 else f"{slow_name}; {name}"
        if precision not in self._peaks:
            self._peaks[precision] = self._find_peak(precision)
        return self._peaks[precision]

    def _rounds_convolutions(self) -> bool:
        if self.device.type != "cuda" or not torch.backends.cudnn.allow_tf32:
            return False
        name = torch.cuda.get_device_name(self.device)
        # A known device without a peak in TF32 has no such arithmetic.
        return peak_flops(name, "fp32") is None or peak_flops(name, "tf32") is not None

    def _find_peak(self, precision: Precision) -> tuple[float, str]:
        if self.device.type == "cuda":
            published = peak_flops(torch.cuda.get_device_name(self.device), precision)
            if published is not None:
                return published, PUBLISHED.format(precision)
        name = f"measured here, product of {MATMUL_SIDE} x {MATMUL_SIDE}, {precision}"
        return _fastest_product(self.device, precision, self.threads), name

    def too_long(self, rows: Sequence[Row]) -> dict[str, str]:
        """Variant -> why it is not worth its time; those that take turns are all so, or none is.

        Args:
            rows: A row a variant, with its images, its operations and its peak.
        """
        turns = WARM_UP + min(self.repeats, FEWEST)
        each_s = {row.variant: turns * self._turn_s(row) for row in rows}
        if self.together:
            each_s = dict.fromkeys(each_s, sum(each_s.values()))
        return {
            variant: f"{turns} turns would take some {expected_s:,.1f} s by their operations and "
            f"this device's peak, over the limit of {self.limit_s:g} s (--limit-s)"
            for variant, expected_s in each_s.items()
            if expected_s > self.limit_s
        }

    def _turn_s(self, row: Row) -> float:
        """Expected seconds of one turn, as `Loop` takes it; 0 where operations are not counted."""
        if not (row.peak_flops and row.flops_per_image and row.images):
            return 0.0
        plain = row.peak_name.startswith(PUBLISHED.format("fp32"))
        share = PLAIN_SHARE if plain else TENSOR_CORE_SHARE
        step_s = row.images * row.flops_per_image / (share * row.peak_flops)
        return max(step_s, min(self.steps * step_s, TURN_S))

    def run(
        self, loops: Mapping[str, Callable[[Pause], None]], *, together: bool | None = None
    ) -> dict[str, Times]:
        """Time loops in turns, or one after the other."""
        return take_turns(
            loops,
            self.device,
            repeats=self.repeats,
            steps=self.steps,
            together=self.together if together is None else together,
            limit_s=self.limit_s,
        )

    def compare(
        self,
        rows: Sequence[Row],
        loop_of: Callable[[str], Callable[[Pause], None]],
        *,
        together: bool | None = None,
    ) -> list[Row]:
        """Measure variants, each held to the first; what would take too long is left out.

        Args:
            rows: A row a variant, priced by `with_peak`.
            loop_of: Makes the loop of a variant by its name.
            together: Whether they take turns; None: as everywhere in this run.
        """
        reasons = self.too_long(rows)
        if len(reasons) == len(rows):
            # Nothing is known of any variant then, so one row stands for all.
            one = dataclasses.replace(
                rows[0], variant="", precision="", flops_per_image=None, peak_flops=None
            )
            reason = reasons[rows[0].variant]
            return [dataclasses.replace(one, peak_name="", status="skipped", reason=reason)]
        loops = {row.variant: loop_of(row.variant) for row in rows if row.variant not in reasons}
        times = self.run(loops, together=together)
        plain = times.get(rows[0].variant) if len(rows) > 1 else None
        return [
            dataclasses.replace(row, status="skipped", reason=reasons[row.variant])
            if row.variant in reasons
            else self.row(row, times[row.variant], plain)
            for row in rows
        ]

    def row(self, row: Row, times: Times, plain: Times | None = None) -> Row:
        """A row with its times, and its speed relative to the plain variant's."""
        done = measured(row, times, clock=self.clock, threads=self.threads)
        if plain is None or done.status != "measured":
            return done
        return against(done, times, plain, clock=self.clock, threads=self.threads)

    def with_peak(
        self,
        row: Row,
        precision: Precision,
        flops_per_image: float | None,
        convolutions: float = 0.0,
    ) -> Row:
        """A row that names its arithmetic, its operations and the peak that they are held to."""
        peak, name = self.peak(precision, convolutions)
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
        watched: Watched,
    ) -> Callable[[Pause], None]:
        """A stage's own training loop, from its configuration, as work that takes turns.

        As in a sweep, a batch that the device has no memory for is computed in slices.

        Args:
            stage: Names the kind and the key of the scratch folder.
            config: What is run in place of the stage's configuration.
            inputs: Its inputs.
            settings: How it computes, as `resources` of a sweep say it.
            watched: Filled with what there is to tell.
        """

        def work(pause: Pause) -> None:
            torch.set_num_threads(self.threads)
            while True:
                try:
                    return train(pause)
                except RuntimeError as error:
                    early = len(watched.waits) < WARM_UP and watched.slices < MOST_SLICES
                    if not early or classify(error) != "device_memory":
                        raise
                watched.slices *= 2
                watched.waits.clear()
                free_memory(self.device)

        def train(pause: Pause) -> None:
            with self.subject.store.scratch(stage.kind, stage.key) as folder:

                def after_each() -> None:
                    watched.waits.append(context.data_wait_s or 0.0)
                    pause()

                context = StageContext(
                    inputs=inputs,
                    work=folder,
                    device=self.device,
                    resources=Resources(checkpoint_every_s=float(ENDLESS), **settings),
                    after_each=after_each,
                    slices=watched.slices,
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
