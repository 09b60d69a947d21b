"""Data and weights that a plan needs and this machine lacks, found before anything starts."""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.data.missing import MissingItem
from harness.plan.plan import Plan, with_inputs
from harness.schema.reading import ConfigError
from harness.stages.registry import KINDS
from harness.stages.stage import Stage
from harness.storage.durable import StorageError, replacing

PLACES = {
    "texture": "texture",
    "semantic": "semantic",
    "encoder": "alignment.encoder",
    "features": "encoder",
    "teacher": "teacher",
    "student": "student",
    "representation": "repa.encoder",
    "extractor": "evaluation.extractor",
    "weak": "evaluation.guidance.weak.generator",
}
"""Name under which a stage reads another -> place of its configuration in that of the reader."""


def key_paths(stages: Iterable[Stage]) -> dict[str, str]:
    """Where in its trial each stage's configuration stands (stage key -> key path); a weak model
    that is also another row's generator is named as that."""
    stages = list(stages)
    paths = {stage.key: stage.kind for stage in stages}
    sampled = {stage.inputs["generator"].key for stage in stages if "generator" in stage.inputs}
    # Readers come after what they read, and say where it stands.
    for stage in reversed(stages):
        for name, needed in stage.inputs.items():
            if (place := PLACES.get(name)) and not (name == "weak" and needed.key in sampled):
                on_top = stage.kind not in ("tokenizer", "generator")
                paths[needed.key] = place if on_top else f"{paths[stage.key]}.{place}"
    return paths


def say_missing(stages: Iterable[Stage], plan: Plan | None = None) -> dict[str, MissingItem]:
    """What `missing_items` finds, by a sentence with a remedy that works when typed.

    Args:
        stages: Those that are to run.
        plan: The plan that they are of. What a preset of its sweep sets is named by the preset,
            because a value of the trial would be overridden there. None: all is of the trial.
    """
    rows, presets = (plan.rows, plan.sweep.file.presets) if plan else ((), {})
    axes = {stage.key: row.axes for row in reversed(rows) for stage in with_inputs(row.stages)}
    told = {}
    for stage, item in _missing(stages):
        text = str(item)
        for axis, level in axes.get(stage.key, {}).items():
            for path in presets.get(axis, {}).get(str(level), {}):
                pattern = rf"`({re.escape(path)}(?:\.[\w.]+)?)`"
                text = re.sub(pattern, rf"`presets.{axis}.{level}.\1`", text)
        told[text] = item
    return told


def missing_items(stages: Iterable[Stage]) -> list[MissingItem]:
    """Data and weights that the stages read and that are not there as declared, each once."""
    return list({str(item): item for _, item in _missing(stages)}.values())


def _missing(stages: Iterable[Stage]) -> Iterator[tuple[Stage, MissingItem]]:
    stages = list(stages)
    paths, looked = key_paths(stages), dict[str, list[MissingItem]]()
    for stage in stages:
        kind = KINDS[stage.kind]
        if (data := kind.images(stage.config)) is not None:
            # Opened once: a folder of a million images takes a while to list.
            if (name := repr(data)) not in looked:
                looked[name] = data.missing()
            yield from ((stage, item) for item in looked[name])
        yield from ((stage, item) for item in kind.missing(stage.config, paths[stage.key]))


def fetch_missing(stages: Iterable[Stage]) -> None:
    """Download what is missing and has a usual address; the rest stays missing."""
    for item in missing_items(stages):
        if item.fetch is None:
            continue
        try:
            item.fetch()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{item.what} could not be fetched ({error}); {item.remedy}", path="--download"
            ) from error


def writable_error(folder: Path) -> str:
    """Why nothing can be written below a folder, or an empty text; what is not there stays so."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()  # What may not be looked into.
        here = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
        longest = max(len(os.fsencode(part)) for part in folder.absolute().parts)
        if longest > os.pathconf(here, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not here.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{here} is none")
        # Another driver may look at the same time; a full disk has room for names, not for content.
        probe = here / f".writable-{secrets.token_hex(4)}"
        with replacing(probe) as temporary:
            temporary.write_bytes(bytes(4096))
        probe.unlink()
    except StorageError as error:
        return f"nothing was started: {error}{_whose(folder)}"
    except OSError as error:
        return (
            f"{folder} must be a folder that can be written, but is not ({error.strerror}"
            f"{_whose(folder)}); make it writable, or give another --store and --results"
        )
    return ""


def _whose(folder: Path) -> str:
    """Owner and mode of a folder, or of the one that it would be made in, where not this user's."""
    place = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    status = place.stat()
    if status.st_uid == os.geteuid():
        return ""
    mode = stat.filemode(status.st_mode)
    return (
        f"; {place} is of user {status.st_uid} and group {status.st_gid} with mode {mode}: its "
        "owner may share it by `chmod -R g+ws` and work under `umask 002`"
    )
