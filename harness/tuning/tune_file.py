"""The tune file: a sweep file with a `search` block instead of a grid."""

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from optuna import pruners

from harness.config.axes import describe_axes
from harness.config.ranges import check_ranges
from harness.config.resources import Resources
from harness.config.sweep import (
    Point,
    Sweep,
    SweepFile,
    build_trial,
    check_name,
    of_kind_alone,
    read_file,
    refuse_ignored,
    set_path,
)
from harness.config.trial import Trial
from harness.plan.plan import Plan, make_plan
from harness.plan.requests import check_resources
from harness.results.columns import COLUMNS
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError
from harness.tuning.goals import Cap, Goals, Objective
from harness.tuning.space import Axes, Presets, SearchSpace, parse_space

MAX_TRIALS = 100_000
"""Trials that a study may have: a list of them all is gone through for every proposal."""
MAX_CORNERS = 256
"""Corners of the search space whose trials are built when the file is read."""


@dataclass(frozen=True, kw_only=True)
class SamplerChoice:
    """Algorithm that proposes trials."""

    kind: Literal["tpe", "gp", "nsga2", "random"] = "tpe"
    """Tree-structured Parzen estimators, a Gaussian process, a genetic algorithm, or chance."""
    seed: int = 0
    """Seed of the proposals; the trials' own seeds stand in the trial."""
    num_startup: int = 10
    """Trials before the model of `tpe` and `gp` is asked, the first ones included; the size of a
    generation of `nsga2`."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.num_startup < 2:
            raise ValueError(
                f"`seed` must not be negative and `num_startup` at least 2, but got {self.seed} "
                f"and {self.num_startup}; use 0 and 10"
            )


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Ends a bad trial early, by its objective at steps of its generator's training."""

    steps: tuple[int, ...]
    """Steps after which samples are scored and the pruner is asked: the rungs."""
    kind: Literal["median", "percentile", "successive_halving", "hyperband"] = "median"
    """Pruner of Optuna's."""
    arguments: dict[str, int | float | str] = field(default_factory=dict)
    """Its arguments, under Optuna's names; `min_resource` is the first step where not given."""

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1 or [*self.steps] != sorted(set(self.steps)):
            raise ValueError(f"`steps` must be rising counts, but got {[*self.steps]}; use [1000]")
        self.pruner()

    def pruner(self) -> pruners.BasePruner:
        """A new pruner, which has seen nothing; ValueError where Optuna takes other arguments."""
        name = f"{self.kind.title().replace('_', '')}Pruner"
        halving = self.kind in ("successive_halving", "hyperband")
        given = ({"min_resource": self.steps[0]} if halving else {}) | self.arguments
        try:
            return getattr(pruners, name)(**given)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`arguments` must be those of optuna.pruners.{name}, but got "
                f"{self.arguments}: {error}; use what its documentation lists"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Trials that are run again under other seeds."""

    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the trials; none: nothing is repeated."""
    references: tuple[str, ...] | None = None
    """First trials that are repeated too; absent: all of them."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must each stand once, but got {[*self.seeds]}; drop one")


@dataclass(frozen=True, kw_only=True)
class TuneFile:
    """A tune file as written: validated in its outline."""

    name: str
    """Folder of the results: letters, digits, `.`, `_` and `-`."""
    description: str = ""
    """Purpose of the search."""
    trial: dict[str, Any]
    """The base trial, at full budget."""
    proxy: dict[str, Any] = field(default_factory=dict)
    """Dotted paths of the trial and the values that make the search cheap; `--promote` runs
    without them."""
    presets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Axis name -> value name -> dotted paths of the trial and their values."""
    search: dict[str, Any]
    """Axis (a preset's name or a dotted path of the trial) -> domain; see `space.Domain`."""
    first: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> axes and values: the first trials, which figures mark. The first is the reference
    that others are compared with."""
    objectives: tuple[Objective, ...] = (Objective(column="rfid"), Objective(column="gfid"))
    """Columns to make better, together."""
    caps: dict[str, Cap] = field(default_factory=dict)
    """Column -> bound. A tokenizer beyond its cap is not given a generator."""
    sampler: SamplerChoice = SamplerChoice()
    """Algorithm that proposes trials."""
    pruning: Pruning | None = None
    """Ends bad trials early, in a search with one objective; absent: all are trained to the end."""
    num_trials: int
    """Finished trials of the study in total, the first ones included."""
    parallel: int | Literal["auto"] = "auto"
    """Trials in flight; `auto`: as many as stages run side by side on the machine or cluster. The
    proposals depend on it, so equal studies on unequal machines need a number."""
    confirmation: Repetition = Repetition()
    """After the search the recommended setting is run again, at the search's budget."""
    promotion: Repetition = Repetition(seeds=(0, 1, 2))
    """Repetitions of `--promote`, which runs the Pareto set at full budget."""
    resources: dict[str, Resources] = field(default_factory=dict)
    """Stage kind -> what it holds; `default` for the kinds not named."""
    plugins: list[str] = field(default_factory=list)
    """Modules of the user's own that register further kinds, imported before the file is read."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= self.num_trials <= MAX_TRIALS:
            raise ValueError(
                f"`num_trials` must be at least 1 and at most {MAX_TRIALS:,}, but got "
                f"{self.num_trials}; use 50"
            )
        if self.parallel != "auto" and self.parallel < 1:
            raise ValueError(f"`parallel` must be at least 1, but got {self.parallel}; use auto")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A tune file with its search space and goals."""

    file: TuneFile
    space: SearchSpace
    goals: Goals
    base: SweepFile
    """Trial under the proxy, presets and named choices: what the search's trials are built from."""
    source: str
    rungs: tuple[int, ...] = ()
    """Steps at which trials may be pruned."""

    def point(self, axes: Axes) -> Point:
        """The trial of one proposal, under the proxy."""
        try:
            trial = build_trial(self.base, axes)
            if self.rungs:
                self._check_rungs(trial)
            return Point(axes=axes, trial=trial)
        except ConfigError as error:
            message = error.message.replace("(set by grid.", "(set by search.")
            raise ConfigError(message, path=error.path, source=self.source) from error

    def plan(self, points: Iterable[Point]) -> Plan:
        """The plan of a sweep of these trials, each of them once."""
        try:
            each_once = {point.trial_id: point for point in points}
        except ConfigError as error:
            raise error.within(source=self.source) from error
        found = tuple(each_once.values())
        reference = next(iter(self.file.first.values()), {})
        axes = describe_axes((p.axes for p in found), self.space.listed, self.base.presets)
        axes = tuple(a.against(reference[a.name]) if a.name in reference else a for a in axes)
        sweep = Sweep(file=self.base, points=found, source=self.source, axes=axes, rungs=self.rungs)
        return make_plan(sweep)

    def at_full_budget(self) -> "Tuning":
        """The same search without its proxy, where nothing is pruned."""
        return replace(self, base=replace(self.base, trial=self.file.trial), rungs=())

    def setting_hash(self, axes: Axes) -> str:
        """Names a setting by what it stands for: its values, and the trials at both budgets."""
        full = self.at_full_budget().point(axes)
        return content_hash([dict(axes), self.point(axes).trial_id, full.trial_id])[:12]

    def sweep_file(
        self, name: str, settings: Mapping[str, Axes], seeds: Sequence[int], *, full: bool
    ) -> SweepFile:
        """A sweep over named settings of the searched fields and seeds."""
        base = self.at_full_budget().base if full else self.base
        named = {label: self._paths(axes) for label, axes in settings.items()}
        return SweepFile(
            name=name,
            description=self.file.description,
            trial=base.trial,
            presets={"setting": named},
            grid={"setting": list(named), "seed": list(seeds)},
            resources=self.file.resources,
        )

    def _check_rungs(self, trial: Trial) -> None:
        """Refuse what no pruner can look at, and a training that cannot be left at the rungs."""
        generator, columns = trial.generator, [o.column for o in self.goals.objectives]
        steps = () if generator is None or generator.is_given else generator.snapshot_steps
        last = max(steps, default=0)
        wrong = (
            (len(columns) > 1,
             f"one objective, since Optuna prunes by no more, but has {', '.join(columns)}; put "
             "others under `caps`"),
            (COLUMNS[columns[0]].measured_on != "samples",
             f"an objective that snapshots of a generator have, as gfid, but has {columns[0]}"),
            (not steps, "a generator in every trial that is trained here; leave `pruning` out"),
            (len(steps) > 1,
             "`steps` in place of the trial's generator.snapshots; leave those out"),
            (self.rungs[-1] >= last,
             f"`steps` below the training's own, {last}, but got {self.rungs[-1]}; lower it"),
        )  # fmt: skip
        for is_wrong, text in wrong:
            if is_wrong:
                raise ConfigError(f"a search with it must have {text}", path="pruning")

    def _paths(self, axes: Axes) -> dict[str, Any]:
        """Dotted paths and values of a setting, presets resolved."""
        presets = self.base.presets
        paths: dict[str, Any] = {}
        for axis, value in axes.items():
            paths |= presets[axis][value] if axis in presets else {}
        return paths | {axis: value for axis, value in axes.items() if axis not in presets}


