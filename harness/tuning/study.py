"""The Optuna study behind a search: its journal file, what it is asked, and what it is told.

Every proposal of a search has a number, which a trial of the study carries as an attribute. A
proposal that is asked for again (a killed search, a failure that was mended) is a new trial of the
study with the same number and values; the old one is told to have failed, which samplers ignore.
A proposal's seed follows from its number, so that a continued search proposes what an uninterrupted
one would have.
"""

import itertools
import json
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.config.axes import short_names, write_value
from harness.config.sweep import Point
from harness.schema.keys import content_hash, to_plain
from harness.schema.reading import ConfigError
from harness.tuning.goals import Verdict
from harness.tuning.space import Axes
from harness.tuning.tune_file import SamplerChoice, Tuning

JOURNAL = "study.journal"
"""File in the results folder; `optuna-dashboard` opens it."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count."""
LEASE = "study.lease"
"""Held by the process that works on the study."""
REDRAWS = 8
"""How often a proposal that was already made is drawn again before it is accepted."""
DRAWS = 200
"""How often a proposal that makes no trial is drawn again before the search gives up."""


def setting_words(name: str, axes: Axes) -> str:
    """Values as people write them, after the name where there is one."""
    short = short_names(list(axes))
    values = " ".join(f"{short[axis]}={write_value(value)}" for axis, value in axes.items())
    return ": ".join(filter(None, [name, values]))


