"""A stage or a sweep on its way to another process, with what makes the user's own code known."""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.schema.imported import import_plugin, plugins, search_also
from harness.schema.reading import ConfigError


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A pickled object, and the plug-ins to import before it is opened: Ray unpickles arguments
    before a task's first line runs, when the user's own code cannot be found yet."""

    plugins: Sequence[str]
    """Modules that register kinds."""
    folders: Sequence[str]
    """Where modules are looked for, beside the usual places."""
    pickled: bytes

    @classmethod
    def of(cls, what: Any) -> "Parcel":
        """Pack a stage or a sweep in the process that planned it."""
        return cls(plugins=plugins(), folders=tuple(sys.path), pickled=pickle.dumps(what))

    def open(self) -> Any:
        """Import the plug-ins and unpack what it holds; ConfigError where the user's code is not to
        be had here."""
        search_also(Path(folder) for folder in self.folders if folder)
        for name in self.plugins:
            import_plugin(name)
        try:
            # It comes from our own driver, through Ray, which hands on objects in this way itself.
            return pickle.loads(self.pickled)  # noqa: S301
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the code of {error.name!r} must be importable on every machine, but is not; "
                "install it there"
            ) from error