def load_tune(path: Path, settings: Sequence[str] = ()) -> Tuning:
    """Read, override and validate a tune file."""
    source = str(path)
    file = read_file(path, settings, TuneFile, dotted=("search", "proxy", "caps"))
    try:
        check_resources(file.resources)
        for name in ("sampler", "confirmation", "promotion"):
            check_ranges(getattr(file, name), name)
        space, named = parse_space(file.search, file.presets)
        tuning = Tuning(
            file=file,
            space=space,
            goals=Goals(objectives=file.objectives, caps=file.caps),
            base=_base(file, {**file.presets, **named}),
            source=source,
            rungs=file.pruning.steps if file.pruning else (),
        )
        _check_first(tuning)
        points = _check_trials(tuning)
        _check_seeds(tuning, points)
        _check_measurable(tuning, points)
    except ConfigError as error:
        raise of_kind_alone(error, settings).within(source=source) from error
    return tuning


def _base(file: TuneFile, presets: Presets) -> SweepFile:
    trial = copy.deepcopy(file.trial)
    for path, value in sorted(file.proxy.items(), key=lambda item: item[0].count(".")):
        refuse_ignored(path, file.search, presets, block="search", at=f"proxy.{path}")
        try:
            set_path(trial, path, value)
        except ConfigError as error:
            raise error.within(path="proxy") from error
    return SweepFile(
        name=file.name,
        description=file.description,
        trial=trial,
        presets=presets,
        resources=file.resources,
    )


