"""Weights that come from elsewhere: what identifies them, and what is missing on this machine."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from harness.data.missing import MissingItem
from harness.storage.durable import file_sha256

Provenance = Literal["published", "reproduced", "reconstruction"]
"""`published`: weights that others released. `reproduced`: trained here by a published recipe.
`reconstruction`: trained here by a recipe that its paper leaves open in parts."""


_WEAKEST_FIRST: tuple[Provenance, ...] = ("reconstruction", "reproduced", "published")


def weaker(*parts: Provenance) -> Provenance:
    """What a whole is whose parts are these."""
    return min(parts, key=_WEAKEST_FIRST.index)


def describe_file(path: str | None) -> str:
    """Hash of a file of weights for a key; empty where none is given.

    A file that is absent is described as such; the plan then says that it is missing.
    """
    if path is None:
        return ""
    file = Path(path).expanduser()
    # A plan must be possible where the file is not: the requirements then name it as missing.
    if not file.is_file():
        return "absent"
    status = file.stat()
    return f"sha256 {_sha256(file, status.st_size, status.st_mtime_ns)}"


def check_file(path: str, described: str) -> None:
    """Refuse a file that is no longer the one that a key stands for.

    Raises:
        ValueError: It is gone or has another content.
    """
    now = describe_file(path)
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
        what: The thing, in words.
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
