"""Clocks: how far each channel group is on its path, by the global time of sampling.

Global time runs from 0 to a clock's horizon, and a group's own time from 0 (noise) to 1 (data).
Times are numbers on the host, so that a schedule never waits for the device.
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

GroupTimes = tuple[float, ...]
"""One number for each channel group, in the order of the layout."""


@runtime_checkable
class Clock(Protocol):
    """The times of a latent's channel groups."""

    @property
    def horizon(self) -> float:
        """Global time at which every group has arrived at data."""
        ...

    def times(self, now: float) -> GroupTimes:
        """Each group's own time at a global time."""
        ...

    def rates(self, now: float) -> GroupTimes:
        """Each group's own time that passes in a unit of global time; 0 where it stands still."""
        ...


@final
@dataclass(frozen=True)
class SharedClock:
    """All groups are at the global time."""

    num_groups: int

    @property
    def horizon(self) -> float:
        """Global time at which every group has arrived at data."""
        return 1.0

    def times(self, now: float) -> GroupTimes:
        """The global time, for each group."""
        return self.num_groups * (now,)

    def rates(self, now: float) -> GroupTimes:
        """The speed of global time, for each group."""
        return self.num_groups * (1.0,)
