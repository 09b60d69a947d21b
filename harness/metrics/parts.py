"""Accumulators by name that are merged and stored together, and those that are sums alone."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", bound="Sums")


class Sums:
    """An accumulator whose fields are all sums over images, as tensors."""

    def merge(self: S, other: S) -> S:
        """The sums over both sets of images, those of another worker for instance."""
        theirs = vars(other)
        sums = {name: ours + theirs[name].to(ours.device) for name, ours in vars(self).items()}
        return type(self)(**sums)

    def to(self: S, device: torch.device | str) -> S:
        """The same on a device, where later updates are computed then."""
        return type(self)(**{name: ours.to(device) for name, ours in vars(self).items()})

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for storage; `from_tensors` restores the same bits."""
        return dict(vars(self))

    @classmethod
    def from_tensors(cls: type[S], tensors: Mapping[str, Tensor]) -> S:
        """Restore the sums from storage."""
        return cls(**tensors)


class Parts:
    """A set of accumulators, each under its name; `state` are those before the first image."""

    KINDS: ClassVar[Mapping[str, Any]]

    def __init__(self, device: torch.device | str, **state: Any) -> None:
        self.device = device
        self.state: dict[str, Any] = state
        """All accumulators, to be sent to another worker's `merge`."""

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another worker accumulated of other images of the same set."""
        self.state = merged_parts(self.state, state, self.device)

    def to_tensors(self) -> dict[str, Tensor]:
        """All accumulators as tensors, for storage."""
        return joined_tensors(self.state)

    def add_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Add what was stored; the same bits come back where nothing was accumulated before."""
        self.merge(restored_parts(self.KINDS, tensors))


def merged_parts(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], device: torch.device | str
) -> dict[str, Any]:
    """The parts of both, merged where both have them; those of the other alone come to `device`."""
    added = {
        name: ours[name].merge(part) if name in ours else part.to(device)
        for name, part in theirs.items()
    }
    return {**ours, **added}


def joined_tensors(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of several accumulators under `part.name`."""
    return {
        f"{part}.{name}": tensor
        for part, value in parts.items()
        for name, tensor in value.to_tensors().items()
    }


def restored_parts(kinds: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `joined_tensors`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return {part: kinds[part].from_tensors(found) for part, found in parts.items()}
