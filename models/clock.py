"""Clocks: how far each channel group is on its path, by the global time of sampling.

Global time runs from 0 to a clock's horizon, and a group's own time from 0 (noise) to 1 (data).
Times are numbers on the host, so that a schedule never waits for the device.
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

GroupTimes = tuple[float, ...]
"""One number for each channel group, in the order of the layout."""


@runtime_checkable
class Clock(Protocol):
    """The times of a latent's channel groups."""

    @property
    def horizon(self) -> float:
        """Global time at which every group has arrived at data."""
        ...

    @property
    def corners(self) -> tuple[float, ...]:
        """Global times at which a group starts or stops, rising from 0 to the horizon."""
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

    @property
    def corners(self) -> tuple[float, ...]:
        """The beginning and the end."""
        return 0.0, 1.0

    def training_times(self, share: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
        """The drawn times as they are."""
        return share

    def times(self, now: float) -> GroupTimes:
        """The global time, for each group."""
        return self.num_groups * (now,)

    def rates(self, now: float) -> GroupTimes:
        """The speed of global time, for each group."""
        return self.num_groups * (1.0,)


@final
@dataclass(frozen=True)
class OffsetClock:
    """Leading groups are at the global time up to 1, the others lag behind it by an offset.

    This is Semantic-First Diffusion's (arXiv 2512.04926). A group moves or stands, with both ends
    included and compared in float32, as the released sampler does it.
    """

    offset: float
    """Global time by which the others start later, in (0, 1]."""
    leads: tuple[bool, ...]
    """Whether each group is a leading one."""

    @property
    def horizon(self) -> float:
        """Global time at which every group has arrived at data."""
        return 1.0 + self.offset

    @property
    def corners(self) -> tuple[float, ...]:
        """Where the others start, where leading groups stop, and both ends."""
        return tuple(sorted({0.0, self.offset, 1.0, self.horizon}))

    def training_times(self, share: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
        """Each group's own time at global times that are shares in [0, 1] of the horizon."""
        now = self.horizon * share
        # The others lag behind the global time, which goes on after leading groups have arrived.
        both = torch.stack([(now - self.offset).clamp(min=0.0), now.clamp(max=1.0)])
        return torch.stack([both[int(lead), :, i] for i, lead in enumerate(self.leads)], dim=1)

    def times(self, now: float) -> GroupTimes:
        """Each group's own time at a global time."""
        return tuple(min(1.0, now) if lead else max(0.0, now - self.offset) for lead in self.leads)

    def rates(self, now: float) -> GroupTimes:
        """1 for each group that moves, 0 for each that stands."""
        here, start, stop = map(numpy.float32, (now, self.offset, 1.0))
        return tuple(float(here <= stop if lead else here >= start) for lead in self.leads)