def trial_words(number: int, name: str, axes: Axes) -> str:
    """A trial by its number and what it tries: `trial 3 (width=16 alignment=vf)`."""
    return f"trial {number} ({setting_words(name, axes)})"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A proposal that was asked for and not told yet."""

    number: int
    trial: optuna.Trial
    point: Point

    @property
    def name(self) -> str:
        """Name of a first trial, empty otherwise."""
        return self.trial.user_attrs.get("name", "")

    @property
    def words(self) -> str:
        """What people call it: `trial 3 (width=16 alignment=vf)`."""
        return trial_words(self.number, self.name, dict(self.point.axes))


@dataclass(frozen=True, kw_only=True)
class Told:
    """The last trial of the study for one proposal."""

    number: int
    frozen: FrozenTrial
    point: Point

    @property
    def finished(self) -> bool:
        """Whether it counts: it has ended, and not with an error."""
        return self.frozen.state in FINISHED

    @property
    def status(self) -> str:
        """Status of the verdict, or `pending`."""
        return self.frozen.user_attrs.get("status", "pending")

    @property
    def name(self) -> str:
        """Name of a first trial, empty otherwise."""
        return self.frozen.user_attrs.get("name", "")


class TuningStudy:
    """A study and the tune file that it belongs to."""

    def __init__(self, study: optuna.Study, tuning: Tuning) -> None:
        self.study, self.tuning = study, tuning
        self._points: dict[int, Point] = {}

    def told(self) -> list[Told]:
        """The last trial of every proposal, by its number."""
        return [
            Told(number=number, frozen=frozen, point=self.point_of(frozen))
            for number, frozen in sorted(_last_trials(self.study).items())
        ]

    def point_of(self, frozen: FrozenTrial) -> Point:
        """Find the point that a trial of the study has run."""
        if frozen.number in self._points:
            return self._points[frozen.number]
        point = self.tuning.point(frozen.user_attrs["axes"])
        if point.trial_id != frozen.user_attrs["trial_id"]:
            raise ConfigError(
                f"the trials of the study must stay what they were, but trial {frozen.number} of "
                f"{self.study.study_name!r} would be another one now, since the base trial, its "
                "proxy or its presets differ; put them back, or use another --set name=...",
                path="trial",
                source=self.tuning.source,
            )
        self._points[frozen.number] = point
        return point

    def remaining(self) -> list[int]:
        """Numbers of the proposals that are missing from the asked number of finished trials."""
        finished = {told.number for told in self.told() if told.finished}
        return [n for n in range(self.tuning.file.num_trials) if n not in finished]

    def ask(self, number: int) -> Asked:
        """Ask for one proposal.

        A proposal that was asked for before keeps its values. One that equals an earlier trial is
        drawn again: its choices by chance, its numbers by the sampler. So is one that makes no
        trial, in the end by chance alone.
        """
        known = {t.frozen.user_attrs["trial_id"] for t in self.told() if t.number != number}
        fixed, attributes = self._given(number)
        for attempt in range(DRAWS):
            digits = content_hash([self.tuning.file.sampler.seed, number, attempt])[:8]
            seed = int(digits, 16)
            choice = self.tuning.file.sampler
            choice = replace(choice, kind="random") if attempt > REDRAWS else choice
            self.study.sampler = make_sampler(choice, seed)
            if fixed is not None:
                self.study.enqueue_trial(fixed, user_attrs=attributes)
            asked = self._ask_once(number)
            if asked is not None:
                if attributes or asked.point.trial_id not in known or attempt >= REDRAWS:
                    return asked
                asked.trial.set_user_attr("repeats", asked.point.trial_id)
                self.study.tell(asked.trial, state=TrialState.FAIL)
            chance = random.Random(seed)
            fixed = {
                parameter.name: chance.choice(parameter.domain.names)
                for parameter in self.tuning.space.parameters
                if parameter.domain.choices is not None
            }
        raise ConfigError(
            f"must hold values that make a trial, but none of {DRAWS} that were drawn do, such as "
            f"{self.infeasible()[-1]}; narrow the ranges, or put what does not go together under "
            "`when`",
            path="search",
            source=self.tuning.source,
        )

    def infeasible(self) -> list[str]:
        """Proposals that make no trial, each with its reason; others were drawn in their place."""
        attributes = [trial.user_attrs for trial in self.study.get_trials(deepcopy=False)]
        return [each["infeasible"] for each in attributes if "infeasible" in each]

    def _given(self, number: int) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Values that a proposal must have, and attributes that say why."""
        attributes: dict[str, Any] = {}
        values = None
        earlier = [t for t in self.told() if t.number == number]
        if earlier:
            values = earlier[0].frozen.params
            attributes["retry_of"] = earlier[0].frozen.number
        first = list(self.tuning.file.first.items())
        if number < len(first):
            name, axes = first[number]
            values = values or self.tuning.space.parameters_of(axes)
            attributes["name"] = name
        return values, attributes

    def _ask_once(self, number: int) -> Asked | None:
        trial = self.study.ask()
        kind = self.tuning.file.sampler.kind
        axes = self.tuning.space.suggest(trial, every=kind in ("gp", "nsga2"))
        try:
            point = self.tuning.point(axes)
        except ConfigError as error:
            trial.set_user_attr("infeasible", f"{setting_words('', axes)} ({error.message})")
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        known = {"proposal": number, "sampler": kind, "axes": axes, "trial_id": point.trial_id}
        for name, value in known.items():
            trial.set_user_attr(name, value)
        return Asked(number=number, trial=trial, point=point)

    def should_prune(self, asked: Asked, step: int, verdict: Verdict, before: int) -> bool:
        """Report the objective after a training step; whether the trial ends there. The pruner sees
        the finished proposals up to `before`, under their numbers, from which brackets follow."""
        (value,) = verdict.values.values()
        if value is None or self.tuning.file.pruning is None:
            return False
        trial = asked.trial
        trial.report(value, step)
        last = _last_trials(self.study)
        seen = optuna.create_study(study_name=self.tuning.file.name, direction=self.study.direction)
        for number in range(asked.number):
            found = last.get(number) if number <= before else None
            is_seen = found is not None and found.state in FINISHED
            seen.add_trial(found if found and is_seen else create_trial(state=TrialState.FAIL))
        seen.add_trial(last[asked.number])
        pruner = self.tuning.file.pruning.pruner()
        prunes = pruner.prune(seen, seen.get_trials(deepcopy=False)[-1])
        for name, kept in seen.get_trials(deepcopy=False)[-1].system_attrs.items():
            trial.storage.set_trial_system_attr(trial._trial_id, name, kept)
        return bool(prunes)

    def tell(self, asked: Asked, verdict: Verdict) -> None:
        """Tell how a proposal ended.

        An error is told as failed: it says nothing about the values. Everything else is told with
        finite values, the worst so far standing in for what was not measured, and with
        constraints, so that the sampler learns where not to go.
        """
        trial = asked.trial
        trial.set_user_attr("status", verdict.status)
        trial.set_user_attr("error", verdict.error)
        if verdict.status == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for name in self.tuning.goals.constraints:
            trial.set_constraint(name, verdict.violations[name])
        if verdict.status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        values, generator = self._finite_values(verdict), asked.point.trial.generator
        if self.tuning.rungs and generator is not None:
            # `auto` of Optuna's pruners is the largest step that was reported.
            trial.report(values[0], generator.snapshot_steps[-1])
        self.study.tell(trial, values)

    def _finite_values(self, verdict: Verdict) -> list[float]:
        known = [abs(v) for v in verdict.values.values() if v is not None]
        told = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        measured = [t for t in told if t.user_attrs.get("status") == "done"]
        values: list[float] = []
        for position, objective in enumerate(self.tuning.goals.objectives):
            value = verdict.values[objective.column]
            worst = min if objective.maximised else max
            if value is None:
                # Before anything was measured, a value of the size of the known ones.
                stand_in = 0.0 if objective.maximised else max(known, default=1.0)
                value = worst((t.values[position] for t in measured), default=stand_in)
            values.append(value)
        return values


