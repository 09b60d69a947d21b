"""Names that people read for what a sweep made: `latent_dim=16 alignment=vf seed=0`.

They say the axes of the sweep, are safe in file systems, and no two of a sweep are equal.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.config.axes import Values, axes_words, same
from harness.plan.plan import Plan, PlannedRow, with_inputs
from harness.schema.keys import content_hash
from harness.stages.generation import guidance_label
from harness.stages.running.tensorboard import FOLDER
from harness.stages.stage import Stage
from harness.storage.artifacts import Store

MAX_CHARACTERS = 140
"""Of a name; file systems allow 255 bytes, of which endings and kinds take some."""


def trial_names(plan: Plan) -> dict[str, str]:
    """Trial -> its values of the axes; the sweep's name where it has no axis."""
    words = {
        row.trial_id: axes_words(plan.sweep.axes, row.axes) or plan.sweep.file.name
        for row in plan.rows
    }
    return _distinct(words)


def rows_by_trial(plan: Plan) -> dict[str, list[PlannedRow]]:
    """Trial -> its rows."""
    rows: dict[str, list[PlannedRow]] = {}
    for row in plan.rows:
        rows.setdefault(row.trial_id, []).append(row)
    return rows


def row_suffix(row: PlannedRow, rows: Sequence[PlannedRow]) -> str:
    """What tells a row from the others of its trial: ` step=100 guidance=cfg 1.5`, or nothing."""
    others, own = [other.generator for other in rows if other.generator], row.generator
    if own is None:
        return ""
    words = ""
    if len({other.step for other in others}) > 1:
        words += f" step={own.step}"
    if len({content_hash(other.guidance) for other in others}) > 1:
        label = guidance_label(own.guidance)
        alike = {content_hash(o.guidance) for o in others if guidance_label(o.guidance) == label}
        # Two settings may have one kind and scale and differ in the interval.
        words += f" guidance={label}" + (f" {row.row_id[:8]}" if len(alike) > 1 else "")
    return _safe(words)


def stage_names(plan: Plan) -> dict[str, str]:
    """Key of a stage -> its kind, and the axes whose values its rows share."""
    shared: dict[str, Values] = {}
    stages: dict[str, Stage] = {}
    for row in plan.rows:
        for stage in with_inputs(row.stages):
            stages[stage.key] = stage
            known = shared.setdefault(stage.key, row.axes)
            shared[stage.key] = {
                axis: value
                for axis, value in known.items()
                if axis in row.axes and same(row.axes[axis], value)
            }
    words = {
        key: f"{stages[key].kind} {axes_words(plan.sweep.axes, axes) or stages[key].label}"
        for key, axes in shared.items()
    }
    counts = Counter(words.values())
    return _distinct(
        {key: f"{w} {stages[key].label}" if counts[w] > 1 else w for key, w in words.items()}
    )


def link_log(stage: Stage, name: str, store: Store, results: Path) -> None:
    """Give the TensorBoard log of a training a name in `tensorboard/` of the results folder.

    Where the file system has no symbolic links, the log is found in the store alone.
    """
    folder = store.folder(stage.kind, stage.key)
    partial = folder.with_name(f"{folder.name}.partial") / "payload"
    target = (folder if folder.is_dir() else partial) / FOLDER
    link = results / FOLDER / name
    if not target.is_dir() or (link.is_symlink() and link.readlink() == target.resolve()):
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())
    except OSError as error:
        print(f"note: no name for a log in {link.parent} ({error}); see {target}")


def _distinct(words: Mapping[str, str]) -> dict[str, str]:
    """File names of words; those that would be equal end with digits of what they name."""
    safe = {key: _safe(text) for key, text in words.items()}
    # Some file systems take `S` and `s` for one.
    counts = Counter(name.lower() for name in safe.values())
    return {k: n if counts[n.lower()] == 1 else f"{n} {k[:8]}" for k, n in safe.items()}


def _safe(words: str) -> str:
    text = re.sub(r"[^\w=.,+() \[\]-]", "-", words)
    if len(text) > MAX_CHARACTERS:
        return f"{text[:MAX_CHARACTERS]} {content_hash(words)[:8]}"
    return text