def _check_first(tuning: Tuning) -> None:
    file = tuning.file
    for name, axes in file.first.items():
        try:
            tuning.space.parameters_of(axes)
        except ConfigError as error:
            raise error.within(path=f"first.{name}") from error
    if len(file.first) > file.num_trials:
        raise ConfigError(
            f"must be at least {len(file.first)}, the number of first trials, but got "
            f"{file.num_trials}; raise it",
            path="num_trials",
        )
    for block in ("confirmation", "promotion"):
        for name in getattr(file, block).references or ():
            if name not in file.first:
                raise ConfigError(
                    f"must name first trials ({', '.join(file.first) or 'none'}), but got {name!r}",
                    path=f"{block}.references",
                )


def _check_trials(tuning: Tuning) -> list[Point]:
    """Build the trials at the corners of the space, as they are and at full budget."""
    full = tuning.at_full_budget()
    points: list[Point] = []
    for axes in itertools.islice(tuning.space.corners(), MAX_CORNERS):
        full.point(axes)
        points.append(tuning.point(axes))
    return points


def _check_seeds(tuning: Tuning, points: Sequence[Point]) -> None:
    """The search's own seed confirms nothing: its trial was chosen for how it came out."""
    own = {point.trial.seed for point in points}
    if "seed" in tuning.file.search or len(own) > 1:
        raise ConfigError(
            "must not search the trial's seed, which repeated settings vary; leave it out, or "
            "search the seed of one part, such as generator.seed",
            path="search.seed",
        )
    if shared := own & set(tuning.file.confirmation.seeds):
        raise ConfigError(
            f"must be other seeds than the search's own, but has {shared.pop()}, under which the "
            "recommended trial was chosen; choose others",
            path="confirmation.seeds",
        )


def _check_measurable(tuning: Tuning, points: Sequence[Point]) -> None:
    """Refuse objectives and caps that no trial of the search has a value of."""
    file = tuning.file
    paths = {o.column: f"objectives.{n}.column" for n, o in enumerate(file.objectives)}
    for column, path in {**{c: f"caps.{c}" for c in file.caps}, **paths}.items():
        reasons = [_unmeasured(column, point.trial) for point in points]
        if all(reasons):
            raise ConfigError(
                f"must be a column that some trial measures, but {column!r} is never: {reasons[0]}",
                path=path,
            )


def _unmeasured(column: str, trial: Trial) -> str:
    """Why a trial has no value in a column, with the remedy; empty where it may have one."""
    part = COLUMNS[column].measured_on
    if part in ("generator", "samples") and trial.generator is None:
        return "the trial has no generator; add one, or use columns of the reconstruction"
    if part == "latents" and trial.evaluation.diagnostics.kind == "none":
        return "latents are not looked at; set evaluation.diagnostics"
    if column == "lpips" and trial.evaluation.perceptual.kind == "none":
        return "there is no perceptual network; set evaluation.perceptual"
    return ""
