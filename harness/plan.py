"""From a sweep to its stages, a graph without duplicates, and the rows they lead to."""

import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.configuration import ConfigError
from harness.keys import content_hash
from harness.stages import registry
from harness.stages.encoder import EncoderStage
from harness.stages.generation import GenerationStage
from harness.stages.generator import GeneratorStage
from harness.stages.latents import LatentsStage
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.reference import ReferenceStage
from harness.stages.tokenizer import TokenizerStage
from harness.stages.weights import describe_weights
from harness.store import Store
from harness.sweep import Point, Sweep, weak_trial
from harness.trial import AlignedWith, AutoGuidanceWith, Guidance, REPAWith, Trial


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One node of work. Equal keys mean equal artifacts."""

    kind: str
    config: Any
    """The stage kind's configuration: what it reads, and nothing else."""
    inputs: Mapping[str, "Stage"]
    """Stages it depends on, by the name under which it reads their artifacts."""
    label: str
    """What it is, in words, for people; it enters no key."""
    key: str = field(init=False)
    """sha256 of kind, numerics version, configuration and the keys of the inputs."""

    def __post_init__(self) -> None:
        key = content_hash(
            {
                "kind": self.kind,
                "version": registry.KINDS[self.kind].version,
                "config": self.config,
                "inputs": {name: stage.key for name, stage in self.inputs.items()},
            }
        )
        object.__setattr__(self, "key", key)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One line of the table and the stages whose artifacts it is made of."""

    row_id: str
    trial_id: str
    axes: Mapping[str, Any]
    trial: Trial
    step: int
    """Training step of the generator's snapshot."""
    guidance: Guidance
    tokenizer: Stage
    reconstruction: Stage
    generator: Stage
    generation: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that the row reads."""
        extractor = self.generation.inputs["extractor"]
        return self.tokenizer, self.reconstruction, self.generator, self.generation, extractor


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Stages in an order in which inputs come first, and rows."""

    sweep: Sweep
    stages: tuple[Stage, ...]
    rows: tuple[PlannedRow, ...]

    def restricted_to(self, kind: str) -> "Plan":
        """The stages of one kind and all they depend on; the rows stay."""
        wanted = with_inputs(stage for stage in self.stages if stage.kind == kind)
        return dataclasses.replace(self, stages=tuple(s for s in self.stages if s in wanted))


def make_plan(sweep: Sweep) -> Plan:
    """Derive every stage and row of a sweep.

    Raises:
        ConfigError: A weaker model for guidance cannot be built or lives in other latents.
    """
    rows: list[PlannedRow] = []
    try:
        for point in sweep.points:
            rows += _plan_point(sweep, point)
    except ConfigError as error:
        raise error.within(source=sweep.source) from error
    needed = with_inputs(stage for row in rows for stage in row.stages)
    return Plan(sweep=sweep, stages=tuple(in_order(needed)), rows=tuple(rows))


def with_inputs(stages: Iterable[Stage]) -> set[Stage]:
    """The stages and everything they depend on, each once."""
    found: dict[str, Stage] = {}
    waiting = list(stages)
    while waiting:
        stage = waiting.pop()
        if stage.key not in found:
            found[stage.key] = stage
            waiting += stage.inputs.values()
    return set(found.values())


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """Inputs before what needs them; kinds in the order of the data flow, then by label."""
    kinds = list(registry.KINDS)
    rank = {s.key: (kinds.index(s.kind), s.label, s.key) for s in stages}
    by_key = {s.key: s for s in stages}
    open_inputs = {
        k: {i.key for i in s.inputs.values() if i.key in by_key} for k, s in by_key.items()
    }
    ready = [(rank[key], key) for key, inputs in open_inputs.items() if not inputs]
    heapq.heapify(ready)
    ordered: list[Stage] = []
    while ready:
        _, key = heapq.heappop(ready)
        ordered.append(by_key[key])
        for other, inputs in open_inputs.items():
            if key in inputs:
                inputs.discard(key)
                if not inputs:
                    heapq.heappush(ready, (rank[other], other))
    return ordered


def descendants(stages: Sequence[Stage], key: str) -> set[str]:
    """Keys of all stages that depend on `key`, directly or not."""
    found: set[str] = set()
    for stage in stages:
        if any(i.key == key or i.key in found for i in stage.inputs.values()):
            found.add(stage.key)
    return found


def stages_to_run(plan: Plan, store: Store) -> list[Stage]:
    """Stages that lead to something the plan wants and whose artifacts are not in the store.

    An intermediate artifact that was removed is not made again where nothing needs it any more.
    """
    missing = {s for s in plan.stages if not store.find(s.kind, s.key)}
    inner = {i for stage in plan.stages for i in stage.inputs.values()}
    read = {stage for row in plan.rows for stage in row.stages}
    needed: set[Stage] = set()
    waiting = [s for s in missing if s not in inner or s in read]
    while waiting:
        stage = waiting.pop()
        if stage not in needed:
            needed.add(stage)
            waiting += [i for i in stage.inputs.values() if i in missing]
    return [stage for stage in plan.stages if stage in needed]


