"""How a search stands, found in its results: the study's journal is read and left as it is."""

from collections import Counter
from pathlib import Path

from harness.plan.plan import Plan, make_plan
from harness.reporting.status import Trials
from harness.results.folder import write_yaml
from harness.schema.keys import to_plain
from harness.storage.lease import is_held
from harness.tuning.study import LEASE, Told, read_told
from harness.tuning.tune_file import Tuning, load_tune

FILE = "tune.yaml"
"""The tune file with every override applied, in the folder of results."""


def write_tune_file(tuning: Tuning, results: Path) -> None:
    """Put what is asked into the results folder, where `harness.status` reads it."""
    results.mkdir(parents=True, exist_ok=True)
    write_yaml(results / FILE, to_plain(tuning.file))


def look_at_search(results: Path) -> tuple[Plan, Plan, Trials]:
    """What a search has begun, what of it is not finished, and how its trials stand.

    Raises:
        ConfigError: The tune file there makes other trials than the study's.
    """
    tuning, is_running = load_tune(results / FILE), is_held(results / LEASE)
    told = read_told(results, tuning)
    counts = Counter(_status(one, is_running=is_running) for one in told)
    finished = [one for one in told if one.finished]
    trials = Trials(
        asked=tuning.file.num_trials,
        counts=counts,
        finished=len(finished),
        is_running=is_running,
    )
    unfinished = [one for one in told if not one.finished]
    return _plan(tuning, told), _plan(tuning, unfinished), trials


def _status(told: Told, *, is_running: bool) -> str:
    if told.status != "pending":
        return told.status
    return "running" if is_running else "interrupted"


def _plan(tuning: Tuning, told: list[Told]) -> Plan:
    points = {one.point.trial_id: one.point for one in told}
    return make_plan(tuning.sweep(list(points.values())))
