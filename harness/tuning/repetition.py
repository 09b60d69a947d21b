"""Settings that are run again under several seeds: an ordinary sweep in a folder of the search."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.commands.exit_codes import EXIT_INTERRUPTED, EXIT_WRONG_REQUEST, exit_code
from harness.commands.options import RunOptions
from harness.commands.run_sweep import run_sweep
from harness.config.sweep import load_sweep
from harness.results.folder import write_csv, write_yaml
from harness.schema.keys import to_plain
from harness.schema.reading import ConfigError
from harness.tuning.space import Axes
from harness.tuning.tune_file import Tuning

Kind = Literal["confirmed", "promoted"]
"""Settings again at the search's budget, or at full budget."""


def repeat(
    kind: Kind,
    tuning: Tuning,
    settings: Mapping[str, Axes],
    seeds: Sequence[int],
    options: RunOptions,
    results: Path,
) -> int:
    """Run settings under several seeds, in `<results>/<kind>/`.

    Args:
        kind: Folder, and name of the sweep.
        tuning: The tune file.
        settings: Name -> values of the searched fields.
        seeds: Seeds of the trials.
        options: Options of the search; its sweeps run as they say.
        results: Results folder of the search.

    Returns:
        The exit code of `harness.run`: 0, or 1 where rows failed.

    Raises:
        ConfigError: The sweep was refused; standard error says why.
        KeyboardInterrupt: The sweep was interrupted.
    """
    path = results / f"{kind}.yaml"
    sweep_file = tuning.sweep_file(kind, settings, seeds, full=kind == "promoted")
    write_yaml(path, to_plain(sweep_file))
    asked = replace(options, sweep=path, settings=(), results=results, json=False)
    # Standard output belongs to the search's own report.
    with contextlib.redirect_stdout(sys.stderr):
        code = exit_code(lambda: run_sweep(asked, load_sweep(path)))
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code == EXIT_WRONG_REQUEST:
        raise ConfigError(
            f"the search is finished, but its {kind} settings must be a sweep that can run, and it "
            "was refused as said above; mend that and run the same command again",
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
    return code
