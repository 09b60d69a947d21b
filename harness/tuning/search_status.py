"""How a search stands, found in its results: the study's journal is read and left as it is."""

from collections import Counter
from pathlib import Path

from harness.plan.plan import Plan
from harness.reporting.status import Trials
from harness.results.folder import write_yaml
from harness.schema.keys import to_plain
from harness.storage.lease import is_held
from harness.tuning.study import LEASE, read_told
from harness.tuning.tune_file import Tuning, load_tune

FILE = "tune.yaml"
"""The tune file with every override applied, in the folder of results."""


def write_tune_file(tuning: Tuning, results: Path) -> None:
    """Put what is asked into the results folder, where `harness.status` reads it."""
    write_yaml(results / FILE, to_plain(tuning.file))


def look_at_search(results: Path) -> tuple[Plan, Plan, Trials]:
    """Plan of all that a search has begun, plan of its unfinished part, and state of its trials."""
    tuning, is_running = load_tune(results / FILE), is_held(results / LEASE)
    told = read_told(results, tuning)
    open_status = "running" if is_running else "interrupted"
    ended = (t.frozen.user_attrs["error"] if t.status == "pruned" else t.status for t in told)
    counts = Counter(open_status if status == "pending" else status for status in ended)
    unfinished = [one.point for one in told if not one.finished]
    trials = Trials(
        asked=tuning.file.num_trials,
        counts=counts,
        finished=len(told) - len(unfinished),
        is_running=is_running,
    )
    return tuning.plan(one.point for one in told), tuning.plan(unfinished), trials
