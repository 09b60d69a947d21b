"""Data and weights that a plan needs and this machine lacks, found before anything starts."""

import secrets
from collections.abc import Iterable
from pathlib import Path

from harness.data.missing import MissingItem
from harness.schema.reading import ConfigError
from harness.stages.registry import KINDS
from harness.stages.stage import Stage
from harness.storage.durable import StorageError, replacing

ENCODER_PATHS = {
    "encoder": "tokenizer.alignment.encoder",
    "features": "tokenizer.semantic.encoder",
    "representation": "generator.repa.encoder",
    "extractor": "evaluation.extractor",
}
"""Name under which a stage reads an encoder -> key path of its configuration in the trial."""


def missing_items(stages: Iterable[Stage]) -> list[MissingItem]:
    """Data and weights that the stages read and that are not there, each named once."""
    stages = list(stages)
    roles = {
        needed.key: ENCODER_PATHS[name]
        for stage in stages
        for name, needed in stage.inputs.items()
        if name in ENCODER_PATHS
    }
    found: dict[str, MissingItem] = {}
    for stage in stages:
        for item in KINDS[stage.kind].missing(stage.config, roles.get(stage.key, "encoder")):
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
