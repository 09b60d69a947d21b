"""How the benchmark measures: variants of a step, the limit on their time, and peaks for MFU."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch

from harness.benchmarks import turns
from harness.benchmarks.rows import Clock, Row, measured
from harness.benchmarks.subject import Subject
from harness.benchmarks.turns import FEWEST, TURN_S, WARM_UP, Pause, Times, Work
from harness.config.resources import Resources
from harness.config.training import Precision, TrainingConfig
from harness.data.pipelines import Workers
from harness.execution.failures import classify
from harness.machine.devices import peak_flops
from harness.machine.metering import free_device_memory
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
@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to run a step. The defaults are the plain one: eager, fp32, nothing fused or kept."""

    name: str
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool | Literal["auto"] = False
    fused_optimizer: bool = False
    latents_on_device: bool = False
    """Otherwise each batch is read from the shards."""

    @property
    def settings(self) -> dict[str, Any]:
        """How a stage computes, as `resources` of a sweep say it."""
        names = ("compile", "channels_last", "fused_optimizer", "latents_on_device")
        return {name: getattr(self, name) for name in names}

    def training(self, training: TrainingConfig) -> TrainingConfig:
        """A training without end in this arithmetic, past its warm-up."""
        return dataclasses.replace(
            training,
            precision=self.precision,
            steps=ENDLESS,
            warmup_steps=0,
            constant_steps=0,
            schedule="constant",
            final_share=0.0,
        )


PLAIN = Variant(name="plain")

FACTORS: dict[str, dict[str, Any]] = {
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "fused optimizer": {"fused_optimizer": True},
    "channels last": {"channels_last": True},
    "resident latents": {"latents_on_device": True},
    "compile": {"compile": True},
}
"""A way to make a step faster."""


def ladder(names: Sequence[str]) -> list[Variant]:
    """Gives plain, plain with each factor alone, and with the factors added up in their order."""
    alone = [Variant(name=f"plain + {name}", **FACTORS[name]) for name in names]
    added, total = [], PLAIN
    for name in names:
        total = dataclasses.replace(total, name=f"all up to {name}", **FACTORS[name])
        added.append(total)
    # The first sum is the first factor alone.
    return [PLAIN, *alone, *added[1:]]


