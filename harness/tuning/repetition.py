"""Settings that are run again under several seeds: an ordinary sweep in a folder of the search."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from harness.commands.exit_codes import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TIME_LIMIT,
    EXIT_WRONG_REQUEST,
    TimeUp,
    exit_code,
)
from harness.commands.options import RunOptions
from harness.commands.run_sweep import run_sweep
from harness.config.sweep import load_sweep
from harness.results.folder import write_yaml
from harness.results.rows import write_csv
from harness.schema.keys import to_plain
from harness.schema.reading import ConfigError
from harness.tuning.outputs import TrialsWritten
from harness.tuning.tune_file import Tuning


def repeat_settings(
    options: RunOptions, tuning: Tuning, written: TrialsWritten, results: Path, *, promote: bool
) -> int:
    """Run the recommended setting again and, if asked for, promote the Pareto set.

    They are the sweeps `<results>/confirmed/`, at the search's budget, and `<results>/promoted/`,
    at full budget; they run with the search's options. Returns 0, or 1 where rows failed.

    Raises:
        ConfigError: A sweep was refused; standard error says why.
        KeyboardInterrupt: A sweep was interrupted, or the time limit has passed.
    """
    repetitions = {"confirmed": tuning.file.confirmation}
    if promote:
        repetitions["promoted"] = tuning.file.promotion
    worst = EXIT_DONE
    for kind, repetition in repetitions.items():
        full = kind == "promoted"
        settings = written.settings(front=full, references=repetition.references)
        if not settings or not repetition.seeds:
            continue
        path = results / f"{kind}.yaml"
        write_yaml(path, to_plain(tuning.sweep_file(kind, settings, repetition.seeds, full=full)))
        asked = replace(options, sweep=path, settings=(), results=results, json=False)
        # Standard output belongs to the search's own report.
        with contextlib.redirect_stdout(sys.stderr):
            code = exit_code(lambda asked=asked: run_sweep(asked, load_sweep(asked.sweep)))
        if code in (EXIT_INTERRUPTED, EXIT_TIME_LIMIT):
            raise TimeUp if code == EXIT_TIME_LIMIT else KeyboardInterrupt
        if code == EXIT_WRONG_REQUEST:
            raise ConfigError(
                f"the search is finished, but its {kind} settings must be a sweep that can run, "
                "and it was refused as said above; mend that and run the same command again",
                source=str(path),
            )
        lines = [
            {
                "trial_id": point.trial_id,
                "setting": point.axes["setting"],
                "setting_hash": tuning.setting_hash(settings[point.axes["setting"]]),
                "seed": point.axes["seed"],
            }
            for point in load_sweep(path).points
        ]
        folder = results / kind
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / "settings.csv", pd.DataFrame(lines))
        worst = max(worst, code)
    return worst
