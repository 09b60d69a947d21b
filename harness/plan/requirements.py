"""Data and weights that a plan needs and this machine lacks, found before anything starts."""

import secrets
from collections.abc import Iterable
from pathlib import Path

from harness.data.missing import MissingItem
from harness.schema.reading import ConfigError
from harness.stages.registry import KINDS
from harness.stages.stage import Stage
from harness.storage.durable import StorageError, replacing

PLACES = {
    "texture": "texture",
    "semantic": "semantic",
    "encoder": "alignment.encoder",
    "features": "encoder",
    "representation": "repa.encoder",
    "extractor": "evaluation.extractor",
}
"""Name under which a stage reads another -> place of its configuration in that of the reader."""


def key_paths(stages: Iterable[Stage]) -> dict[str, str]:
    """Where in its trial the configuration of each stage stands: key of the stage -> key path."""
    stages = list(stages)
    paths = {stage.key: stage.kind for stage in stages}
    # Readers come after what they read, and say where it stands.
    for stage in reversed(stages):
        for name, needed in stage.inputs.items():
            if place := PLACES.get(name):
                on_top = stage.kind not in ("tokenizer", "generator")
                paths[needed.key] = place if on_top else f"{paths[stage.key]}.{place}"
    return paths


def missing_items(stages: Iterable[Stage]) -> list[MissingItem]:
    """Data and weights that the stages read and that are not there, each named once."""
    stages = list(stages)
    paths = key_paths(stages)
    found: dict[str, MissingItem] = {}
    for stage in stages:
        for item in KINDS[stage.kind].missing(stage.config, paths[stage.key]):
            found.setdefault(str(item), item)
    return list(found.values())


def fetch_missing(stages: Iterable[Stage]) -> None:
    """Download what is missing and has a usual address; the rest stays missing.

    Raises:
        ConfigError: A download failed, with its cause.
    """
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
    """Why nothing can be written below a folder, or an empty text."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Another driver may look at the same time; a full disk has room for names, not for content.
        probe = folder / f".writable-{secrets.token_hex(4)}"
        with replacing(probe) as temporary:
            temporary.write_bytes(bytes(4096))
        probe.unlink()
    except StorageError as error:
        return f"nothing was started: {error}"
    except OSError as error:
        return (
            f"{folder} must be a folder that can be written, but is not ({error.strerror}); make "
            "it writable, or give another --store and --results"
        )
    return ""
