"""What a run was expected to cost and did cost, what sharing stages saved, and what stood idle."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch

from harness.config.sweep import SweepFile
from harness.execution.stage_run import Outcome
from harness.plan.plan import Plan, PlannedRow, with_inputs
from harness.plan.requests import request_of
from harness.reporting.forecast import (
    ASSUMED_CPU_SHARE,
    ASSUMED_MFU,
    Forecast,
    History,
    Source,
    capacity_of,
)
from harness.reporting.overview import duration
from harness.results.events import Usage, usage
from harness.stages.stage import Stage
from harness.storage.artifacts import Store


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


def forecast_plan(
    stages: Sequence[Stage], file: SweepFile, history: History
) -> dict[str, Forecast]:
    """Key -> forecast, under the resources that the sweep file asks for."""
    gpus = torch.cuda.device_count()
    return {
        stage.key: history.forecast(
            stage, capacity_of(request_of(stage.kind, file.resources), gpus)
        )
        for stage in stages
    }


@final
@dataclass(frozen=True, kw_only=True)
class KindTime:
    """Device time that stages of one kind are expected to take."""

    kind: str
    stages: int
    on_gpu: bool
    """Whether it is time of GPUs; of CPU cores otherwise."""
    device_s: float | None
    """None where one of them has no forecast."""
    sources: Sequence[Source]
    """Where the forecasts come from."""


SOURCES: Mapping[Source, str] = {
    "measured": "from measured stages of this kind on like hardware",
    "device": "from measured stages of other kinds on like hardware",
    "assumed": f"FLOPs at an assumed {ASSUMED_MFU:.0%} of a GPU's peak, or {ASSUMED_CPU_SHARE:.0%} "
    "of a matrix product's rate on this CPU; nothing was measured",
    "unknown": "nothing is known of the device",
}
"""What is said of a forecast's source."""


def device_time(stages: Sequence[Stage], forecasts: Mapping[str, Forecast]) -> list[KindTime]:
    """Device time by kind, in the order of the stages."""
    groups: dict[str, list[Forecast]] = {}
    for stage in stages:
        groups.setdefault(stage.kind, []).append(forecasts[stage.key])
    return [
        KindTime(
            kind=kind,
            stages=len(group),
            on_gpu=any(each.on_gpu for each in group),
            device_s=_sum([each.device_s for each in group]),
            sources=list(dict.fromkeys(each.source for each in group)),
        )
        for kind, group in groups.items()
    ]


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum, or None where one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def settle(
    plan: Plan,
    store: Store,
    outcomes: Mapping[str, Outcome],
    expected: Mapping[str, Forecast],
    events: Sequence[Mapping[str, Any]],
) -> Bill:
    """The bill of a run that has ended, from the recorded costs of its stages.

    Args:
        plan: All stages and rows of the sweep.
        store: Where the artifacts lie.
        outcomes: How the stages of this run ended.
        expected: Forecasts that were made before it began.
        events: Its events.
    """
    costs = recorded_costs(plan.stages, store)
    made = [s for s in plan.stages if s.key in outcomes and outcomes[s.key].status == "done"]
    kinds: dict[str, KindBill] = {}
    for kind in dict.fromkeys(stage.kind for stage in made):
        ours = [stage for stage in made if stage.kind == kind and stage.key in costs]
        forecasts = [expected[s.key].device_s if s.key in expected else None for s in ours]
        kinds[kind] = KindBill(
            stages=len(ours),
            expected_s=_sum(forecasts),
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
    alone_s = sum(
        device_seconds(costs[stage.key])
        for stages in trials.values()
        for stage in stages
        if stage.key in costs
    )
    shared = {stage.key for stages in trials.values() for stage in stages}
    return alone_s, sum(device_seconds(costs[key]) for key in shared if key in costs)


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
