"""From a sweep to its stages, a graph without duplicates, and the rows they lead to."""

import dataclasses
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config.evaluation import AutoGuidanceWith, Guidance, LatentDiagnostics
from harness.config.generator import GeneratorConfig, REPAWith
from harness.config.reference import ReferenceImages, StatisticsFile
from harness.config.sweep import Point, Sweep, weak_trial
from harness.config.tokenizer import AlignedWith
from harness.config.trial import Trial
from harness.config.weights import describe_weights
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError
from harness.stages import registry
from harness.stages.diagnostics import DiagnosticsStage
from harness.stages.encoder import EncoderStage
from harness.stages.generation import GenerationStage
from harness.stages.generator.stage import GeneratorStage
from harness.stages.latents import LatentsStage
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.reference import ReferenceStage
from harness.stages.tokenizer.stage import TokenizerStage
from harness.storage.artifacts import Store


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
    extractor: Stage
    tokenizer: Stage
    reconstruction: Stage
    generator: "SampledGenerator | None" = None
    """Absent in a trial of a tokenizer alone."""
    diagnostics: Stage | None = None
    """Absent where latents are not looked at."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that the row reads."""
        own = (self.extractor, self.tokenizer, self.reconstruction)
        own += (self.diagnostics,) if self.diagnostics else ()
        return (*own, *self.generator.stages) if self.generator else own


@dataclass(frozen=True, kw_only=True)
class SampledGenerator:
    """A row's generator: one snapshot under one guidance setting."""

    step: int
    """Training step of the snapshot."""
    guidance: Guidance
    training: Stage
    reference: Stage
    generations: tuple[Stage, ...]
    """One for each sampling seed."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that the row reads."""
        return self.training, self.reference, *self.generations


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
    by_key = {s.key: s for s in stages}
    rank = {key: (kinds.index(s.kind), s.label, key) for key, s in by_key.items()}
    open_inputs = {
        k: {i.key for i in s.inputs.values() if i.key in by_key} for k, s in by_key.items()
    }
    readers: dict[str, list[str]] = {}
    for key, inputs in open_inputs.items():
        for source in inputs:
            readers.setdefault(source, []).append(key)
    ready = [(rank[key], key) for key, inputs in open_inputs.items() if not inputs]
    heapq.heapify(ready)
    ordered: list[Stage] = []
    while ready:
        _, key = heapq.heappop(ready)
        ordered.append(by_key[key])
        for other in readers.get(key, ()):
            open_inputs[other].discard(key)
            if not open_inputs[other]:
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


