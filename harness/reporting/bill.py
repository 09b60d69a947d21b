"""The bill of a run: expected and actual cost, savings by shared stages, and idle time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

from harness.execution.stage_run import Outcome
from harness.plan.plan import Plan, PlannedRow, with_inputs
from harness.reporting.forecast import Forecast, sum_if_known
from harness.reporting.words import duration
from harness.stages.stage import Stage
from harness.storage.artifacts import Store


@final
@dataclass(frozen=True, kw_only=True)
class Usage:
    """How well a run used its machines, in seconds times devices."""

    wall_s: float
    """From the first stage's start to the last one's end."""
    capacity_s: float
    """Devices that were there, times seconds."""
    busy_s: float
    """Devices that stages held, times seconds."""

    @property
    def idle_s(self) -> float:
        """Devices that nothing held, times seconds."""
        return max(0.0, self.capacity_s - self.busy_s)


@final
@dataclass(frozen=True, kw_only=True)
class KindBill:
    """Stages of one kind that this run has executed."""

    stages: int
    expected_s: float | None
    """Device seconds that were expected; None where one of them had no forecast."""
    actual_s: float
    """Device seconds that they took: GPUs, or CPU cores where they held no GPU."""
    flops: float
    """Analytic estimate of their operations."""


@final
@dataclass(frozen=True, kw_only=True)
class Bill:
    """One run of a sweep."""

    kinds: Mapping[str, KindBill] = field(default_factory=dict)
    alone_s: float = 0.0
    """Device seconds if every row's trial had trained and measured all of its stages by itself."""
    shared_s: float = 0.0
    """Device seconds of the same stages, each made once."""
    use: Mapping[str, Usage] = field(default_factory=dict)
    """`cpus` and `gpus` -> how well they were used."""

    @property
    def saved_s(self) -> float:
        """Device seconds that sharing stages between trials saved."""
        return self.alone_s - self.shared_s

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "kinds": {kind: asdict(bill) for kind, bill in self.kinds.items()},
            "device_s_alone": self.alone_s,
            "device_s_shared": self.shared_s,
            "device_s_saved": self.saved_s,
            "use": {name: {**asdict(one), "idle_s": one.idle_s} for name, one in self.use.items()},
        }


def settle(
    plan: Plan,
    store: Store,
    outcomes: Mapping[str, Outcome],
    expected: Mapping[str, Forecast],
    events: Sequence[Mapping[str, Any]],
) -> Bill:
    """The bill of a run that has ended, from the recorded costs of its stages."""
    costs = recorded_costs(plan.stages, store)
    made = [s for s in plan.stages if s.key in outcomes and outcomes[s.key].status == "done"]
    kinds: dict[str, KindBill] = {}
    for kind in dict.fromkeys(stage.kind for stage in made):
        ours = [stage for stage in made if stage.kind == kind and stage.key in costs]
        forecasts = [expected[s.key].device_s if s.key in expected else None for s in ours]
        kinds[kind] = KindBill(
            stages=len(ours),
            expected_s=sum_if_known(forecasts),
            actual_s=sum(device_seconds(costs[stage.key]) for stage in ours),
            flops=sum(costs[stage.key]["estimated_flops"] for stage in ours),
        )
    alone_s, shared_s = savings(plan.rows, costs)
    use = {name: usage(events, name) for name in ("cpus", "gpus")}
    return Bill(
        kinds=kinds,
        alone_s=alone_s,
        shared_s=shared_s,
        use={name: one for name, one in use.items() if one is not None and one.capacity_s > 0},
    )


def usage(events: Sequence[Mapping[str, Any]], device: str) -> Usage | None:
    """How much of the `cpus` or `gpus` one run's stages held; None where that was not told."""
    holding: dict[str, tuple[float, float]] = {}
    first = last = total_since = None
    total = capacity_s = busy_s = 0.0
    for event in events:
        if not event["event"].startswith("stage_"):
            continue
        now, key = float(event["elapsed_s"]), event["key"]
        if "total" in event:
            if total_since is not None:
                capacity_s += total * (now - total_since)
            total, total_since = float(event["total"][device]), now
        ends = event["event"] in ("stage_ended", "stage_waiting", "stage_again")
        if key in holding and (ends or "held" in event):
            since, held = holding.pop(key)
            busy_s += held * (now - since)
            last = now
        if "held" in event:
            holding[key] = (now, float(event["held"][device]))
            first = now if first is None else first
    if first is None or last is None or total_since is None:
        return None
    capacity_s += total * max(0.0, last - total_since)
    return Usage(wall_s=last - first, capacity_s=capacity_s, busy_s=busy_s)


def recorded_costs(stages: Sequence[Stage], store: Store) -> dict[str, Mapping[str, Any]]:
    """Key -> recorded cost, of the stages that are in the store."""
    artifacts = {stage.key: store.find(stage.kind, stage.key) for stage in stages}
    return {key: found.record["cost"] for key, found in artifacts.items() if found is not None}


def savings(
    rows: Sequence[PlannedRow], costs: Mapping[str, Mapping[str, Any]]
) -> tuple[float, float]:
    """Device seconds of rows whose trials share nothing, and of the same rows as they were made.

    Snapshots and guidance settings of one trial share its stages either way; what trials share
    with each other is what is saved. Only what has been measured is counted, on both sides.
    """
    trials: dict[str, set[Stage]] = {}
    for row in rows:
        trials.setdefault(row.trial_id, set()).update(with_inputs(row.stages))
    keys = [stage.key for stages in trials.values() for stage in stages if stage.key in costs]
    seconds = {key: device_seconds(costs[key]) for key in keys}
    return sum(seconds[key] for key in keys), sum(seconds.values())


def device_seconds(cost: Mapping[str, Any]) -> float:
    """Device seconds of a recorded cost, also of one that was recorded before they were."""
    if "device_s" in cost:
        return float(cost["device_s"])
    return float(cost["wall_s"]) * float(cost["gpus"] or cost["cpus"])


def bill_lines(bill: Bill) -> list[str]:
    """The bill in words."""
    lines = []
    for kind, one in bill.kinds.items():
        expected = "no estimate" if one.expected_s is None else f"{duration(one.expected_s)} est."
        lines.append(
            f"  {kind}: {one.stages} stages, {duration(one.actual_s)} of device time ({expected})"
        )
    if bill.alone_s > 0:
        lines.append(
            f"shared stages: {duration(bill.shared_s)} of device time in place of "
            f"{duration(bill.alone_s)} for every trial by itself, {duration(bill.saved_s)} saved "
            f"({bill.saved_s / bill.alone_s:.0%})"
        )
    for name, one in bill.use.items():
        shown = f"{name[:-1].upper()}s"
        lines.append(
            f"{shown}: {duration(one.busy_s)} of {duration(one.capacity_s)} "
            f"busy ({one.busy_s / one.capacity_s:.0%}), {duration(one.idle_s)} idle"
        )
    return lines
