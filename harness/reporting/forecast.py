"""How long stages will take: from stages that were measured on like hardware, else from FLOPs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from harness.config.resources import Capacity
from harness.machine.devices import peak_flops
from harness.plan.graph import N, critical_paths
from harness.reporting.plan_record import Machine, StageRecord, Work
from harness.reporting.stage_states import OPEN, StageState
from harness.storage.artifacts import Store
from harness.storage.costs import read_costs

Source = Literal["measured", "device", "assumed", "unknown"]
"""Where a forecast comes from: `measured`: the nearest stage of its kind on this kind of device;
`device`: the rate of all other kinds on it; `assumed`: an assumed share of what the device can do;
`unknown`: nothing is known of the device."""

ASSUMED_MFU = 0.3
"""Share of a GPU's peak that is assumed where nothing was measured."""
ASSUMED_CPU_SHARE = 0.1
"""Share of a large matrix product's rate that is assumed on a CPU: what the small networks of the
embedded sweep reached (results/LOG.md)."""

RATE_EXPONENT = 0.3
"""How the rate grows with the operations an image: small networks leave more of a device unused.
In the embedded sweep `nano`, of 2.9 times the operations of `pico`, takes 1.6 times as long."""


@final
@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long one stage will take."""

    wall_s: float | None
    """Seconds; None where nothing is known."""
    device_s: float | None
    """Seconds times GPUs, or CPU cores where it holds no GPU."""
    source: Source
    on_gpu: bool = False
    """Whether it is time of a GPU."""


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    """Cost of a finished stage."""

    kind: str
    device: str
    """Name of the device, as its environment has it."""
    devices: float
    """GPUs, or CPU cores where it held no GPU."""
    flops: float
    """Analytic estimate of its operations."""
    images: int
    """Images that it worked through; 0 where unknown."""
    useful_s: float
    """Seconds that led to the artifact."""
    on_gpu: bool = False
    """Whether the device is a GPU."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Measured | None":
        """From `artifact.json`; None where it does not say enough, as older ones."""
        try:
            cost = record["cost"]
            devices = cost["gpus"] or cost["cpus"] * cost.get("workers", 1)
            return cls(
                kind=record["kind"],
                device=record["environment"]["device"],
                devices=float(devices),
                flops=float(cost["estimated_flops"]),
                images=int(cost.get("images", 0)),
                useful_s=float(cost["wall_s"]) - float(cost.get("lost_s", 0.0)),
                on_gpu=cost["gpus"] > 0,
            )
        except (KeyError, TypeError, ValueError):
            return None


@final
class History:
    """Stages that were measured, and the machine that further ones will run on."""

    def __init__(self, machine: Machine, measured: Iterable[Measured] = ()) -> None:
        self.machine, self.measured = machine, list(measured)
        self.earlier = tuple(self.measured)
        """Those that this run has not measured itself."""
        self._took_s = self._expected_s = 0.0

    @classmethod
    def of(cls, store: Store, machine: Machine) -> "History":
        """What a store tells of finished stages; what cannot be read is left out."""
        found = map(Measured.of, read_costs(store.root))
        return cls(machine, (one for one in found if one and one.useful_s > 0))

    def add(self, record: Mapping[str, Any]) -> None:
        """Take note of one more artifact of this run, by its record."""
        measured = Measured.of(record)
        if measured and measured.useful_s > 0:
            self.measured.append(measured)
            before = _nearest(self.earlier, measured.kind, measured.device, measured)
            if before and before.flops and measured.flops:
                self._took_s += measured.useful_s * measured.devices
                self._expected_s += measured.flops / _rate_for(before, measured)

    def device_for(self, held: Capacity) -> str:
        """Name of the device that a stage would run on, empty if not known. For a machine without a
        GPU, which may drive a cluster of them, the GPU measured last stands in."""
        if held.gpus <= 0:
            return self.machine.cpu
        measured = (one.device for one in reversed(self.measured) if one.on_gpu)
        return self.machine.gpu or next(measured, "")

    def forecast(self, stage: StageRecord, held: Capacity) -> Forecast:
        """How long a stage will take on the CPU cores and GPUs of all its workers together."""
        device, expected = self.device_for(held), stage.work
        on_gpu, devices = held.gpus > 0, held.gpus or held.cpus
        if expected is None:
            return Forecast(wall_s=None, device_s=None, source="unknown", on_gpu=on_gpu)
        here = [one for one in self.measured if one.device == device]
        nearest = _nearest(self.measured, stage.kind, device, expected)
        seconds: float | None = None
        source: Source = "unknown"
        if nearest:
            rate = _rate_for(nearest, expected)
            if self._expected_s and nearest in self.earlier:
                # Cores may be busier now than they were then.
                rate *= self._expected_s / self._took_s
            # Where nothing is counted, it takes the nearest one's own seconds.
            source, seconds = "measured", nearest.useful_s
        elif expected.flops and (rate := _rate(here)):
            source = "device"
        elif rate := self._assumed_rate(expected, held, device):
            source, seconds = "assumed", 0.0
        if expected.flops > 0 and rate:
            seconds = expected.flops / (rate * devices)
        device_s = None if seconds is None else seconds * devices
        return Forecast(wall_s=seconds, device_s=device_s, source=source, on_gpu=on_gpu)

    def _assumed_rate(self, expected: Work, held: Capacity, device: str) -> float | None:
        if held.gpus > 0:
            peak = peak_flops(device, expected.precision)
            return None if peak is None else ASSUMED_MFU * peak
        return ASSUMED_CPU_SHARE * self.machine.core_flops_per_s


