"""An index of the image grids: which picture shows which trial's samples or reconstructions."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from analysis.cells.cells import describe_seeds
from analysis.cells.lines import describe_lines
from analysis.table.atomic import write_text
from analysis.words.tables import escape_markdown, join_markdown

GRIDS_FOLDER = "grids"
SEPARATORS = "_-. "


def index_grids(results_dir: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Finds the grids of each trial.

    A sweep's `grids/index.csv` lists them. Without it a grid is a PNG anywhere under `grids/` whose
    file or folder name is a trial's name, alone or followed by a separator:
    `grids/<trial>/samples.png` and `grids/<trial>_samples.png` both are.

    Returns:
        One line a picture: `trial_id`, `kind` (the rest of its name, such as "samples"), `path`
        relative to the results folder, `row_id` where it is of one row of the trial's (else empty)
        and `file`, the path with the folder, in the table's order of trials.
    """
    trials = [str(trial) for trial in table["trial_id"].dropna().unique()]
    rows = set(table["row_id"])
    records = _read_index(results_dir, trials)
    listed = {results_dir / path for _, _, path, _ in records}
    for file in sorted((results_dir / GRIDS_FOLDER).rglob("*.png")):
        inner = file.relative_to(results_dir / GRIDS_FOLDER).with_suffix("")
        trial = _find_trial(inner.parts, trials)
        if trial is not None and file not in listed:
            kind = _name_kind(inner.parts, trial)
            path = file.relative_to(results_dir).as_posix()
            row_id = kind.rpartition("_")[2]
            records.append((trial, kind, path, row_id if row_id in rows else ""))
    index = pd.DataFrame(records, columns=["trial_id", "kind", "path", "row_id"])
    index["file"] = [str(results_dir / path) for path in index["path"]]
    order = index["trial_id"].map({trial: position for position, trial in enumerate(trials)})
    return index.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def _read_index(results_dir: Path, trials: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """What a sweep's index says of grids that are there; nothing where there is none."""
    file = results_dir / GRIDS_FOLDER / "index.csv"
    if not file.is_file():
        return []
    index = pd.read_csv(file.absolute(), dtype=str, keep_default_na=False)
    found = index.reindex(columns=["trial_id", "kind", "path", "row_id"], fill_value="")
    return [
        (trial, kind, path, row_id)
        for trial, kind, path, row_id in found.itertuples(index=False, name=None)
        if trial in trials and (results_dir / path).is_file()
    ]


def write_grids_page(table: pd.DataFrame, index: pd.DataFrame, *, results_dir: Path) -> Path:
    """Writes `grids.md`: a line a trial, its values of the axes and its pictures side by side."""
    kinds = [str(kind) for kind in index["kind"].unique()]
    last = table.drop_duplicates("trial_id", keep="last")
    rows, axes = describe_lines(last[last["trial_id"].isin(index["trial_id"])])
    heads = [escape_markdown(text) for text in (*(a.heading for a in axes.listed), "seeds", *kinds)]
    lines = [
        "# Sample and reconstruction grids",
        "",
        join_markdown(heads),
        "|" + "---|" * len(heads),
    ]
    trials = {str(row["trial_id"]): row for _, row in rows.iterrows()}
    for trial_id, pictures in index.groupby("trial_id", sort=False):
        trial = trials[str(trial_id)]
        paths = dict(zip(pictures["kind"], pictures["path"], strict=True))
        shown = [_show(kind, paths[kind]) if kind in paths else "" for kind in kinds]
        values = [axis.value_text(trial[axis.column]) or "-" for axis in axes.listed]
        about = map(escape_markdown, [*values, describe_seeds(trial)])
        lines.append(join_markdown([*about, *shown]))
    page = results_dir / "grids.md"
    write_text(page, "\n".join(lines) + "\n")
    return page


def _show(kind: str, path: str) -> str:
    name = escape_markdown(kind).replace("[", "\\[").replace("]", "\\]")
    return f"![{name}]({quote(path)})"


def _find_trial(parts: tuple[str, ...], trials: list[str]) -> str | None:
    """The longest trial name that a part of the path begins with."""
    found = [trial for trial in trials if any(_begins_with(part, trial) for part in parts)]
    return max(found, key=len, default=None)


def _begins_with(part: str, trial: str) -> bool:
    rest = part.removeprefix(trial)
    return part.startswith(trial) and (not rest or rest[0] in SEPARATORS)


def _name_kind(parts: tuple[str, ...], trial: str) -> str:
    rests = [part.removeprefix(trial).strip(SEPARATORS) for part in parts]
    return " ".join(rest for rest in rests if rest) or "grid"
