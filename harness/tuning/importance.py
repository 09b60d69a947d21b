"""Importance of parameters for the objectives, among trials that have them all."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from harness.tuning.space import Parameter
from harness.tuning.study import Told, TuningStudy

MIN_TRIALS = 6
"""Trials below which an importance would say nothing."""
GOOD_SHARE = 0.25
"""Share of the trials that count as good; of a dozen trials, Optuna's tenth would be one."""
NUM_SHUFFLES = 40
CHANCE_SHARE = 0.9


def importances(study: TuningStudy) -> list[dict[str, Any]]:
    """Importance of every parameter for every objective by PED-ANOVA.

    A parameter under a condition is weighed among the trials in which the condition holds, beside
    all others that are in force there; shares of a group sum to one.

    Returns:
        Lines with `objective`, `parameter`, `among`, `importance`, `chance` (what
        `CHANCE_SHARE` of shuffles of the objective stay below) and `num_trials`.
    """
    measured = [told for told in study.told() if told.status == "done"]
    lines: list[dict[str, Any]] = []
    for among, members, parameters in _groups(study, measured):
        trials = [
            optuna.trial.create_trial(
                params={p.name: told.frozen.params[p.name] for p in parameters},
                distributions={p.name: p.domain.distribution for p in parameters},
                values=told.frozen.values,
            )
            for told in members
        ]
        for position, objective in enumerate(study.tuning.goals.objectives):
            sign = -1.0 if objective.maximised else 1.0
            values = [sign * told.frozen.values[position] for told in members]
            shares, chance = _shares(trials, values), _chance(trials, values)
            lines += [
                {
                    "objective": objective.column,
                    "parameter": parameter.axis,
                    "among": among,
                    "importance": shares.get(parameter.name, 0.0),
                    "chance": chance[parameter.name],
                    "num_trials": len(trials),
                }
                for parameter in parameters
            ]
    return lines


def _groups(
    study: TuningStudy, measured: Sequence[Told]
) -> list[tuple[str, list[Told], list[Parameter]]]:
    """Condition in words, the trials under it, and the parameters that vary among them."""
    groups: dict[tuple[int, ...], tuple[str, list[Told], list[Parameter]]] = {}
    for parameter in study.tuning.space.parameters:
        members = [told for told in measured if parameter.domain.holds(told.point.axes)]
        varying = [p for p in study.tuning.space.parameters if _varies(p, members)]
        if len(members) >= MIN_TRIALS and len(varying) > 1:
            numbers = tuple(told.number for told in members)
            words = parameter.domain.condition or "all trials"
            groups.setdefault(numbers, (words, members, varying))
    return list(groups.values())


def _varies(parameter: Parameter, members: Sequence[Told]) -> bool:
    """Whether it is in force in all of these trials and not the same in all of them."""
    in_force = all(
        parameter.domain.holds(told.point.axes) and parameter.name in told.frozen.params
        for told in members
    )
    return in_force and len({told.frozen.params[parameter.name] for told in members}) > 1


def _shares(trials: Sequence[FrozenTrial], values: Sequence[float]) -> dict[str, float]:
    """Parameter -> share, where low values are good."""
    study = optuna.create_study(directions=[StudyDirection.MINIMIZE] * len(trials[0].values))
    study.add_trials(trials)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=GOOD_SHARE)
    with warnings.catch_warnings():
        # It says that low values are taken for good, which they are here.
        warnings.filterwarnings("ignore", message="PedAnova")
        return get_param_importances(
            study, evaluator=evaluator, target=lambda trial: values[trial.number]
        )


def _chance(trials: Sequence[FrozenTrial], values: Sequence[float]) -> dict[str, float]:
    chance = random.Random(0)
    shuffled = [
        _shares(trials, chance.sample(list(values), len(values))) for _ in range(NUM_SHUFFLES)
    ]
    return {
        name: sorted(shares[name] for shares in shuffled)[int(CHANCE_SHARE * NUM_SHUFFLES)]
        for name in shuffled[0]
    }