@final
@dataclass(kw_only=True)
class Case:
    """A variant with its operations, the loop to time, and what a training tells of itself."""

    variant: Variant
    loop: Callable[[], Work]
    """Makes the loop; called only where the case is measured."""
    flops: float | None = None
    """Operations an image, where they are counted."""
    convolutions: float = 0.0
    """Share of them that are convolutions."""
    waits: list[float] = field(default_factory=list)
    """Seconds that a training waited for data up to the end of each step."""
    slices: int = 1
    """Slices in which a training computed every batch."""


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
    """Seconds for the turns of one measurement: of all variants where they take turns, otherwise of
    each. What would take longer by estimate is left out; no further round begins after it."""
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

    def factors(self, *names: str) -> list[str]:
        """Lists what can make a step faster on this device, in the order of adding it up."""
        first = ["tf32"] if self.device.type == "cuda" else []
        return [*first, *names, *(["compile"] if self.compiled else [])]

    def compare(
        self,
        row: Row,
        cases: Sequence[Case],
        *,
        together: bool | None = None,
        to_first: bool = True,
    ) -> list[Row]:
        """Measures cases, each with the fields of `row`; what would take too long is left out.

        Args:
            together: Whether they take turns; None: as everywhere in this run.
            to_first: Whether the speed of each is compared with that of the first.
        """
        reasons = self.too_long(row, cases)
        if len(reasons) == len(cases):
            # Nothing is known of any variant then, so one row stands for all.
            reason = reasons[cases[0].variant.name]
            return [dataclasses.replace(row, status="skipped", reason=reason)]
        loops = {c.variant.name: c.loop() for c in cases if c.variant.name not in reasons}
        times = self.run(loops, self.together if together is None else together)
        plain = times.get(cases[0].variant.name) if to_first and len(cases) > 1 else None
        rows = []
        for case in cases:
            done, name = self._priced(row, case), case.variant.name
            if name in reasons:
                done = dataclasses.replace(done, status="skipped", reason=reasons[name])
            else:
                done = _told(self.row(done, times[name], plain), times[name], case)
            rows.append(done)
        return rows

    def row(self, row: Row, times: Times, plain: Times | None = None) -> Row:
        """Fills in the times of a row by the clock of this run."""
        return measured(row, times, plain, clock=self.clock, threads=self.threads)

    def run(self, loops: Mapping[str, Work], together: bool) -> dict[str, Times]:
        """Times loops in turns, or one after the other."""
        return turns.take_turns(
            loops,
            self.device,
            repeats=self.repeats,
            steps=self.steps,
            together=together,
            limit_s=self.limit_s,
        )

    def too_long(self, row: Row, cases: Sequence[Case]) -> dict[str, str]:
        """Tells why variants would take too long; of those that take turns, all do or none."""
        number = WARM_UP + min(self.repeats, FEWEST)
        rows = [self._priced(row, case) for case in cases]
        each_s = {row.variant: number * self._turn_s(row) for row in rows}
        if self.together:
            each_s = dict.fromkeys(each_s, sum(each_s.values()))
        return {
            variant: f"{number} turns would take some {expected_s:,.1f} s by their operations and "
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

    def _priced(self, row: Row, case: Case) -> Row:
        """The row of a case, with its operations and the peak that they are compared with."""
        row = dataclasses.replace(row, variant=case.variant.name)
        if case.flops is None:
            return row
        peak, name = self.peak(case.variant.precision, case.convolutions)
        return dataclasses.replace(
            row,
            precision=case.variant.precision,
            flops_per_image=case.flops,
            peak_flops=peak,
            peak_name=name,
        )

    def peak(self, precision: Precision, convolutions: float = 0.0) -> tuple[float, str]:
        """FLOP/s that a measurement is compared with, and where they come from.

        Of a known GPU the published ones. Otherwise those of a product of two square matrices in
        the same arithmetic and run, on one thread times the threads of this run. `convolutions` is
        their share of the operations: on fp32 numbers they are held to TF32 where cuDNN uses it for
        them, which is PyTorch's default.
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

    def calls(
        self,
        variant: Variant,
        make: Callable[[], Callable[[], object]],
        flops: float | None = None,
        convolutions: float = 0.0,
    ) -> Case:
        """Makes a case that calls one function, which is made in the loop's thread."""

        def work(pause: Pause) -> None:
            # Each Python thread has its own number of threads to compute with.
            torch.set_num_threads(self.threads)
            turns.repeated(make())(pause)

        return Case(variant=variant, loop=lambda: work, flops=flops, convolutions=convolutions)

    def training(
        self,
        stage: Stage,
        config: Any,
        variant: Variant,
        flops: float | None = None,
        *,
        convolutions: float = 0.0,
        inputs: Mapping[str, Artifact] | None = None,
    ) -> Case:
        """Makes a case of a stage's own training loop, that of `config` in the field named as the
        stage's kind; it reads `inputs`, or the stage's own."""
        part = getattr(config, stage.kind)
        training = variant.training(self.subject.batch_of(part.training))
        part = dataclasses.replace(part, training=training)
        config = dataclasses.replace(config, **{stage.kind: part})

        def loop() -> Work:
            return self._training_loop(case, stage, config, inputs or self.subject.inputs(stage))

        case = Case(variant=variant, loop=loop, flops=flops, convolutions=convolutions)
        return case

    def _training_loop(
        self, case: Case, stage: Stage, config: Any, inputs: Mapping[str, Artifact]
    ) -> Work:
        def work(pause: Pause) -> None:
            torch.set_num_threads(self.threads)
            # As in a sweep, a batch that the device has no memory for is computed in slices.
            while True:
                try:
                    return train(pause)
                except RuntimeError as error:
                    early = len(case.waits) < WARM_UP and case.slices < MOST_SLICES
                    if not early or classify(error) != "device_memory":
                        raise
                case.slices *= 2
                case.waits.clear()
                free_device_memory()

        def train(pause: Pause) -> None:
            def after_each() -> None:
                case.waits.append(context.data_wait_s or 0.0)
                pause()

            with self.subject.store.scratch(stage.kind, stage.key) as folder:
                context = StageContext(
                    inputs=inputs,
                    work=folder,
                    device=self.device,
                    resources=Resources(checkpoint_every_s=float(ENDLESS), **case.variant.settings),
                    after_each=after_each,
                    slices=case.slices,
                )
                with contextlib.closing(context):
                    registry.KINDS[stage.kind].run(config, context)

        return work


def _told(row: Row, times: Times, case: Case) -> Row:
    """The row with what its training told of slices and of waiting for data."""
    if row.status != "measured" or not case.waits:
        return row
    if case.slices > 1:
        why = "since the device has no memory for a whole one"
        notes = [row.reason, f"every batch in {case.slices} slices, {why}"]
        row = dataclasses.replace(row, reason="; ".join(filter(None, notes)))
    if times.in_rounds:
        # Batches are read ahead while another loop has its turn, and are not waited for.
        return row
    counted = sum(turn.steps for turn in times.turns)
    waited_s = case.waits[-1] - case.waits[-1 - counted]
    return dataclasses.replace(row, data_wait=waited_s / sum(turn.wall_s for turn in times.turns))


def _fastest_product(device: torch.device, precision: Precision, threads: int) -> float:
    """Measures FLOP/s of the best of several products of square matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left, right = (torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=device) for _ in range(2))
    if precision == "bf16":
        left, right = left.bfloat16(), right.bfloat16()
    best, until = 0.0, time.perf_counter() + MATMUL_S
    with arithmetic(precision, device):
        _ = left @ right
        while time.perf_counter() < until or best == 0.0:
            turns.wait_for(device)
            wall, cpu = time.perf_counter(), time.process_time()
            _ = left @ right
            turns.wait_for(device)
            seconds = time.perf_counter() - wall
            if device.type == "cpu":
                seconds = min(seconds, max(1e-9, (time.process_time() - cpu) / threads))
            best = max(best, 2 * MATMUL_SIDE**3 / seconds)
    torch.set_num_threads(before)
    return best
