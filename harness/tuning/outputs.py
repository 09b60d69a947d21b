"""Files of a search in its results folder, beside the table of its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tuning.trials import (
    DECIDED_AT,
    Recommendation,
    Repeated,
    Trials,
    compute_front,
    compute_orders,
    load_repetitions,
    load_trials,
    recommend,
    setting_name,
)
from harness.config.axes import short_names
from harness.execution.stage_run import Outcome
from harness.reporting.words import columns, number
from harness.results.folder import write_tables, write_yaml
from harness.results.rows import write_csv
from harness.schema.keys import to_plain
from harness.storage.artifacts import Store
from harness.storage.durable import write_json
from harness.tuning.importance import importances
from harness.tuning.space import Axes
from harness.tuning.study import Told, TuningStudy, setting_words, trial_words
from harness.tuning.trial_feed import judged_row, recorded_outcomes

IMPORTANCE_COLUMNS = ["objective", "parameter", "among", "importance", "chance", "num_trials"]


@dataclass(frozen=True, kw_only=True)
class TrialsWritten:
    """The files of a search's trials."""

    rows: list[dict[str, Any]]
    trials: Trials
    axes: Mapping[int, Axes]
    """Number of the proposal -> its values."""

    @property
    def bad_rows(self) -> list[dict[str, Any]]:
        """Rows of measured trials that are not done: other snapshots or guidance settings."""
        table = self.trials.table
        measured = set(table[table["status"].isin(["done", "unmeasured"])]["trial_id"])
        return [r for r in self.rows if r["trial_id"] in measured and r["status"] != "done"]

    @property
    def recommendation(self) -> Recommendation | None:
        """The setting that the search recommends so far."""
        return recommend(self.trials)

    def settings(self, *, front: bool, references: Sequence[str] | None) -> dict[str, Axes]:
        """Settings to run again: the recommended one or the whole `front`, and first trials by
        their names (None: all of them)."""
        measured = compute_front(self.trials)
        names = self.trials.references if references is None else references
        chosen = measured[measured["name"].isin(list(names))]
        best = self.recommendation
        if front:
            chosen = pd.concat([chosen, measured[measured["on_front"]]])
        elif best is not None:
            chosen = pd.concat([chosen, measured[measured["trial"] == best.trial]])
        trials = [row for _, row in chosen.drop_duplicates("trial").iterrows()]
        return {self.words(row): self.axes[int(row["trial"])] for row in trials}

    def words(self, trial: Any) -> str:
        """A trial's values as people write them, after its name where it has one."""
        return setting_words(str(trial["name"]), self.axes[int(trial["trial"])])

    def full_words(self, trial: Any) -> str:
        """A trial's number in the table with its values."""
        number = int(trial["trial"])
        return trial_words(number, str(trial["name"]), self.axes[number])


def write_trials(
    study: TuningStudy, store: Store, outcomes: Mapping[str, Outcome], results: Path, wall_s: float
) -> TrialsWritten:
    """Write the table, `trials.csv`, `study.json` and `importance.csv`."""
    told, tuning = study.told(), study.tuning
    points = {one.point.trial_id: one.point for one in told}
    plan = tuning.plan(points.values())
    recorded = recorded_outcomes(told, plan)
    rows, _ = write_tables(plan, store, outcomes, results, wall_s, row_outcomes=recorded)
    by_id = {row["row_id"]: row for row in rows}
    judged = {
        trial_id: by_id[judged_row(tuning.plan([point])).row_id]
        for trial_id, point in points.items()
    }
    lines = [_line(one, study, judged[one.point.trial_id]) for one in told]
    write_csv(results / "trials.csv", pd.DataFrame(lines, columns=_columns(study)))
    write_json(results / "study.json", _about(study, rows))
    importance = pd.DataFrame(importances(study), columns=IMPORTANCE_COLUMNS)
    write_csv(results / "importance.csv", importance)
    return TrialsWritten(
        rows=rows,
        trials=load_trials(results),
        axes={one.number: dict(one.point.axes) for one in told},
    )


def _columns(study: TuningStudy) -> list[str]:
    axes = dict.fromkeys(f"search.{p.axis}" for p in study.tuning.space.parameters)
    conditions = [f"condition.{axis}" for axis in study.tuning.space.split_axes]
    head = ["trial", "name", "status", "feasible", "study_trial", "sampler", "trial_id", "row_id"]
    rungs = [f"after step {step}" for step in study.tuning.rungs]
    columns = [*head, "setting_hash", *study.tuning.goals.columns, *rungs]
    return [*columns, *axes, *conditions, "error"]


