"""Takes down of a plan what forecasts and later looks at the sweep need to know of it."""

import timeit
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import torch

from harness.config.resources import Resources, capacity_of
from harness.machine.environment import cpu_name
from harness.machine.metering import precision_of
from harness.plan.cost import estimate
from harness.plan.graph import stages_to_run
from harness.plan.plan import Plan
from harness.plan.requests import request_of
from harness.reporting.plan_record import Machine, PlanRecord, StageRecord, Work
from harness.results.names import stage_names
from harness.stages.registry import KINDS
from harness.stages.stage import Stage
from harness.storage.artifacts import Store


def record_of(plan: Plan, store: Store) -> PlanRecord:
    """The record of a plan; what its stages do is told of those that the store lacks."""
    to_run = set(stages_to_run(plan.stages, plan.read_keys, store))
    kinds = dict.fromkeys(stage.kind for stage in plan.stages)
    resources = {kind: request_of(kind, plan.sweep.file.resources) for kind in kinds}
    names = stage_names(plan)
    return PlanRecord(
        sweep=plan.sweep.file.name,
        stages=tuple(
            replace(
                record_of_stage(stage, open=stage in to_run),
                # What the sweep varies, which a stage's own label need not hold.
                label=names[stage.key].removeprefix(f"{stage.kind} "),
            )
            for stage in plan.stages
        ),
        rows={row.row_id: tuple(stage.key for stage in row.stages) for row in plan.rows},
        resources=resources,
        machine=this_machine(resources.values()),
        code=code_behind(plan),
    )


def code_behind(plan: Plan) -> dict[str, str]:
    """Identity of the user's own code behind a plan's stages."""
    return {name: found for stage in plan.stages for name, found in stage.code.items()}


def record_of_stage(stage: Stage, *, open: bool = True) -> StageRecord:
    """The record of one stage; of one that is open with what it is expected to do."""
    return StageRecord(
        kind=stage.kind,
        key=stage.key,
        label=stage.label,
        input_keys=stage.input_keys,
        work=_work(stage) if open else None,
    )


def _work(stage: Stage) -> Work | None:
    try:
        expected = estimate(stage)
    # Of no consequence here: the run refuses a network that cannot be built once it is to be run.
    except (ValueError, TypeError, RuntimeError, ArithmeticError):
        return None
    precision = precision_of(stage.config, convolves=KINDS[stage.kind].convolves)
    return Work(flops=expected.flops, images=expected.images, precision=precision)


def this_machine(requests: Iterable[Resources]) -> Machine:
    """What forecasts of stages with these requests need to know of this machine."""
    gpus = torch.cuda.device_count()
    # Asking for its name starts CUDA in this process, which stages on CPUs need not.
    asked = any(capacity_of(request, gpus).gpus > 0 for request in requests)
    return Machine(
        cpu=cpu_name(),
        gpu=torch.cuda.get_device_name(0) if asked and torch.cuda.is_available() else "",
        core_flops_per_s=matrix_product_flops_per_s(),
    )


@lru_cache(maxsize=1)
def matrix_product_flops_per_s() -> float:
    """Operations a second of one core in a matrix product of this machine; takes some 10 ms."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side = 384
        left = torch.ones(side, side)
        seconds = min(timeit.repeat(lambda: torch.mm(left, left), number=1, repeat=4))
    finally:
        torch.set_num_threads(threads)
    return 2 * side**3 / seconds
