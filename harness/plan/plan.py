"""From a sweep to its stages, a graph without duplicates, and the rows they lead to."""

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from harness.config.evaluation import AutoGuidanceWith, Guidance
from harness.config.generator_settings import GeneratorBase
from harness.config.sweep import Point, Sweep, weak_trial
from harness.config.trial import Trial
from harness.data import try_out
from harness.plan.requests import check_resources
from harness.schema.imported import own_errors
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError
from harness.stages import diagnostics, generation, reconstruction, reference, registry, scores
from harness.stages.encoder import stage as encoder
from harness.stages.encoder.kind import METRIC
from harness.stages.generator import stage as generator
from harness.stages.stage import Stage
from harness.stages.tokenizer import kind as tokenizer
from harness.storage.artifacts import Store

MAX_SETS = 20_000
"""Sets of samples of a plan, which takes half a minute for so many."""


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One line of the table and the stages whose artifacts it is made of."""

    row_id: str
    trial_id: str
    axes: Mapping[str, Any]
    trial: Trial
    extractor: Stage
    tokenizer: Stage
    reconstruction: Stage | None = None
    """Absent where no image is reconstructed."""
    generator: "SampledGenerator | None" = None
    """Absent in a trial of a tokenizer alone."""
    diagnostics: Stage | None = None
    """Absent where latents are not looked at."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that the row reads."""
        own = (self.extractor, self.tokenizer)
        own += tuple(stage for stage in (self.reconstruction, self.diagnostics) if stage)
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
    scores: tuple[Stage, ...] = ()
    """One for each of them, where samples or features are kept; else they score themselves."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that the row reads."""
        return self.training, self.reference, *self.generations, *self.scores


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Stages in an order in which inputs come first, and rows."""

    sweep: Sweep
    stages: tuple[Stage, ...]
    rows: tuple[PlannedRow, ...]

    @property
    def read_keys(self) -> set[str]:
        """Keys of the stages whose artifacts rows are made of."""
        return {stage.key for row in self.rows for stage in row.stages}

    def restricted_to(self, kind: str) -> "Plan":
        """The stages of one kind and all they depend on; the rows stay."""
        wanted = with_inputs(stage for stage in self.stages if stage.kind == kind)
        return dataclasses.replace(self, stages=tuple(s for s in self.stages if s in wanted))

    def at_step(self, step: int) -> "Plan":
        """The rows of one snapshot, and all that they depend on."""
        rows = tuple(row for row in self.rows if row.generator and row.generator.step == step)
        wanted = with_inputs(stage for row in rows for stage in row.stages)
        stages = tuple(stage for stage in self.stages if stage in wanted)
        return dataclasses.replace(self, stages=stages, rows=rows)


def make_plan(sweep: Sweep) -> Plan:
    """Derive every stage and row of a sweep; ConfigError where resources are asked for that a kind
    of stages cannot use, or a weaker model cannot be built or lives in other latents."""
    rows: list[PlannedRow] = []
    try:
        check_resources(sweep.file.resources)
        asked = [(p.trial.evaluation, p.trial.generator) for p in sweep.points]
        sets = sum(
            len(g.snapshot_steps) * len(e.guidance) * e.sampling_seeds for e, g in asked if g
        )
        if sets > MAX_SETS:
            raise ConfigError(
                f"must ask for at most {MAX_SETS:,} sets of samples (trials, times snapshots, "
                f"guidance settings and sampling_seeds), but asks for {sets:,}; ask for fewer",
                path="trial.evaluation",
            )
        for point in sweep.points:
            with own_errors("trial", point.trial):
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
    # Among those that could come next, the order is fixed, so that plans read alike every time.
    rank = {key: (kinds.index(s.kind), s.label, key) for key, s in by_key.items()}
    known = {key: [i for i in s.input_keys if i in by_key] for key, s in by_key.items()}
    sorter = TopologicalSorter(known)
    sorter.prepare()
    ready: list[tuple[int, str, str]] = []
    ordered: list[Stage] = []
    while sorter.is_active():
        for key in sorter.get_ready():
            heapq.heappush(ready, rank[key])
        *_, key = heapq.heappop(ready)
        ordered.append(by_key[key])
        sorter.done(key)
    return ordered


def rows_first(
    stages: Iterable[Stage], rows: Iterable[PlannedRow], cost: Callable[[Stage], float]
) -> list[Stage]:
    """The same stages, inputs first, in an order that ends rows early: what costs least first."""
    place = {stage.key: number for number, stage in enumerate(stages)}
    lacks = [
        sorted((s for s in with_inputs(row.stages) if s.key in place), key=lambda s: place[s.key])
        for row in rows
    ]
    lacks.sort(key=lambda lacking: sum(map(cost, lacking)))
    return list(dict.fromkeys(stage for lacking in lacks for stage in lacking))


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


def _plan_point(sweep: Sweep, point: Point) -> list[PlannedRow]:
    trial = point.trial
    _check_kinds(trial)
    extractor = encoder.stage_of(trial.evaluation.extractor, trial, METRIC)
    tokenized = tokenizer.stage_of(trial)
    measured = None
    if trial.evaluation.num_reconstructions != 0:
        part = tokenizer.measured_stage(tokenized)
        measured = reconstruction.stage_of(trial, part, extractor)
    common: dict[str, Any] = {
        "trial_id": point.trial_id,
        "axes": point.axes,
        "trial": trial,
        "extractor": extractor,
        "tokenizer": tokenized,
        "reconstruction": measured,
        "diagnostics": diagnostics.stage_of(trial, tokenized),
    }
    if trial.generator is None:
        return [PlannedRow(row_id=content_hash([point.trial_id, "tokenizer"])[:16], **common)]
    return [
        PlannedRow(
            row_id=content_hash([point.trial_id, sampled.step, sampled.guidance])[:16],
            generator=sampled,
            **common,
        )
        for sampled in _sampled_generators(sweep, point, trial.generator, tokenized, extractor)
    ]


def _check_kinds(trial: Trial) -> None:
    """Refuse kinds that came without what stages know of them, and data that is not as declared."""
    parts: list[tuple[str, Any, Callable[[Any], object]]] = [
        ("data", trial.data, try_out),
        ("tokenizer", trial.tokenizer, tokenizer.kind_of),
        ("evaluation.extractor", trial.evaluation.extractor, encoder.kind_of),
        *((path, each, encoder.kind_of) for path, each in trial.encoders.items()),
    ]
    if trial.generator is not None:
        parts.append(("generator", trial.generator, generator.kind_of))
    for path, part, check in parts:
        try:
            check(part)
        except ConfigError as error:
            raise error.within(path=f"trial.{path}") from error


def _sampled_generators(
    sweep: Sweep, point: Point, config: GeneratorBase, tokenized: Stage, extractor: Stage
) -> Iterator[SampledGenerator]:
    """Every rung under the first guidance setting, every snapshot under every one."""
    trial, evaluation = point.trial, point.trial.evaluation
    inputs = {
        "generator": generator.stage_of(trial, config, tokenized),
        "tokenizer": tokenized,
        "extractor": extractor,
        "reference": reference.stage_of(trial, extractor),
    }
    training = inputs["generator"]
    for step in (*sweep.rungs, *config.snapshot_steps):
        is_rung = step in sweep.rungs
        inputs["generator"] = generator.up_to(training, step) if is_rung else training
        for guidance in evaluation.guidance[:1] if is_rung else evaluation.guidance:
            weak = None
            if isinstance(guidance, AutoGuidanceWith):
                weak = weak_trial(sweep.file, point, guidance)
            made = tuple(
                generation.stage_of(
                    trial, inputs, step=step, guidance=guidance, weak=weak, number=number
                )
                for number in range(evaluation.sampling_seeds)
            )
            is_kept = evaluation.keep_samples or evaluation.keep != "none"
            yield SampledGenerator(
                step=step,
                guidance=guidance,
                training=inputs["generator"],
                reference=inputs["reference"],
                generations=made,
                scores=tuple(scores.stage_of(trial, each, inputs) for each in made if is_kept),
            )