def _line(told: Told, study: TuningStudy, row: Mapping[str, Any]) -> dict[str, Any]:
    attributes, space = told.frozen.user_attrs, study.tuning.space
    asked = space.parameters_of(told.point.axes)
    constraints = told.frozen.constraints
    feasible = told.status == "done" and all(value <= 0 for value in constraints.values())
    return {
        "trial": told.number,
        "name": told.name,
        "status": told.status,
        "feasible": "yes" if feasible else "no",
        "study_trial": told.frozen.number,
        "sampler": attributes["sampler"],
        "trial_id": told.point.trial_id,
        "row_id": row["row_id"],
        "setting_hash": study.tuning.setting_hash(dict(told.point.axes)),
        **{column: row[column] for column in study.tuning.goals.columns},
        **{f"after step {step}": v for step, v in told.frozen.intermediate_values.items()},
        **{f"search.{axis}": value for axis, value in told.point.axes.items()},
        **{
            f"condition.{p.axis}": p.domain.condition
            for p in space.parameters
            if p.name in asked and p.axis in space.split_axes
        },
        "error": attributes.get("error", ""),
    }


def _about(study: TuningStudy, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tuning = study.tuning
    repetitions = {"confirmed": tuning.file.confirmation, "promoted": tuning.file.promotion}
    names = [row["distance_name"] for row in rows if row["distance_name"]]
    setting = f"{rows[0]['dataset']}, {rows[0]['resolution']} px" if rows else ""
    return {
        "name": tuning.file.name,
        "study": study.study.study_name,
        "setting": setting,
        "distance_name": names[0] if names else "",
        "objectives": [
            {"column": o.column, "maximised": o.maximised} for o in tuning.goals.objectives
        ],
        "caps": [cap.words(column) for column, cap in tuning.goals.caps.items()],
        "references": list(tuning.file.first),
        "sampler": to_plain(tuning.file.sampler),
        "num_trials": tuning.file.num_trials,
        "num_finished": sum(told.finished for told in study.told()),
        "scales": {p.axis: p.domain.scale for p in tuning.space.parameters},
        "repeated": [kind for kind, repetition in repetitions.items() if repetition.seeds],
    }


def write_recommendation(written: TrialsWritten, study: TuningStudy, results: Path) -> str:
    """Write `recommended.yaml` and `recommendation.json`; returns what they say, in words."""
    best = written.recommendation
    if best is None:
        for name in ("recommended.yaml", "recommendation.json"):
            (results / name).unlink(missing_ok=True)
        return _nearest_words(written, study)
    axes, file = written.axes[best.trial], study.tuning.file
    settings = {"recommended": axes, **{n: v for n, v in file.first.items() if n != best.name}}
    sweep_file = study.tuning.sweep_file(
        f"{file.name}_recommended"[:100], settings, file.promotion.seeds or (0,), full=True
    )
    write_yaml(results / "recommended.yaml", to_plain(sweep_file))
    repeated = load_repetitions(results, written.trials)
    lines = _recommendation_lines(best, results)
    for kind, runs in repeated.items():
        lines += _repeated_lines(kind, runs, best.name, written)
    write_json(
        results / "recommendation.json",
        {
            "trial": best.trial,
            "name": best.name,
            "setting": axes,
            "ranges": best.ranges,
            "values_in_search": best.values,
            **{kind: _summary(runs) for kind, runs in repeated.items()},
        },
    )
    return "\n".join(lines)


def _nearest_words(written: TrialsWritten, study: TuningStudy) -> str:
    """Which trial was nearest to the caps that none keeps to; empty where none was measured."""
    caps = study.tuning.goals.constraints[1:]
    told = [one for one in study.told() if one.status in ("done", "capped")]
    if not told or not caps:
        return ""
    beyond = {one.number: max(one.frozen.constraints[name] for name in caps) for one in told}
    one = min(told, key=lambda one: beyond[one.number])
    name = written.words({"trial": one.number, "name": one.name})
    least = beyond[one.number]
    return (
        f"no recommendation: no trial keeps to the caps ({', '.join(caps)}). Nearest was {name}, "
        f"{least:.0%} beyond; loosen the caps, or search where they can be kept"
    )


def _recommendation_lines(best: Recommendation, results: Path) -> list[str]:
    values = ", ".join(f"{column} {value:.4g}" for column, value in best.values.items())
    return [
        f"recommended: {best.name}, {values} in the search (one seed, the best of "
        "many: expect somewhat worse)",
        *(f"  {axis}: {text}" for axis, text in best.ranges.items()),
        f"  in brackets: where the best {best.num_near} of {best.num_measured} trials lie",
        f"  sweep with it: {results / 'recommended.yaml'}",
    ]


def _repeated_lines(kind: str, runs: Repeated, own_name: str, written: TrialsWritten) -> list[str]:
    trials = written.trials
    names = {setting_name(row): written.words(row) for _, row in trials.table.iterrows()}
    budget = "the search's budget" if kind == "confirmed" else "full budget"
    summary = runs.summary()
    lines = [f"{kind} at {budget}, mean ± standard error over seeds:"]
    reference = trials.references[0] if trials.references else ""
    for setting, values in summary.iterrows():
        words = [_spread(runs, str(setting), reference, c, values) for c in runs.objectives]
        mark = " (recommended)" if setting == own_name else ""
        count = int(values["num_seeds"])
        seeds = f"{count} seed{'s' if count > 1 else ''}"
        lines.append(f"  {names[str(setting)]}{mark}, {seeds}: {', '.join(words)}")
    firsts = trials.table[trials.table["name"].isin(trials.references)]
    good = (firsts["status"] == "done") & firsts["feasible"]
    for _, row in firsts[~good].iterrows():
        was = "beyond a cap" if row["status"] in ("done", "capped") else row["status"]
        lines.append(f"  {row['name']}: left out, since it was {was} in the search")
    if kind == "promoted":
        for order in compute_orders(trials, runs):
            tau = f"Kendall's tau {order.tau:.2f}" if order.tau == order.tau else "too few for tau"
            lines.append(
                f"  order by {order.column} of the search at full budget: {tau}, {order.words} "
                f"(means closer than {DECIDED_AT:g} standard errors)"
            )
    return lines


def _spread(runs: Repeated, setting: str, reference: str, column: str, values: Any) -> str:
    text = f"{column} {values[column]:.4g}{_plus_minus(values[f'{column}_se'], '.2g')}"
    if setting == reference or not reference:
        return text
    change, error, count = runs.change(setting, reference, column)
    return text + (f" ({change:+.0%}{_plus_minus(error, '.0%')} of {reference})" if count else "")


def _plus_minus(error: float, form: str) -> str:
    """Empty with one seed, which has no standard error."""
    return "" if error != error else f" ± {error:{form}}"


def _summary(runs: Repeated) -> dict[str, Any]:
    table = runs.summary().astype(object)
    plain = table.where(table.notna(), None).to_dict(orient="index")
    return {str(setting): values for setting, values in plain.items()}


def trials_text(written: TrialsWritten) -> str:
    """All trials as a table for people."""
    table, trials = written.trials.table, written.trials
    front = compute_front(trials)
    best = set(front[front["on_front"]]["trial"])
    names = short_names(list(dict.fromkeys(a for axes in written.axes.values() for a in axes)))
    head = ["trial", "", "status", *trials.objectives, *names.values(), "name"]
    lines = [
        [
            str(row["trial"]),
            "front" if row["trial"] in best else _beyond(row),
            str(row["error" if row["status"] == "pruned" else "status"]),
            *(number(row[column]) for column in trials.objectives),
            *(number(written.axes[int(row["trial"])].get(axis)) for axis in names),
            str(row["name"] or ""),
        ]
        for _, row in table.iterrows()
    ]
    text = columns([head, *lines])
    failed = table[table["status"].isin(["failed", "diverged", "capped", "unmeasured"])]
    text += [
        f"{row['status']} {written.full_words(row)}: {row['error']}" for _, row in failed.iterrows()
    ]
    pruned = table[table["status"] == "pruned"]["error"].value_counts()
    text += [f"{count} of {len(table)} trials {words}" for words, count in pruned.items()]
    by_id = table.drop_duplicates("trial_id").set_index("trial_id")
    text += [
        f"{row['status']} row {row['row_id']}, another snapshot or guidance of "
        f"{written.full_words(by_id.loc[row['trial_id']])}: {row['error'] or 'not made'}"
        for row in written.bad_rows
    ]
    return "\n".join(text)


def _beyond(row: pd.Series) -> str:
    return "beyond cap" if row["status"] == "done" and not row["feasible"] else ""