Judge = Callable[[Point], Verdict | None]
"""The verdict on a trial from what is in the store, or None where it has not been run."""


def open_study(
    folder: Path, tuning: Tuning, *, allow_changed_space: bool, judge: Judge
) -> TuningStudy:
    """Open the study of a results folder, or start it, and clean up what a killed search left.

    Args:
        folder: Results folder, whose study lease the caller holds.
        allow_changed_space: Where search space, first trials, objectives or caps have changed,
            start a further study in the same journal with all trials that lie in the new space.

    Raises:
        ConfigError: The search space has changed and that is not allowed; or the base trial has.
    """
    _mend_journal(folder)
    storage = _storage(folder)
    study = _last_study(storage)
    if study is None:
        return _create(storage, tuning, tuning.file.name)
    opened = TuningStudy(study, tuning)
    _clean(study)
    before, now = study.user_attrs["space"], _identity(tuning)
    names = {**before["search"], **now["search"]}
    changed = [
        f"search.{name}" for name in names if before["search"].get(name) != now["search"].get(name)
    ]
    changed += [n for n in ("objectives", "caps", "first", "pruning") if before.get(n) != now[n]]
    if not changed:
        opened.told()
        return opened
    if not allow_changed_space:
        raise ConfigError(
            f"must be that of the study in {folder / JOURNAL}, but differs in {', '.join(changed)};"
            " put it back, use another --set name=..., or give --allow-changed-space to go on "
            "with the trials that lie in both",
            path="search",
            source=tuning.source,
        )
    # Before the further study is made: one that is refused here leaves the journal as it was.
    trials = _taken_over(opened, judge)
    number = len(optuna.get_all_study_names(storage)) + 1
    fresh = _create(storage, tuning, f"{tuning.file.name} {number}")
    fresh.study.add_trials(trials)
    return fresh


def make_sampler(choice: SamplerChoice, seed: int) -> BaseSampler:
    """A sampler for one proposal."""
    startup = choice.num_startup
    if choice.kind == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if choice.kind == "nsga2":
        return NSGAIISampler(seed=seed, population_size=startup)
    if choice.kind == "random":
        return RandomSampler(seed=seed)
    # Jointly modelled parameters would make a continued study differ from an uninterrupted one:
    # trials in flight then count with values that were drawn for them and not used.
    return TPESampler(seed=seed, n_startup_trials=startup, multivariate=False)


def _create(storage: JournalStorage, tuning: Tuning, name: str) -> TuningStudy:
    objectives = tuning.goals.objectives
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["maximize" if o.maximised else "minimize" for o in objectives],
    )
    with warnings.catch_warnings():
        # Optuna warns of what may change in a later version.
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([objective.column for objective in objectives])
    study.set_user_attr("space", _identity(tuning))
    return TuningStudy(study, tuning)


def count_finished(folder: Path) -> int:
    """Finished trials of the study in a results folder, which is left as it is."""
    study = _last_study(_storage(folder)) if (folder / JOURNAL).is_file() else None
    trials = study.get_trials(deepcopy=False) if study else []
    return sum(trial.state in FINISHED for trial in trials)


def read_told(folder: Path, tuning: Tuning) -> list[Told]:
    """The last trial of every proposal in a results folder, which is left as it is."""
    study = _last_study(_storage(folder)) if (folder / JOURNAL).is_file() else None
    return TuningStudy(study, tuning).told() if study else []


