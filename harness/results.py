"""The results folder of a sweep: what was asked, what came out, and how to trace it."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from analysis.report import REPORT_VERSION, write_figures
from analysis.summary import summarize
from harness.execution import Outcome, command_line, environment
from harness.keys import to_plain
from harness.plan import Plan
from harness.store import Store, file_sha256, write_json
from harness.sweep import resolved_tree
from harness.table import compile_table, write_rows


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a run left in its results folder."""

    rows: list[dict[str, Any]]
    figures: list[Path]
    grids: list[Path]
    words: str
    """The analysis's closing words, or why there are none."""
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rows": self.rows,
            "figures": [str(path) for path in self.figures],
            "grids": [str(path) for path in self.grids],
            "summary": self.words,
            "wall_s": self.wall_s,
        }


def write_results(
    plan: Plan, store: Store, outcomes: Mapping[str, Outcome], results: Path, wall_s: float
) -> Written:
    """Write `sweep.yaml`, `rows/`, `table.*`, `manifest.json`, `grids/` and `figures/`.

    What an earlier plan left in the folder and this one does not have is removed; artifacts stay.
    """
    text = yaml.safe_dump(resolved_tree(plan.sweep), sort_keys=False, allow_unicode=True)
    (results / "sweep.yaml").write_text(text, encoding="utf-8")
    rows = write_rows(plan, store, outcomes, results)
    frame = compile_table(rows, results)
    write_json(results / "manifest.json", _manifest(plan, store, outcomes, wall_s))
    grids = _copy_grids(plan, store, results)
    figures, words = _analyse(results, frame)
    return Written(rows=rows, figures=figures, grids=grids, words=words, wall_s=wall_s)


def _analyse(results: Path, frame: pd.DataFrame) -> tuple[list[Path], str]:
    """Figures and closing words; a table that cannot be drawn is told, the run has succeeded."""
    try:
        return _figures(results), summarize(frame)
    except ValueError as error:
        return [], f"no figures: {error}"


def _figures(results: Path) -> list[Path]:
    """Write the report, unless what is there was all made from this very table."""
    note = results / "figures" / "drawn.json"
    made_of = {"table_sha256": file_sha256(results / "table.csv"), "report": REPORT_VERSION}
    if note.is_file():
        drawn = json.loads(note.read_text(encoding="utf-8"))
        paths = [results / name for name in drawn["files"]]
        if made_of.items() <= drawn.items() and all(path.is_file() for path in paths):
            return paths
        note.unlink()
    paths = write_figures(results)
    names = [path.relative_to(results).as_posix() for path in paths]
    write_json(note, {**made_of, "files": names})
    return paths


def _manifest(
    plan: Plan, store: Store, outcomes: Mapping[str, Outcome], wall_s: float
) -> dict[str, Any]:
    stages = []
    for stage in plan.stages:
        artifact = store.find(stage.kind, stage.key)
        outcome = outcomes.get(stage.key)
        stages.append(
            {
                "kind": stage.kind,
                "label": stage.label,
                "key": stage.key,
                "status": outcome.status if outcome else "reused" if artifact else "not run",
                "error": outcome.error if outcome else "",
                "cost": artifact.record["cost"] if artifact else None,
                "environment": artifact.record["environment"] if artifact else None,
            }
        )
    return {
        "sweep": plan.sweep.file.name,
        "command": command_line(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "wall_s": wall_s,
        "environment": environment(torch.device("cpu")),
        "store": str(store.root),
        "stages": stages,
        "trials": {row.trial_id: to_plain(row.trial) for row in plan.rows},
    }


def _copy_grids(plan: Plan, store: Store, results: Path) -> list[Path]:
    """Put each row's sample and reconstruction grids beside the table."""
    folder = results / "grids"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    copied = []
    for row in plan.rows:
        several = len([other for other in plan.rows if other.trial_id == row.trial_id]) > 1
        samples = f"{row.trial_id}_samples{f'_{row.row_id}' if several else ''}.png"
        for stage, name, target in (
            (row.reconstruction, "reconstructions.png", f"{row.trial_id}_reconstructions.png"),
            (row.generation, "samples.png", samples),
        ):
            artifact = store.find(stage.kind, stage.key)
            if artifact and (artifact.path / name).is_file():
                shutil.copyfile(artifact.path / name, folder / target)
                copied.append(folder / target)
    return copied
