"""Description of a plan, read before a run: stages to run and reuse, and cost, as JSON and text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from harness.config.resources import Resources, capacity_of
from harness.config.sweep import SweepFile
from harness.machine.devices import memory_bytes
from harness.plan.cost import estimate
from harness.plan.plan import Plan
from harness.plan.requests import request_of
from harness.reporting.forecast import (
    ASSUMED_CPU_SHARE,
    ASSUMED_MFU,
    Forecast,
    History,
    Source,
    sum_if_known,
)
from harness.reporting.recording import record_of_stage, this_machine
from harness.reporting.words import byte_count, columns, duration
from harness.stages.generation import guidance_label
from harness.stages.stage import Activations, Stage
from harness.storage.artifacts import Store

COMPILED_SHARE = 0.54
"""Of the activations that a network keeps, about what it keeps where it is compiled: what costs
little is computed again. An XL took 94 GiB for 256 images in bf16 on an emulated GPU."""
USABLE = 0.85
"""Share of a device's memory that is left for this: gradients on their way and the networks of a
loss need some."""

SOURCES: Mapping[Source, str] = {
    "measured": "from measured stages of this kind on like hardware",
    "device": "from measured stages of other kinds on like hardware",
    "assumed": f"FLOPs at an assumed {ASSUMED_MFU:.0%} of a GPU's peak, or {ASSUMED_CPU_SHARE:.0%} "
    "of a matrix product's rate on this CPU; nothing was measured",
    "unknown": "nothing is known of the device",
}
"""Words for the source of a forecast."""


def describe_plan(
    plan: Plan, store: Store, to_run: Sequence[Stage], missing: Sequence[str], gpu: str = ""
) -> dict[str, Any]:
    """The plan as JSON-able values; `plan_text` words it."""
    running = {stage.key for stage in to_run}
    forecasts = forecast_plan(to_run, plan.sweep.file, store, gpu)
    stages = []
    here = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    device_bytes = memory_bytes(gpu) if gpu else here
    for stage in plan.stages:
        expected, slices, needed = estimate(stage), None, None
        if stage.key in running and (activations := expected.activations()):
            request = request_of(stage.kind, plan.sweep.file.resources)
            slices, needed = fitting_slices(
                activations, expected.state_bytes, request, device_bytes
            )
        present = store.find(stage.kind, stage.key) is not None
        state = "run" if stage.key in running else "reuse" if present else "not needed"
        stages.append(
            {
                "kind": stage.kind,
                "label": stage.label,
                "key": stage.key,
                "state": state,
                "parameters": expected.parameters,
                "estimated_flops": expected.flops,
                "estimated_disk_bytes": expected.disk_bytes,
                "estimated_state_bytes": expected.state_bytes,
                "estimated_memory_bytes": needed,
                "slices": slices,
                "forecast": asdict(forecasts[stage.key]) if stage.key in forecasts else None,
                "inputs": {name: s.key for name, s in stage.inputs.items()},
            }
        )
    parameters = {stage["key"]: stage["parameters"] for stage in stages}
    rows = [
        {
            "row_id": row.row_id,
            "trial_id": row.trial_id,
            "axes": dict(row.axes),
            "step": row.generator.step if row.generator else None,
            "guidance": guidance_label(row.generator.guidance) if row.generator else None,
            "tokenizer_parameters": parameters.get(row.tokenizer.key),
            "generator_parameters": parameters.get(row.generator.training.key)
            if row.generator
            else None,
        }
        for row in plan.rows
    ]
    chosen = [stage for stage in stages if stage["state"] == "run"]
    return {
        "sweep": plan.sweep.file.name,
        "stages": stages,
        "rows": rows,
        "to_run": len(chosen),
        "to_reuse": sum(stage["state"] == "reuse" for stage in stages),
        "estimated_flops": sum(stage["estimated_flops"] for stage in chosen),
        "estimated_disk_bytes": sum(stage["estimated_disk_bytes"] for stage in chosen),
        "device_time": device_time(to_run, forecasts),
        "assumed_device": gpu,
        "device_memory_bytes": device_bytes,
        "missing": list(missing),
    }


def forecast_plan(
    stages: Sequence[Stage], file: SweepFile, store: Store, gpu: str = ""
) -> dict[str, Forecast]:
    """Key -> forecast under the file's resources; `gpu` names one in place of this machine's."""
    requests = {stage.kind: request_of(stage.kind, file.resources) for stage in stages}
    machine, gpus = this_machine(requests.values()), torch.cuda.device_count()
    if gpu:
        machine, gpus = replace(machine, gpu=gpu), max(gpus, 1)
    history = History.of(store, machine)
    held = {kind: capacity_of(request, gpus) for kind, request in requests.items()}
    return {s.key: history.forecast(record_of_stage(s), held[s.kind]) for s in stages}


def fitting_slices(
    activations: Activations, state_bytes: float, request: Resources, device_bytes: float | None
) -> tuple[int | None, float]:
    """Slices in which a training will run on a device, as it doubles them, and bytes that it needs.
    There is no such number where single images do not fit; on no device it is what is asked for."""
    gpus = 0.0 if request.gpus == "auto" else request.gpus
    workers = max(request.workers, math.ceil(gpus))
    share = COMPILED_SHARE if request.compile else 1.0
    if request.activation_checkpointing and activations.recomputed is not None:
        # Of what is computed again, a compiler leaves out nothing.
        activations, share = replace(activations, sliced=activations.recomputed), 1.0
    slices, most = request.slices, -(-activations.training.batch_size // workers)
    state_bytes /= workers if request.shard else 1
    while True:
        needed = state_bytes + share * activations.needed(slices, workers)
        # A part of a GPU has that part of its memory.
        if device_bytes is None or needed <= USABLE * device_bytes * (gpus if 0 < gpus < 1 else 1):
            return slices, needed
        if slices >= most:
            return None, needed
        slices = min(2 * slices, most)


def device_time(stages: Sequence[Stage], forecasts: Mapping[str, Forecast]) -> list[dict[str, Any]]:
    """Device time that the stages of each kind are expected to take, in the order of the stages.

    Of each `kind` the number of `stages`, whether it is time of GPUs (`on_gpu`; of CPU cores
    otherwise), seconds (`device_s`, None where one has no forecast) and the forecasts' `sources`.
    """
    groups: dict[str, list[Forecast]] = {}
    for stage in stages:
        groups.setdefault(stage.kind, []).append(forecasts[stage.key])
    return [
        {
            "kind": kind,
            "stages": len(group),
            "on_gpu": any(each.on_gpu for each in group),
            "device_s": sum_if_known([each.device_s for each in group]),
            "sources": list(dict.fromkeys(each.source for each in group)),
        }
        for kind, group in groups.items()
    ]


def plan_text(described: Mapping[str, Any]) -> str:
    """A plan for people: stages, rows, totals and what is missing."""
    lines = [f"plan of {described['sweep']}", ""]
    heading = ("stage", "state", "parameters", "FLOPs", "memory", "slices", "disk", "what")
    stages = [
        (
            stage["kind"],
            stage["state"],
            f"{stage['parameters']:,}" if stage["parameters"] else "",
            f"{stage['estimated_flops']:.2e}",
            byte_count(stage["estimated_memory_bytes"] or stage["estimated_state_bytes"])
            if stage["estimated_state_bytes"]
            else "",
            "" if not stage["estimated_memory_bytes"] else str(stage["slices"] or "too large"),
            byte_count(stage["estimated_disk_bytes"]),
            stage["label"],
        )
        for stage in described["stages"]
    ]
    lines += columns([heading, *stages])
    memory = described["device_memory_bytes"]
    on = f"on a device with {byte_count(memory)}" if memory else "as are asked for"
    lines += [
        "memory: of the device, estimated: weights, gradients, optimiser state and averages, and",
        f"the activations of trainings, every batch in so many slices {on}",
    ]
    lines += ["", f"{len(described['rows'])} rows:"]
    several_steps = len({row["step"] for row in described["rows"]} - {None}) > 1
    for row in described["rows"]:
        axes = ", ".join(f"{axis} {value}" for axis, value in row["axes"].items())
        step = f"step {row['step']}, " if several_steps else ""
        sampled = f"{step}guidance {row['guidance']}" if row["guidance"] else "tokenizer only"
        lines.append(f"  {row['row_id']}  {axes or 'one trial'}, {sampled}")
    lines += [
        "",
        f"{described['to_run']} stages to run, {described['to_reuse']} to reuse; estimated "
        f"{described['estimated_flops']:.2e} FLOPs and "
        f"{byte_count(described['estimated_disk_bytes'])} on disk",
    ]
    lines += _device_time_lines(described["device_time"], described["assumed_device"])
    if described["missing"]:
        lines += ["", "missing, and needed before this can run:"]
        lines += [f"  - {item}" for item in described["missing"]]
    return "\n".join(lines)


def _device_time_lines(kinds: Sequence[Mapping[str, Any]], gpu: str) -> list[str]:
    lines = []
    for kind in kinds:
        time = "unknown" if kind["device_s"] is None else duration(kind["device_s"])
        device = "GPU" if kind["on_gpu"] else "CPU core"
        lines.append(
            f"  {kind['kind']}: {kind['stages']} stages, {time} of one {device} "
            f"({', '.join(kind['sources'])})"
        )
    if not lines:
        return []
    for on_gpu, device in ((True, "GPU"), (False, "CPU core")):
        times = [kind["device_s"] for kind in kinds if kind["on_gpu"] == on_gpu]
        if times:
            known = sum(time for time in times if time is not None)
            more = ", and what is unknown" if None in times else ""
            lines.append(f"  in total: {duration(known)} of one {device}{more}")
    sources = dict.fromkeys(source for kind in kinds for source in kind["sources"])
    head = f"device time, on {gpu} where a GPU is held:" if gpu else "device time:"
    return ["", head, *lines, *(f"  {name}: {SOURCES[name]}" for name in sources)]
