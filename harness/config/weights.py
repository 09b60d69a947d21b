"""Weights that come from elsewhere: what identifies them, and what is missing on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from harness.data.missing import MissingItem
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Artifact, Store, store_of
from harness.storage.durable import file_sha256, read_object

Provenance = Literal["published", "reproduced", "reconstruction"]
"""`published`: weights that others released. `reproduced`: trained here by a published recipe.
`reconstruction`: trained here by a recipe that its paper leaves open in parts."""


_WEAKEST_FIRST: tuple[Provenance, ...] = ("reconstruction", "reproduced", "published")


def weaker(*parts: Provenance) -> Provenance:
    """What a whole is whose parts are these."""
    return min(parts, key=_WEAKEST_FIRST.index)


Part = Literal["tokenizer", "generator"]


@dataclass(frozen=True, kw_only=True)
class RowWeights:
    """The tokenizer or the generator of a row that was made here."""

    results: str
    """Results folder of a sweep or search, `results/frontier` for instance."""
    row: str | int | dict[str, Any]
    """The row: its `row_id` or the first digits of it, or columns and their values that no other
    row has, `{latent_dim: 8, alignment: vf, seed: 0}` for instance."""
    store: str | None = None
    """Folder of the artifacts; needed where it was moved."""

    def file(self, part: Part) -> Path:
        """The file of its weights."""
        path = f"trial.{part}.initial_weights"
        values = self._values(path)
        key = values.get(f"{part}_key")
        if not isinstance(key, str):
            raise ConfigError(
                f"must name a row with a {part}, but {values['row_id']} has none; take another",
                path=f"{path}.row",
            )
        store = Store(store_of(Path(self.results).expanduser(), self.store))
        artifact = store.find(part, key)
        if artifact is None:
            raise ConfigError(
                f"must be where the {part} of row {values['row_id']} lies, but {store.root} does "
                f"not hold {key}; name the folder of the artifacts, or run that sweep again",
                path=f"{path}.store",
            )
        return artifact.path.resolve() / _weights_in(artifact, values, f"{path}.row")

    def _values(self, path: str) -> Mapping[str, Any]:
        """Column -> value of the row."""
        rows = _rows_of(Path(self.results).expanduser() / "rows")
        if not rows:
            raise ConfigError(
                f"must be the results folder of a run, but {self.results} has no rows; correct it",
                path=f"{path}.results",
            )
        if isinstance(self.row, dict):
            found = [row for row in rows if self.row.items() <= row.items()]
        else:
            # YAML reads an id of digits alone as a number.
            found = [row for row in rows if row["row_id"].startswith(str(self.row))]
        if len(found) != 1:
            ids = ", ".join(row["row_id"] for row in found[:5] or rows[:5])
            raise ConfigError(
                f"must name one row of {self.results}, but {self.row!r} names {len(found)} of "
                f"{len(rows)}; give a row_id in quotes ({ids}, ...), or columns that tell it apart",
                path=f"{path}.row",
            )
        return found[0]

    def __str__(self) -> str:
        told = self.row
        if isinstance(told, dict):
            told = " ".join(f"{name}={value}" for name, value in told.items())
        return f"{told} of {self.results}"


def file_of(given: str | RowWeights | None, part: Part) -> str | None:
    """The file behind `initial_weights`, a row looked up in its results and its store."""
    return str(given.file(part)) if isinstance(given, RowWeights) else given


def start_words(given: str | RowWeights) -> str:
    """The file or the row that a training starts from, in words."""
    return f"starting from {given if isinstance(given, RowWeights) else Path(given).name}"


def _rows_of(folder: Path) -> Sequence[Mapping[str, Any]]:
    paths = sorted(folder.glob("*.json"))
    return [_read_row(path, path.stat().st_mtime_ns) for path in paths]


@lru_cache(maxsize=4096)
def _read_row(path: Path, _modified_ns: int) -> Mapping[str, Any]:
    row = read_object(path)
    if not isinstance(row.get("row_id"), str):
        raise ConfigError(f"{path} must be a row of a table, but is none; run what wrote it again")
    return row


def _weights_in(artifact: Artifact, row: Mapping[str, Any], path: str) -> str:
    """Name of the file of weights in an artifact; of snapshots, that of the row's training step."""
    names = [name for name in artifact.record["files"] if name.endswith(".safetensors")]
    if len(names) > 1 and row.get("generator_images") is not None:
        batch_size = artifact.record["config"]["generator"]["training"]["batch_size"]
        step = int(row["generator_images"]) // batch_size
        names = [name for name in names if f"{step:09d}" in name]
    if len(names) != 1:
        raise ConfigError(
            f"must name a row whose weights are tensors in a file, but {artifact.path} has "
            f"{', '.join(names) or 'none'}; give the file itself",
            path=path,
        )
    return names[0]


def describe_file(path: str | None) -> str:
    """Hash of a file of weights for a key; empty where none is given. An absent file is described
    as such; the plan then says that it is missing. ConfigError where it cannot be read."""
    try:
        return _described(path)
    except OSError as error:
        raise ConfigError(
            f"{path} must be readable, but: {error.strerror or error}; name another file, or mend "
            "its mode"
        ) from error


def _described(path: str | None) -> str:
    if path is None:
        return ""
    file = Path(path).expanduser()
    # A plan must be possible where the file is not: the requirements then name it as missing.
    if not file.is_file():
        return "absent"
    status = file.stat()
    return f"sha256 {_sha256(file, status.st_size, status.st_mtime_ns)}"


def check_file(path: str, described: str) -> None:
    """Refuse a file that is no longer the one that a key stands for."""
    now = _described(path)
    if now != described:
        raise ValueError(
            f"{path} must be the file that was planned with ({described}), but is "
            f"{now}; put that file back, or run the command again to plan with the new one"
        )


def missing_checkpoint(
    what: str, path: str | None, field: str, fetch: Callable[[], None] | None = None
) -> list[MissingItem]:
    """A file of weights that a sweep names and this machine does not have.

    Args:
        path: The file; None: none is named.
        field: Key path that names it.
        fetch: Downloads it to that place, where it has a usual address.
    """
    if path is None or Path(path).expanduser().is_file():
        return []
    remedy = f"put the file there, or set `{field}` to the path of a copy"
    return [MissingItem(what=what, location=path, remedy=remedy, fetch=fetch)]


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified_ns: int) -> str:
    return file_sha256(path)