def still_missing(stages: Iterable[Stage], store: Store) -> list[Stage]:
    """Those of the stages whose artifacts are not in the store, after what they lack themselves."""
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in ordered and not store.find(stage.kind, stage.key):
            for source in stage.inputs.values():
                visit(source)
            ordered[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(ordered.values())


def guidance_label(guidance: Guidance) -> str:
    """A guidance setting in a few words: `none`, `cfg 4`, `autoguidance 1.5`."""
    return guidance.kind if guidance.kind == "none" else f"{guidance.kind} {guidance.scale:g}"


def _plan_point(sweep: Sweep, point: Point) -> list[PlannedRow]:
    trial = point.trial
    extractor = encoder_stage(trial.evaluation.extractor, trial, "metric extractor")
    tokenizer = _tokenizer(trial)
    reconstruction = Stage(
        kind="reconstruction",
        config=ReconstructionStage.of(trial),
        inputs={"tokenizer": tokenizer, "extractor": extractor},
        label=tokenizer.label,
    )
    common: dict[str, Any] = {
        "trial_id": point.trial_id,
        "axes": point.axes,
        "trial": trial,
        "extractor": extractor,
        "tokenizer": tokenizer,
        "reconstruction": reconstruction,
        "diagnostics": _diagnostics(trial, tokenizer),
    }
    if trial.generator is None:
        return [PlannedRow(row_id=content_hash([point.trial_id, "tokenizer"])[:16], **common)]
    return [
        PlannedRow(
            row_id=content_hash([point.trial_id, sampled.step, sampled.guidance])[:16],
            generator=sampled,
            **common,
        )
        for sampled in _sampled_generators(sweep, point, trial.generator, tokenizer, extractor)
    ]


def _sampled_generators(
    sweep: Sweep, point: Point, config: GeneratorConfig, tokenizer: Stage, extractor: Stage
) -> Iterator[SampledGenerator]:
    """Every snapshot under every guidance setting."""
    trial, evaluation = point.trial, point.trial.evaluation
    reference = reference_stage(trial, extractor)
    generator = _generator(trial, config, tokenizer)
    inputs = {
        "generator": generator,
        "tokenizer": tokenizer,
        "extractor": extractor,
        "reference": reference,
    }
    for step in config.snapshot_steps:
        for guidance in evaluation.guidance:
            yield SampledGenerator(
                step=step,
                guidance=guidance,
                training=generator,
                reference=reference,
                generations=tuple(
                    _generation(sweep, point, inputs, step, guidance, number)
                    for number in range(evaluation.sampling_seeds)
                ),
            )


def _latents(trial: Trial, tokenizer: Stage) -> Stage:
    return Stage(
        kind="latents",
        config=LatentsStage.of(trial),
        inputs={"tokenizer": tokenizer},
        label=tokenizer.label,
    )


def _diagnostics(trial: Trial, tokenizer: Stage) -> Stage | None:
    wanted = trial.evaluation.diagnostics
    if not isinstance(wanted, LatentDiagnostics):
        return None
    return Stage(
        kind="diagnostics",
        config=DiagnosticsStage.of(trial, wanted),
        inputs={"tokenizer": tokenizer, "latents": _latents(trial, tokenizer)},
        label=tokenizer.label,
    )


def reference_stage(trial: Trial, extractor: Stage) -> Stage:
    """The stage of what a trial's samples are held to."""
    return Stage(
        kind="reference",
        config=ReferenceStage.of(trial),
        inputs={"extractor": extractor},
        label=_reference_label(trial),
    )


def _reference_label(trial: Trial) -> str:
    source = trial.evaluation.reference
    if isinstance(source, StatisticsFile):
        return Path(source.path).name
    if isinstance(source, ReferenceImages):
        place = getattr(source.images, "path", "")
        return Path(place).name if place else f"{trial.data.name} {source.images.kind}"
    return f"{trial.data.name} train"


def encoder_stage(config: Any, trial: Trial, role: str) -> Stage:
    """The stage of a feature network, trained on a trial's data where it is trained here."""
    stage = EncoderStage(
        encoder=config,
        data=trial.data if config.kind == "in_domain" else None,
        weights=describe_weights(config),
    )
    name = getattr(config, "name", config.kind)
    return Stage(kind="encoder", config=stage, inputs={}, label=f"{name} ({role})")


def _tokenizer(trial: Trial) -> Stage:
    config, inputs = trial.tokenizer, {}
    if isinstance(config.alignment, AlignedWith) and not config.is_given:
        inputs["encoder"] = encoder_stage(config.alignment.encoder, trial, "alignment encoder")
    return Stage(
        kind="tokenizer", config=TokenizerStage.of(trial), inputs=inputs, label=config.label
    )


def _generator(trial: Trial, config: GeneratorConfig, tokenizer: Stage) -> Stage:
    latents = _latents(trial, tokenizer)
    stage = GeneratorStage.of(trial, config)
    inputs, parts = {"latents": latents}, [f"{config.size_name}/{config.patch_size}"]
    if config.checkpoint is not None:
        parts.append(f"from {Path(config.checkpoint).name}")
    if isinstance(config.repa, REPAWith):
        parts.append(f"repa {config.repa.weight:g} {config.repa.encoder.name}")
        if stage.learns_representations:
            inputs["representation"] = encoder_stage(
                config.repa.encoder, trial, "representation encoder"
            )
    label = f"{' '.join(parts)} seed {config.seed} on {tokenizer.label}"
    return Stage(kind="generator", config=stage, inputs=inputs, label=label)


def _generation(
    sweep: Sweep,
    point: Point,
    inputs: Mapping[str, Stage],
    step: int,
    guidance: Guidance,
    number: int,
) -> Stage:
    trained = point.trial.generator
    assert trained is not None
    parts, weak_step = [inputs["generator"].label], None
    if step != trained.training.steps:
        parts.append(f"step {step}")
    if guidance.kind != "none":
        parts.append(guidance_label(guidance))
    if number:
        parts.append(f"samples {number + 1}")
    if isinstance(guidance, AutoGuidanceWith):
        weak = weak_trial(sweep.file, point, guidance)
        assert weak.generator is not None
        weak_step = weak.generator.training.steps
        inputs = {**inputs, "weak": _generator(weak, weak.generator, inputs["tokenizer"])}
    return Stage(
        kind="generation",
        config=GenerationStage.of(
            point.trial, step=step, guidance=guidance, weak_step=weak_step, number=number
        ),
        inputs=inputs,
        label=", ".join(parts),
    )
