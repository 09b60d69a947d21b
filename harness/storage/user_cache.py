"""Remembers in the user's cache folder what takes long to learn about data sets and networks.

A data set's own folder is never written to. An entry is named by all that it depends on, so it is
never stale; where the folder cannot be written, everything is learnt anew.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.storage.durable import write_text

CACHE_VARIABLE = "FRONTIER_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """`FRONTIER_CACHE`, or else `latent-frontier` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "latent-frontier"


def describe_files(paths: Iterable[Path]) -> str:
    """sha256 of path, size and time of change of every file: equal while none of them changes. A
    file that is not there is one more state; whoever reads it says so."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            state = f"error {error.errno}"
        digest.update(os.fsencode(path.absolute()) + f"\0{state}\n".encode())
    return digest.hexdigest()


def remembered(
    kind: str, name: str, learn: Callable[[], Any], lasts: Callable[[Any], bool] = lambda _: True
) -> Any:
    """A JSON-able value that is computed once for each name.

    Args:
        kind: What it is, a folder of the cache.
        name: Stands for all that it depends on; letters and digits.
        lasts: Whether a value holds while its name does; one that does not is not kept.
    """
    path = cache_folder() / kind / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        # The cache is the user's: whatever else lies in it is learnt anew.
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
        if digest == hashlib.sha256(text.encode()).hexdigest():
            return json.loads(text)
    value = learn()
    if not lasts(value):
        return value
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not flushed to the disk: an entry that is lost is learnt again.
        text = json.dumps(value)
        digest = hashlib.sha256(text.encode()).hexdigest()
        write_text(path, f"{digest}\n{text}", durable=False)
    return value
