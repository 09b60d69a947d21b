"""The search space: which fields of a trial are searched, in which domain, and when."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from harness.config.axes import same
from harness.config.conditions import check_condition, condition_words, holds
from harness.config.trial import Trial
from harness.schema.reading import ConfigError, nearest, validate

Axes = dict[str, Any]
"""Axis (a preset's name or a dotted path of the trial) -> value."""
Presets = dict[str, dict[str, dict[str, Any]]]
"""Axis -> value name -> dotted paths of the trial and their values."""

RANGES = ("log", "uniform", "integer")
KINDS = (*RANGES, "choices")


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Domain of one axis: exactly one of the first four fields."""

    log: tuple[float, float] | None = None
    """Least and largest number, evenly by ratio."""
    uniform: tuple[float, float] | None = None
    """Least and largest number, evenly by difference."""
    integer: tuple[int, int] | None = None
    """Least and largest whole number."""
    step: int | None = None
    """With `integer`: distance of the numbers from one another; absent: 1."""
    choices: list[Any] | dict[str, Any] | None = None
    """Plain values or names of a preset; or names, each with the value or block that it means."""
    when: dict[str, Any] | None = None
    """Axis that stands above -> value or values of it under which this domain is in force."""

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a domain must have exactly one of {', '.join(KINDS)}, but got "
                f"{', '.join(given) or 'none'}; for example {{uniform: [0, 1]}}"
            )
        low, high = self.integer or (0, 0)
        if self.step is not None and (low >= high or self.step < 1 or (high - low) % self.step):
            raise ValueError(
                f"`step` must lead from the least to the largest number of `integer`, but got "
                f"{self.step}; change it, or leave it out"
            )
        if self.choices is not None:
            self._check_choices(list(self.choices))
        else:
            self._check_range(given[0])

    def _check_range(self, kind: str) -> None:
        low, high = getattr(self, kind)
        if low >= high or (kind == "log" and low <= 0):
            least = "0 < least < largest" if kind == "log" else "least < largest"
            raise ValueError(
                f"`{kind}` must have {least}, but got [{low}, {high}]; give a value that does not "
                "vary in the trial itself"
            )

    def _check_choices(self, choices: list[Any]) -> None:
        texts = [json.dumps(choice) for choice in choices]
        if len(choices) < 2 or len(set(texts)) < len(texts):
            raise ValueError(
                f"`choices` must be two or more, each once, but got {choices}; give a value that "
                "does not vary in the trial itself"
            )
        blocks = [choice for choice in choices if isinstance(choice, dict | list)]
        if blocks:
            raise ValueError(
                f"a block among `choices` must have a name, but {blocks[0]} has none; write "
                "choices: {name: block}"
            )

    @property
    def names(self) -> list[Any]:
        """The choices as the study knows them."""
        return list(self.choices or ())

    @property
    def scale(self) -> str:
        """`log`, `linear` or `choices`."""
        if self.choices is not None:
            return "choices"
        return "log" if self.log is not None else "linear"

    @property
    def ends(self) -> tuple[Any, ...]:
        """Least and largest value, or all choices."""
        return self.log or self.uniform or self.integer or tuple(self.names)

    @property
    def distribution(self) -> BaseDistribution:
        """The domain as Optuna has it."""
        if self.choices is not None:
            return CategoricalDistribution(self.names)
        if self.integer is not None:
            return IntDistribution(*self.integer, step=self.step or 1)
        return FloatDistribution(*self.ends, log=self.log is not None)

    @property
    def condition(self) -> str:
        """`when` in words; empty where it is always in force."""
        return condition_words(self.when or {})

    def holds(self, axes: Mapping[str, Any]) -> bool:
        """Whether it is in force, given the axes above."""
        return holds(self.when or {}, axes)

    def contains(self, value: Any) -> bool:
        """Whether a value lies in it."""
        if self.choices is not None:
            return any(same(value, name) for name in self.names)
        low, high = self.ends
        kinds = int if self.integer is not None else int | float
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            return False
        return self.step is None or (value - low) % self.step == 0


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One axis in one domain: what Optuna calls a parameter."""

    name: str
    """The axis; with its condition, where the axis has several domains."""
    axis: str
    domain: Domain

    def suggest(self, trial: optuna.Trial) -> Any:
        """The trial's value."""
        domain = self.domain
        if domain.choices is not None:
            return trial.suggest_categorical(self.name, domain.names)
        if domain.integer is not None:
            return trial.suggest_int(self.name, *domain.integer, step=domain.step or 1)
        return trial.suggest_float(self.name, *domain.ends, log=domain.log is not None)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All parameters, in the order of the file."""

    parameters: tuple[Parameter, ...]

    @property
    def split_axes(self) -> list[str]:
        """Axes of several domains, each under a condition."""
        axes = [p.axis for p in self.parameters]
        return [axis for axis in dict.fromkeys(axes) if axes.count(axis) > 1]

    @property
    def listed(self) -> dict[str, list[Any]]:
        """Axis -> its choices over all domains; none of a range."""
        return {axis: [] for axis in (p.axis for p in self.parameters)} | _offered(self.parameters)

    def suggest(self, trial: optuna.Trial, *, every: bool) -> Axes:
        """The trial's values of all axes that are in force.

        Args:
            every: Ask for parameters out of force too, so that all trials have the same ones:
                some samplers model only what all trials have. Such values are left out.
        """
        axes: Axes = {}
        for parameter in self.parameters:
            in_force = parameter.axis not in axes and parameter.domain.holds(axes)
            value = parameter.suggest(trial) if in_force or every else None
            if in_force:
                axes[parameter.axis] = value
        return axes

    def parameters_of(self, axes: Mapping[str, Any]) -> dict[str, Any]:
        """The study's parameters behind given values of the axes."""
        values: dict[str, Any] = {}
        seen: Axes = {}
        for parameter in self.parameters:
            axis, domain = parameter.axis, parameter.domain
            if axis in seen or not domain.holds(seen):
                continue
            if axis not in axes:
                raise ConfigError(f"must give {axis!r}, which is searched here, but does not")
            if not domain.contains(axes[axis]):
                raise ConfigError(
                    f"must lie in the searched {_words(domain)}, but got {axes[axis]!r}; widen "
                    f"search.{axis}, or change the value",
                    path=axis,
                )
            values[parameter.name] = seen[axis] = axes[axis]
        for axis in axes:
            if axis not in seen:
                valid = list(dict.fromkeys(p.axis for p in self.parameters))
                known = axis in valid
                reason = "is not searched under these choices" if known else "is not searched"
                hint = "" if known else f"{nearest(axis, valid)} (searched: {', '.join(valid)})"
                raise ConfigError(f"{axis!r} {reason}{hint}; leave it out", path=axis)
        return values

    def corners(self) -> Iterator[Axes]:
        """Every combination of choices, with all numbers least and with all numbers largest."""
        choices = [p for p in self.parameters if p.domain.choices is not None]
        for chosen in itertools.product(*(p.domain.names for p in choices)):
            fixed = {p.name: value for p, value in zip(choices, chosen, strict=True)}
            for end in (0, -1):
                axes: Axes = {}
                for parameter in self.parameters:
                    if parameter.axis not in axes and parameter.domain.holds(axes):
                        value = fixed.get(parameter.name, parameter.domain.ends[end])
                        axes[parameter.axis] = value
                yield axes


def parse_space(search: Mapping[str, Any], presets: Presets) -> tuple[SearchSpace, Presets]:
    """Validate the `search` block (axis -> domain, or list of domains with conditions): the space,
    and the presets that its named choices stand for."""
    if not search:
        raise ConfigError("must name at least one field, but is empty; add one", path="search")
    parameters: list[Parameter] = []
    further: Presets = {}
    for axis, tree in search.items():
        try:
            domains = _read_domains(tree)
            _check_axis(axis, domains, presets)
            for number, domain in enumerate(domains):
                path = f"{number}.when" if isinstance(tree, list) else "when"
                check_condition(domain.when or {}, _offered(parameters), path)
        except ConfigError as error:
            raise error.within(path=f"search.{axis}") from error
        for domain in domains:
            name = f"{axis} ({domain.condition})" if len(domains) > 1 else axis
            parameters.append(Parameter(name=name, axis=axis, domain=domain))
            if isinstance(domain.choices, dict):
                named = {name: {axis: value} for name, value in domain.choices.items()}
                further.setdefault(axis, {}).update(named)
    return SearchSpace(parameters=tuple(parameters)), further


def _read_domains(tree: Any) -> list[Domain]:
    if not isinstance(tree, list):
        return [validate(Domain, tree)]
    domains: list[Domain] = []
    for number, item in enumerate(tree):
        try:
            domains.append(validate(Domain, item))
        except ConfigError as error:
            raise error.within(path=str(number)) from error
        if domains[-1].when is None:
            raise ConfigError(
                "each of several domains must say `when` it is in force, but this does not; add "
                "when: {axis: value}",
                path=str(number),
            )
    if len({domain.condition for domain in domains}) < len(domains) or not domains:
        raise ConfigError("several domains must differ in `when`, but do not; keep one of each")
    return domains


def _check_axis(axis: str, domains: Sequence[Domain], presets: Presets) -> None:
    fields = [f.name for f in dataclasses.fields(Trial)]
    if axis not in presets and axis.partition(".")[0] not in fields:
        names = [*presets, *fields]
        raise ConfigError(
            f"unknown axis {axis!r}{nearest(axis, names)} (an axis is a preset's name or a dotted "
            f"path that starts with one of: {', '.join(names)})"
        )
    for domain in domains:
        if axis in presets:
            valid = list(presets[axis])
            wrong = [n for n in domain.names if n not in valid]
            if not isinstance(domain.choices, list) or wrong:
                came = repr(wrong[0]) if wrong else domain.scale
                raise ConfigError(
                    f"a preset is searched by choices of its names, but got {came}"
                    f"{nearest(str(came), valid)} (valid: {', '.join(valid)})"
                )


def _offered(above: Sequence[Parameter]) -> dict[str, list[Any]]:
    """The axes with choices that stand above, and these."""
    offered: dict[str, list[Any]] = {}
    for parameter in above:
        if parameter.domain.choices is not None:
            offered.setdefault(parameter.axis, []).extend(parameter.domain.names)
    return offered


def _words(domain: Domain) -> str:
    if domain.choices is not None:
        return f"choices {domain.names}"
    return f"range [{domain.ends[0]:g}, {domain.ends[1]:g}]"
