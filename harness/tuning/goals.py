"""Goals of a search: objectives and caps over columns of the table; verdicts on rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.results.columns import COLUMNS
from harness.schema.reading import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One column of the table that the search makes better."""

    column: str
    direction: Literal["minimise", "maximise"] | None = None
    """Absent: what is better in this column."""

    @property
    def maximised(self) -> bool:
        """Whether higher is better; lower is where neither the file nor the table says so."""
        if self.direction is None:
            return COLUMNS[self.column].better == "higher"
        return self.direction == "maximise"


@dataclass(frozen=True, kw_only=True)
class Cap:
    """Bound that a column must keep to: exactly one of the two."""

    at_most: float | None = None
    """Largest acceptable value."""
    at_least: float | None = None
    """Least acceptable value."""

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(
                "a cap must have exactly one of `at_most` and `at_least`, but has "
                f"{'neither' if self.at_most is None else 'both'}; for example {{at_most: 2.0}}"
            )

    @property
    def bound(self) -> float:
        """The acceptable limit."""
        bound = self.at_most if self.at_most is not None else self.at_least
        assert bound is not None
        return bound

    def violation(self, value: float) -> float:
        """How far a value is beyond the cap, relative to it; at most 0 where it keeps to it."""
        beyond = value - self.bound if self.at_most is not None else self.bound - value
        return beyond / (abs(self.bound) or 1.0)

    def words(self, column: str) -> str:
        """`rfid at most 2`."""
        return f"{column} at {'most' if self.at_most is not None else 'least'} {self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Objectives and caps of one search."""

    objectives: tuple[Objective, ...]
    caps: Mapping[str, Cap]

    def __post_init__(self) -> None:
        columns = [objective.column for objective in self.objectives]
        if not columns or len(set(columns)) < len(columns):
            raise ConfigError(
                f"must be one or more columns, each once, but got {columns}; use [{{column: rfid}},"
                " {column: gfid}]",
                path="objectives",
            )
        for number, column in enumerate(columns):
            _check_column(column, f"objectives.{number}.column")
        for column in self.caps:
            _check_column(column, f"caps.{column}")

    @property
    def columns(self) -> list[str]:
        """Columns that are looked at, each once: those of the objectives, then of the caps."""
        return list(dict.fromkeys([*(o.column for o in self.objectives), *self.caps]))

    @property
    def gated(self) -> bool:
        """Whether a cap can tell before the generator is trained."""
        return any(COLUMNS[column].measured_on == "reconstructions" for column in self.caps)

    @property
    def constraints(self) -> list[str]:
        """Names of the constraints that every told trial has, in their order."""
        return ["measured", *(cap.words(column) for column, cap in self.caps.items())]

    def broken_caps(self, row: Mapping[str, Any]) -> str:
        """The caps that a row's known values are beyond, in words; empty without."""
        broken = [
            f"{column} {row[column]:.4g} is beyond the cap ({cap.words(column)})"
            for column, cap in self.caps.items()
            if _finite(row[column]) and cap.violation(row[column]) > 0
        ]
        return "; ".join(broken)


Status = Literal["done", "capped", "diverged", "unmeasured", "failed", "pruned"]
"""How a trial of the search ended: measured; beyond a cap before its generator; with a non-finite
loss; run, but without a finite value of an objective; with an error; left
at a rung."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Verdict on a trial, for the search."""

    status: Status
    values: Mapping[str, float | None]
    """Objective's column -> value, None where it was not measured."""
    violations: Mapping[str, float]
    """Constraint -> value; the trial is feasible where all are at most 0."""
    error: str = ""

    @property
    def words(self) -> str:
        """Values, and the error if there is one."""
        values = [f"{c} {'-' if v is None else format(v, '.4g')}" for c, v in self.values.items()]
        return "; ".join(filter(None, [", ".join(values), self.error]))


def judge(row: Mapping[str, Any], goals: Goals, *, diverged: bool, capped: bool) -> Verdict:
    """The verdict on a row whose stages have ended; `capped`: a cap was broken before its
    generator."""
    columns = [objective.column for objective in goals.objectives]
    values = {column: row[column] if _finite(row[column]) else None for column in columns}
    status: Status = "failed"
    error = row["error"] or ""
    if capped:
        status = "capped"
        error = f"the generator was not trained: {goals.broken_caps(row)}"
    elif diverged:
        status = "diverged"
    elif row["status"] == "done":
        unknown = [c for c in goals.columns if not _finite(row[c])]
        status = "unmeasured" if unknown else "done"
        error = f"no finite value of {', '.join(unknown)}" if unknown else ""
    # Unknown values count as beyond their cap, unless it was another cap that ended the trial.
    unknown = 0.0 if capped else 1.0
    beyond = [
        cap.violation(row[column]) if _finite(row[column]) else unknown
        for column, cap in goals.caps.items()
    ]
    measured = -1.0 if status in ("done", "capped") else 1.0
    violations = dict(zip(goals.constraints, [measured, *beyond], strict=True))
    return Verdict(status=status, values=values, violations=violations, error=error)


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _check_column(column: str, path: str) -> None:
    numbers = [name for name, about in COLUMNS.items() if about.type != "text"]
    if column not in numbers:
        raise ConfigError(
            f"must be a column of numbers of the table, but got {column!r}"
            f"{nearest(column, numbers)} (columns: harness/results/columns.py)",
            path=path,
        )