def guidance_label(guidance: Guidance) -> str:
    """A guidance setting in a few words: `none`, `cfg 4`, `autoguidance 1.5`."""
    return guidance.kind if guidance.kind == "none" else f"{guidance.kind} {guidance.scale:g}"


def _plan_point(sweep: Sweep, point: Point) -> list[PlannedRow]:
    trial = point.trial
    extractor = _encoder(trial.evaluation.extractor, trial, "metric extractor")
    tokenizer = _tokenizer(trial)
    reconstruction = Stage(
        kind="reconstruction",
        config=ReconstructionStage.of(trial),
        inputs={"tokenizer": tokenizer, "extractor": extractor},
        label=tokenizer.label,
    )
    reference = Stage(
        kind="reference",
        config=ReferenceStage.of(trial),
        inputs={"extractor": extractor},
        label=f"{trial.data.name} train",
    )
    generator = _generator(trial, tokenizer)
    inputs = {
        "generator": generator,
        "tokenizer": tokenizer,
        "extractor": extractor,
        "reference": reference,
    }
    return [
        PlannedRow(
            row_id=content_hash([point.trial_id, step, guidance])[:16],
            trial_id=point.trial_id,
            axes=point.axes,
            trial=trial,
            step=step,
            guidance=guidance,
            tokenizer=tokenizer,
            reconstruction=reconstruction,
            generator=generator,
            generation=_generation(sweep, point, inputs, step, guidance),
        )
        for step in trial.generator.snapshot_steps
        for guidance in trial.evaluation.guidance
    ]


def _encoder(config: Any, trial: Trial, role: str) -> Stage:
    stage = EncoderStage(
        encoder=config,
        data=trial.data if config.kind == "in_domain" else None,
        weights=describe_weights(config),
    )
    name = getattr(config, "name", config.kind)
    return Stage(kind="encoder", config=stage, inputs={}, label=f"{name} ({role})")


def _tokenizer(trial: Trial) -> Stage:
    config, inputs = trial.tokenizer, {}
    if isinstance(config.alignment, AlignedWith) and config.checkpoint is None:
        inputs["encoder"] = _encoder(config.alignment.encoder, trial, "alignment encoder")
    aligned = config.alignment.kind
    if isinstance(config.alignment, AlignedWith):
        aligned += f" {config.alignment.vf_weight:g} {config.alignment.encoder.name}"
    if config.checkpoint is not None:
        aligned += f" from {Path(config.checkpoint).name}"
    elif config.phases:
        aligned += f" in {len(config.phases)} phases"
    size = f"f{config.architecture.downsample}d{config.latent_dim}"
    return Stage(
        kind="tokenizer",
        config=TokenizerStage.of(trial),
        inputs=inputs,
        label=f"{size} {aligned} seed {config.seed}",
    )


def _generator(trial: Trial, tokenizer: Stage) -> Stage:
    latents = Stage(
        kind="latents",
        config=LatentsStage.of(trial),
        inputs={"tokenizer": tokenizer},
        label=tokenizer.label,
    )
    config, stage = trial.generator, GeneratorStage.of(trial)
    inputs, parts = {"latents": latents}, [f"{config.size_name}/{config.patch_size}"]
    if config.checkpoint is not None:
        parts.append(f"from {Path(config.checkpoint).name}")
    if isinstance(config.repa, REPAWith):
        parts.append(f"repa {config.repa.weight:g} {config.repa.encoder.name}")
        if stage.learns_representations:
            inputs["representation"] = _encoder(
                config.repa.encoder, trial, "representation encoder"
            )
    label = f"{' '.join(parts)} seed {config.seed} on {tokenizer.label}"
    return Stage(kind="generator", config=stage, inputs=inputs, label=label)


def _generation(
    sweep: Sweep, point: Point, inputs: Mapping[str, Stage], step: int, guidance: Guidance
) -> Stage:
    parts, weak_step = [inputs["generator"].label], None
    if step != point.trial.generator.training.steps:
        parts.append(f"step {step}")
    if guidance.kind != "none":
        parts.append(guidance_label(guidance))
    if isinstance(guidance, AutoGuidanceWith):
        weak = weak_trial(sweep.file, point, guidance)
        weak_step = weak.generator.training.steps
        inputs = {**inputs, "weak": _generator(weak, inputs["tokenizer"])}
    return Stage(
        kind="generation",
        config=GenerationStage.of(point.trial, step=step, guidance=guidance, weak_step=weak_step),
        inputs=inputs,
        label=", ".join(parts),
    )