def _mend_journal(folder: Path) -> None:
    """Drop what a killed process left, a torn last line and locks that nobody holds; the caller has
    the study's lease, so nobody else is writing."""
    for lock in folder.glob(f"{JOURNAL}.lock*"):
        lock.unlink()
    path = folder / JOURNAL
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _storage(folder: Path) -> JournalStorage:
    path = folder / JOURNAL
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    # Optuna reads it whole, and raises whatever a damaged line leads to.
    except Exception as error:
        lines = path.read_bytes().splitlines()
        bad = next((n for n, line in enumerate(lines, 1) if not _is_entry(line)), 0)
        raise ConfigError(
            f"{path}{f', line {bad},' if bad else ''} must be as Optuna wrote it, but is damaged "
            f"({type(error).__name__}: {error}); move the file away and give the same command: "
            "finished trials are found in the store, and nothing is trained twice"
        ) from error


def _is_entry(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def _last_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Number of the proposal -> its last trial, redrawn ones left out."""
    last: dict[int, FrozenTrial] = {}
    for frozen in study.get_trials(deepcopy=False):
        attributes = frozen.user_attrs
        if "trial_id" in attributes and "repeats" not in attributes:
            last[attributes["proposal"]] = frozen
    return last


def _last_study(storage: JournalStorage) -> optuna.Study | None:
    """The study that was created last: an allowed change of the space starts a further one."""
    names = optuna.get_all_study_names(storage)
    if not names:
        return None
    last = max(names, key=storage.get_study_id_from_name)
    return optuna.load_study(study_name=last, storage=storage)


def _clean(study: optuna.Study) -> None:
    """Tell trials that nobody works on as failed; a sampler would take them for running."""
    while any(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False)):
        study.ask()
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(frozen.number, state=TrialState.FAIL)


def _identity(tuning: Tuning) -> dict[str, Any]:
    """Settings that all trials of one study share, as JSON values."""
    parameters = {p.name: _plain_domain(to_plain(p.domain)) for p in tuning.space.parameters}
    return {
        "search": json.loads(json.dumps(parameters)),
        "objectives": [[o.column, o.maximised] for o in tuning.goals.objectives],
        "caps": {column: cap.words(column) for column, cap in tuning.goals.caps.items()},
        "first": json.loads(json.dumps(list(tuning.file.first.items()))),
        "pruning": to_plain(tuning.file.pruning),
    }


def _plain_domain(tree: dict[str, Any]) -> dict[str, Any]:
    """A domain without what named choices mean: the trials' names tell that."""
    choices = tree["choices"]
    tree["choices"] = list(choices) if isinstance(choices, dict) else choices
    return {name: value for name, value in tree.items() if value is not None}


def _taken_over(old: TuningStudy, judge: Judge) -> list[FrozenTrial]:
    """The trials that lie in the space of the tune file, judged anew, for a further study; with
    them those that were pruned, where goals and pruner are as they were."""
    tuning, parameters = old.tuning, old.tuning.space.parameters
    before, now = old.study.user_attrs["space"], _identity(tuning)
    same = all(before.get(name) == now[name] for name in ("objectives", "caps", "pruning"))
    first = {name: tuning.space.parameters_of(axes) for name, axes in tuning.file.first.items()}
    numbers = itertools.count(len(first))
    trials: list[FrozenTrial] = []
    for _, frozen in sorted(_last_trials(old.study).items()):
        attributes = frozen.user_attrs
        try:
            given = tuning.space.parameters_of(attributes["axes"])
        except ConfigError:
            continue
        verdict = judge(old.point_of(frozen))
        done = verdict if verdict is not None and verdict.status == "done" else None
        if done is None and not (same and frozen.state == TrialState.PRUNED):
            continue
        name = next((name for name, values in first.items() if values == given), None)
        number = next(numbers) if name is None else list(first).index(name)
        # Values that were asked for but not in force stay, for samplers that need every parameter.
        values = {p.name: given.get(p.name, frozen.params.get(p.name)) for p in parameters}
        kept = [p for p in parameters if p.domain.contains(values[p.name])]
        trial = create_trial(
            state=TrialState.COMPLETE if done else TrialState.PRUNED,
            params={p.name: values[p.name] for p in kept},
            distributions={p.name: p.domain.distribution for p in kept},
            values=[v for v in done.values.values() if v is not None] if done else None,
            intermediate_values=frozen.intermediate_values if same else None,
            constraints=dict(done.violations) if done else frozen.constraints,
            user_attrs={
                **{key: attributes[key] for key in ("axes", "trial_id", "sampler")},
                "proposal": number,
                "status": done.status if done else attributes["status"],
                "error": done.error if done else attributes["error"],
                **({} if name is None else {"name": name}),
            },
        )
        trials.append(trial)
    return trials
