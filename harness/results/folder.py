"""The results folder of a sweep: what was asked, what came out, and how to trace it."""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from harness.config.sweep import resolved_tree
from harness.execution.stage_run import Outcome
from harness.machine.environment import command_line, environment
from harness.plan.plan import Plan
from harness.results.columns import COLUMNS, SCHEMA_VERSION, with_axes
from harness.results.names import link_log, row_suffix, rows_by_trial, stage_names, trial_names
from harness.results.rows import compile_table, fits, make_row, write_csv, write_row
from harness.schema.keys import to_plain
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Artifact, DamagedArtifact, Store
from harness.storage.durable import (
    file_sha256,
    read_object,
    replacing,
    storage_errors,
    write_json,
    write_text,
)
from harness.storage.lease import wait_and_hold
from harness.storage.leftovers import remove_temporary

OF_TABLE = (
    *("table.csv", "table.parquet", "rows", "sweep.yaml", "manifest.json", "curves.parquet"),
    *("figures", "grids", "grids.md", "report.html"),
)
"""What a results folder holds of one version of a sweep."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Content of a run's results folder."""

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
    """Write the table, its rows, training curves, manifest, grids and figures of a sweep.

    What an earlier plan left in the folder and this one does not have is removed; artifacts stay.
    """
    # Two drivers of one sweep end at about the same time.
    with wait_and_hold(results / ".writing.lease"):
        remove_temporary(results)
        write_yaml(results / "sweep.yaml", resolved_tree(plan.sweep))
        rows, grids = write_tables(plan, store, outcomes, results, wall_s)
        figures, words = _analyse(results)
    return Written(rows=rows, figures=figures, grids=grids, words=words, wall_s=wall_s)


def keep_earlier(results: Path) -> None:
    """Move a table, and all that was made from it, to `earlier/` under the time of the table."""
    written = time.gmtime((results / "table.csv").stat().st_mtime)
    kept = results / "earlier" / time.strftime("%Y-%m-%dT%H%M%SZ", written)
    with storage_errors(kept):
        kept.mkdir(parents=True, exist_ok=True)
        for path in (results / name for name in OF_TABLE):
            if path.exists():
                path.replace(kept / path.name)


def write_given_row(
    row: Mapping[str, Any], artifacts: Sequence[Artifact], results: Path, wall_s: float
) -> list[dict[str, Any]]:
    """Add the row of given images to a results folder; returns all rows that are there."""
    write_row(row, results)
    rows = read_rows(results)
    compile_table(rows, results)
    manifest = results / "manifest.json"
    known = read_object(manifest)
    known[row["row_id"]] = {
        **_origin(wall_s),
        "artifacts": {str(a.path): a.record["config"] for a in artifacts},
    }
    write_json(manifest, known)
    for artifact in artifacts:
        for name in ("samples.png", "reconstructions.png"):
            _copy_grid(artifact, name, results / "grids" / f"{row['trial_id']}_{name}")
    return rows


def read_rows(results: Path) -> list[dict[str, Any]]:
    """The rows of a results folder, by the names of their files; ConfigError names what is none."""
    rows = []
    for path in sorted((results / "rows").glob("*.json")):
        row = read_object(path)
        known = [name for name in row if name in COLUMNS]
        bad = [f"{name} is {row[name]!r}" for name in known if not fits(COLUMNS[name], row[name])]
        if bad or not row.get("row_id"):
            raise ConfigError(
                f"{path} must be a row of the table, but is none ({(bad or ['it is damaged'])[0]});"
                " remove the file, and run what wrote it again"
            )
        if (row.get("schema_version") or 0) > SCHEMA_VERSION:
            raise ConfigError(
                f"{path} must have a schema_version of at most {SCHEMA_VERSION}, this program's, "
                f"but has {row['schema_version']}; go on with the version that wrote it, or give "
                "another --name"
            )
        rows.append(row)
    return rows


