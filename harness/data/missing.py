"""A file or folder that a configuration names and this machine lacks or has otherwise."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class MissingItem:
    """A file or folder that must be given before a stage can run."""

    what: str
    """The thing that is absent, in words."""
    location: str
    """Path where it was looked for."""
    remedy: str
    """How to give it."""
    fetch: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Downloads it to that place, where it has a usual address."""
    wrong: str = ""
    """A sentence on what is there and is not as declared; empty: nothing is there."""

    def __str__(self) -> str:
        remedy = self.remedy
        if self.fetch and "--download" not in remedy:
            remedy = f"run with --download, or {remedy}"
        absent = f"{self.what} must be at {self.location!r}, but nothing is there; {remedy}"
        return self.wrong or absent
