"""Settings that are run again under several seeds: an ordinary sweep in a folder of the search."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.commands.running import EXIT_INTERRUPTED, EXIT_WRONG_REQUEST
from harness.config.sweep import load_sweep
from harness.results.folder import write_csv, write_yaml
from harness.run import main as run_sweep
from harness.schema.keys import to_plain
from harness.schema.reading import ConfigError
from harness.tuning.space import Axes
from harness.tuning.tune_file import Tuning

Kind = Literal["confirmed", "promoted"]
"""Settings again at the search's budget, or at full budget."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how stages run, as the command line says it."""

    results: Path
    """Results folder of the search."""
    store: Path
    executor: str
    address: str | None
    download: bool
    """Whether missing published weights are fetched."""
    wait_for_nodes: bool = False
    """Whether requests that nothing can meet wait for machines that join."""
    max_failures: float | None = None
    """Share of failed stages at which everything stops."""

    @property
    def arguments(self) -> list[str]:
        """Arguments of `harness.run`."""
        arguments = ["--results", str(self.results), "--store", str(self.store)]
        arguments += ["--executor", self.executor]
        arguments += ["--address", self.address] if self.address else []
        arguments += ["--wait-for-nodes"] if self.wait_for_nodes else []
        if self.max_failures is not None:
            arguments += ["--max-failures", str(self.max_failures)]
        return arguments + (["--download"] if self.download else [])


def repeat(
    kind: Kind,
    tuning: Tuning,
    settings: Mapping[str, Axes],
    seeds: Sequence[int],
    place: Place,
) -> int:
    """Run settings under several seeds, in `<results>/<kind>/`.

    Args:
        kind: Folder, and name of the sweep.
        tuning: The tune file.
        settings: Name -> values of the searched fields.
        seeds: Seeds of the trials.
        place: Where they run.

    Returns:
        The exit code of `harness.run`: 0, or 1 where rows failed.

    Raises:
        ConfigError: The sweep was refused; standard error says why.
        KeyboardInterrupt: The sweep was interrupted.
    """
    path = place.results / f"{kind}.yaml"
    sweep_file = tuning.sweep_file(kind, settings, seeds, full=kind == "promoted")
    write_yaml(path, to_plain(sweep_file))
    # Standard output belongs to the search's own report.
    with contextlib.redirect_stdout(sys.stderr):
        code = run_sweep([str(path), *place.arguments])
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
    folder = place.results / kind
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "settings.csv", pd.DataFrame(lines))
    return code