def _rate(stages: Sequence[Measured]) -> float:
    """Operations a second of one device over all these stages; 0 without any."""
    device_s = sum(one.useful_s * one.devices for one in stages)
    return sum(one.flops for one in stages) / device_s if device_s > 0 else 0.0


def _nearest(
    among: Sequence[Measured], kind: str, device: str, expected: Work | Measured
) -> Measured | None:
    """Of those equally near the last, which this run has measured on cores as busy as now."""
    like = [one for one in reversed(among) if (one.kind, one.device) == (kind, device)]
    return min(like, key=lambda one: _distance(one, expected), default=None)


def _rate_for(one: Measured, expected: Work | Measured) -> float:
    """Operations a second of one device, from a stage like it."""
    return _rate([one]) * _ratio(one, expected) ** RATE_EXPONENT


def _distance(one: Measured, expected: Work | Measured) -> tuple[float, float]:
    """How far apart two stages are: first by their operations an image, then in all."""
    total = math.log((expected.flops + 1) / (one.flops + 1))
    return abs(math.log(_ratio(one, expected))), abs(total)


def _ratio(one: Measured, expected: Work | Measured) -> float:
    """How many times its operations an image are expected; in all, where images are unknown."""
    images = (expected.images, one.images) if expected.images and one.images else (1, 1)
    return (expected.flops / images[0] + 1) / (one.flops / images[1] + 1)


def sum_if_known(values: Sequence[float | None]) -> float | None:
    """The sum, or None where one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def remaining_s(
    stages: Sequence[N],
    seconds: Mapping[str, float],
    held: Callable[[N], Capacity],
    total: Capacity | None,
) -> float:
    """Seconds until a graph ends: its critical path, or its work over all places if that is longer.

    A lower bound that a good schedule comes close to.

    Args:
        stages: What is not finished, inputs first.
        seconds: Key -> seconds that it needs yet.
        total: What the machine or cluster has; None where it is not known.
    """
    longest = max(critical_paths(stages, lambda s: seconds[s.key]).values(), default=0.0)
    if total is None:
        return longest
    bounds = [longest]
    if total.cpus > 0:
        bounds.append(sum(seconds[s.key] * held(s).cpus for s in stages) / total.cpus)
    if total.gpus > 0:
        bounds.append(sum(seconds[s.key] * held(s).gpus for s in stages) / total.gpus)
    return max(bounds)


def seconds_left(
    stage: StageRecord, state: StageState, history: History, held: Capacity
) -> float | None:
    """Seconds that a stage needs yet: as it says itself, else as expected; None if unknown."""
    if state.state in ("running", "interrupted") and "eta_s" in state.progress:
        return float(state.progress["eta_s"])
    expected = history.forecast(stage, held).wall_s
    if expected is None:
        return None
    return max(0.0, expected - (state.running_s or 0.0))


def seconds_to_end(
    stages: Sequence[StageRecord],
    states: Mapping[str, StageState],
    history: History,
    held: Callable[[StageRecord], Capacity],
    total: Capacity | None,
) -> float | None:
    """Seconds until the last open stage has ended, if nothing fails.

    Args:
        stages: Inputs first.
        total: What the machine or cluster has; None where it is not known.

    Returns:
        None where nothing is open, or the length of a stage is not known.
    """
    left = [stage for stage in stages if states[stage.key].state in OPEN]
    seconds: dict[str, float] = {}
    for stage in left:
        expected = seconds_left(stage, states[stage.key], history, held(stage))
        if expected is None:
            return None
        seconds[stage.key] = expected
    return remaining_s(left, seconds, held, total) if left else None