def write_tables(
    plan: Plan,
    store: Store,
    outcomes: Mapping[str, Outcome],
    results: Path,
    wall_s: float,
    *,
    row_outcomes: Mapping[str, Outcome] | None = None,
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Write `rows/` (without those of earlier plans), `table.*`, curves, manifest and `grids/`.

    Args:
        row_outcomes: What rows without numbers say, where that is known from elsewhere.
    """
    known = outcomes if row_outcomes is None else row_outcomes
    rows = [make_row(row, plan.sweep, store, known) for row in plan.rows]
    kept = {write_row(values, results) for values in rows}
    for path in (results / "rows").glob("*.json"):
        if path not in kept:
            path.unlink()
    compile_table(rows, results, with_axes(plan.sweep.axes))
    _write_curves(plan, store, results)
    write_json(results / "manifest.json", _manifest(plan, store, outcomes, wall_s))
    names = stage_names(plan)
    for stage in plan.stages:
        link_log(stage, names[stage.key], store, results)
    return rows, _copy_grids(plan, store, results)


def write_yaml(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a file that a command can read again."""
    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def _analyse(results: Path) -> tuple[list[Path], str]:
    """Figures and closing words; a table that cannot be drawn is told, the run has succeeded."""
    # Importing the analysis takes seconds, and plans and reruns that draw nothing need it not.
    from analysis.table.reading import load_table
    from analysis.words.summary import summarize

    try:
        return _figures(results), summarize(load_table(results))
    # The analysis is given any sweep's numbers; no error of it may end a sweep that has trained.
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return [], f"no figures: {kind}{error}"


def _figures(results: Path) -> list[Path]:
    """Write the report, unless what is there was all made from this very table."""
    from analysis.report import REPORT_VERSION, write_figures

    note = results / "figures" / "drawn.json"
    made_of = {"table_sha256": file_sha256(results / "table.csv"), "report": REPORT_VERSION}
    drawn = read_object(note)
    names = drawn.get("files")
    if isinstance(names, list) and made_of.items() <= drawn.items():
        paths = [results / str(name) for name in names]
        if all(path.is_file() for path in paths):
            return paths
    note.unlink(missing_ok=True)
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
        **_origin(wall_s),
        "store": str(store.root),
        "stages": stages,
        "trials": {row.trial_id: to_plain(row.trial) for row in plan.rows},
    }


def _origin(wall_s: float) -> dict[str, Any]:
    """By which command, when and where a manifest was written."""
    return {
        "command": command_line(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "wall_s": wall_s,
        "environment": environment(torch.device("cpu")),
    }


def _write_curves(plan: Plan, store: Store, results: Path) -> None:
    """Put the training curves of all stages into one `curves.parquet`."""
    lines: list[dict[str, Any]] = []
    for stage in plan.stages:
        artifact = store.find(stage.kind, stage.key)
        path = None if artifact is None else _whole(artifact, "curve.jsonl")
        if path is None:
            continue
        training = getattr(stage.config, stage.kind).training
        for text in path.read_text(encoding="utf-8").splitlines():
            terms = json.loads(text)
            step = terms.pop("step")
            shared = {
                "stage_kind": stage.kind,
                "key": stage.key,
                "label": stage.label,
                "step": step,
                "images": (step + 1) * training.batch_size,
            }
            lines += [{**shared, "term": name, "value": value} for name, value in terms.items()]
    path = results / "curves.parquet"
    if not lines:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary:
        pd.DataFrame(lines).to_parquet(temporary, index=False)


def _whole(artifact: Artifact, name: str) -> Path | None:
    """A file of an artifact; None where it has none, or where it is damaged, which is told."""
    if name not in artifact.record["files"]:
        return None
    try:
        return artifact.file(name)
    except DamagedArtifact as error:
        print(
            f"warning: left out of the results: {error.reason}; remove {artifact.path} to have "
            "its stage run again",
            file=sys.stderr,
        )
        return None


def _copy_grids(plan: Plan, store: Store, results: Path) -> list[Path]:
    """Put each row's sample and reconstruction grids beside the table, with an index of them."""
    folder = results / "grids"
    for old in folder.glob("*.png"):
        old.unlink(missing_ok=True)
    copied: dict[Path, tuple[str, str, str, str]] = {}
    names, rows_of = trial_names(plan), rows_by_trial(plan)
    for row in plan.rows:
        name, suffix = names[row.trial_id], row_suffix(row, rows_of[row.trial_id])
        grids = [(row.reconstruction, "reconstructions", "")] if row.reconstruction else []
        if row.generator:
            grids.append((row.generator.generations[0], "samples", suffix))
        for stage, kind, which in grids:
            target = folder / f"{name} {kind}{which}.png"
            artifact = store.find(stage.kind, stage.key)
            if artifact and _copy_grid(artifact, f"{kind}.png", target):
                path = target.relative_to(results).as_posix()
                row_id = row.row_id if kind == "samples" else ""
                copied[target] = (row.trial_id, f"{kind}{which}", path, row_id)
    if copied:
        index = pd.DataFrame(list(copied.values()), columns=["trial_id", "kind", "path", "row_id"])
        write_csv(folder / "index.csv", index)
    return list(copied)


def _copy_grid(artifact: Artifact, name: str, target: Path) -> bool:
    """Copy a grid of images out of an artifact; returns whether the artifact has one."""
    source = _whole(artifact, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source is None:
        return False
    with replacing(target, durable=False) as temporary:
        shutil.copyfile(source, temporary)
    return True
