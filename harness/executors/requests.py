"""Turns requests into demands on machines, and says whether these can ever meet them.

Imports no Ray.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import floor

from harness.config.resources import Resources
from harness.executors.interface import Capacity
from harness.schema.reading import ConfigError

SLACK = 1e-6
"""Tolerance in comparing amounts: fractions of a GPU don't add up to exactly one."""
MARK = 1e-3
"""Share of a machine's accelerator mark that a worker takes, as Ray does."""

Amounts = Mapping[str, float]
"""Resource (`CPU`, `GPU`, `memory` [bytes], `accelerator_type:H100`) -> amount."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Workers of one stage, and the amounts that each of them holds on its machine."""

    workers: int = 1
    each: Amounts

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""
        return self.each.get("GPU", 0.0)

    @property
    def held(self) -> Capacity:
        """CPUs and GPUs of all workers together."""
        return Capacity(cpus=self.workers * self.each["CPU"], gpus=self.workers * self.gpus)

    def __str__(self) -> str:
        names = {"CPU": "CPUs", "GPU": "GPUs"}
        parts = []
        for name, amount in self.each.items():
            if name == "memory":
                parts.append(f"{amount / 2**30:g} GiB memory")
            elif name in names:
                parts.append(f"{amount:g} {names[name]}")
            else:
                parts.append(name.replace("accelerator_type:", "GPUs of type "))
        one = ", ".join(parts)
        return f"{self.workers} workers with {one} each" if self.workers > 1 else one


def demand_of(request: Resources, gpus_at_hand: float) -> Demand:
    """Make the demand of a request; the GPUs of the machine or cluster decide what `auto` means."""
    gpus = min(1.0, gpus_at_hand) if request.gpus == "auto" else float(request.gpus)
    each = {"CPU": float(request.cpus)}
    if gpus > 0:
        # Several GPUs are several workers with one each; a part of one is shared.
        each["GPU"] = min(1.0, gpus)
    if request.accelerator_type and request.gpus != 0:
        # Also where there is no GPU: such a machine is not the one that was asked for.
        each[f"accelerator_type:{request.accelerator_type}"] = MARK
    if request.memory_gib is not None:
        each["memory"] = request.memory_gib * 2**30
    return Demand(workers=max(1, int(gpus)) if gpus > 0 else request.workers, each=each)


def slots(amounts: Amounts, each: Amounts) -> int:
    """How many workers that hold `each` fit into these amounts."""
    return max(0, min(floor(amounts.get(n, 0.0) / need + SLACK) for n, need in each.items()))


def as_packed(each: Amounts) -> dict[str, float]:
    """Amounts as a machine spends them: two stages of 0.6 GPU need two GPUs, not 1.2."""
    gpus = each.get("GPU", 0.0)
    return {**each, "GPU": 1 / floor(1 / gpus + SLACK)} if gpus > 0 else dict(each)


def side_by_side(demand: Demand, machines: Sequence[Amounts]) -> int:
    """How many such stages run at a time where nothing else does; at least one."""
    workers = sum(slots(machine, as_packed(demand.each)) for machine in machines)
    return max(1, workers // demand.workers)


def is_possible(demand: Demand, machines: Sequence[Amounts]) -> bool:
    """Whether these machines, all idle, hold the stage."""
    return sum(slots(machine, as_packed(demand.each)) for machine in machines) >= demand.workers


def refuse_impossible(
    kinds: Collection[str],
    demands: Mapping[str, Demand],
    machines: Sequence[Amounts],
    *,
    shared: bool,
) -> None:
    """Refuse, with ConfigError, requests that no machine can meet, since Ray would wait for ever;
    `shared` machines are a cluster's, which others may join."""
    hint = ", or run on a cluster with larger machines (`--address HOST:PORT`)"
    if shared:
        hint = (
            ", join larger machines, or give --wait-for-nodes where machines join later "
            "(autoscaling)"
        )
    sizes = ", ".join(f"{m.get('CPU', 0):g}/{m.get('GPU', 0):g}" for m in machines) or "none"
    for kind in sorted(kinds):
        demand = demands[kind]
        if is_possible(demand, machines):
            continue
        one = "" if demand.workers > 1 else " on one machine"
        each = {name.partition(":")[0]: {name: need} for name, need in demand.each.items()}
        lacked = [n for n in each if not any(slots(machine, each[n]) for machine in machines)]
        fewer = "gpus=auto" if demand.gpus else "workers=1" if demand.workers > 1 else "cpus=1"
        lesser = {"memory": "memory_gib=null", "accelerator_type": "accelerator_type='\"\"'"}
        fewer = lesser.get(lacked[-1] if lacked else "", fewer)
        raise ConfigError(
            f"asks for {demand}{one}, but the machines have {sizes} (CPUs/GPUs); lower the request "
            f"(`--set resources.{kind}.{fewer}`){hint}",
            path=f"resources.{kind}",
        )
