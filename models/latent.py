"""The geometry of a latent: named channel groups on one grid, or grids of codebook indices.

Most tokenizers have a single group of channels; composite latents (texture beside semantics) have
several. Flow time is one number per group, so everything that draws, embeds or integrates time asks
here. Tokenizers with a codebook have indices, on one grid or on several from coarse to fine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """A run of neighbouring latent channels that share one flow time."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    """Unique name of the group, e.g. `image`, `texture`, `semantic`."""
    channels: int
    """Number of channels in the group, at least 1."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(
                f"`channels` of latent group {self.name!r} must be at least 1, but got "
                f"{self.channels}; drop the group or give it channels"
            )


@dataclass(frozen=True, kw_only=True)
class LatentLayout:
    """Shape of one latent and the names of its channel groups, in channel order."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: ClassVar[str] = "channels"
    dtype: ClassVar[torch.dtype] = torch.float32
    """Type in which latents are stored."""

    groups: tuple[ChannelGroup, ...]
    """Channel groups in the order in which they are stacked."""
    height: int
    """Rows of the latent grid."""
    width: int
    """Columns of the latent grid."""

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"`groups` must hold at least one group and no name twice, but got {names}; "
                "rename or remove groups"
            )
        if min(self.height, self.width) < 1:
            raise ValueError(
                f"`height` and `width` must be at least 1, but got {self.height} and "
                f"{self.width}; use the tokenizer's image size divided by its downsampling"
            )

    @classmethod
    def single(cls, channels: int, height: int, width: int, name: str = "image") -> "LatentLayout":
        """Build the layout of an ordinary tokenizer: one group on a `height` by `width` grid."""
        group = ChannelGroup(name=name, channels=channels)
        return cls(groups=(group,), height=height, width=width)

    @property
    def channels(self) -> int:
        """Number of channels over all groups."""
        return sum(group.channels for group in self.groups)

    @property
    def num_groups(self) -> int:
        """Number of channel groups, which is the number of flow times."""
        return len(self.groups)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        return self.channels, self.height, self.width

    @property
    def group_of_channel(self) -> Int[Tensor, " c"]:
        """Index of the group that each channel belongs to."""
        sizes = torch.tensor([group.channels for group in self.groups])
        return torch.repeat_interleave(torch.arange(self.num_groups), sizes)

    def slice(self, name: str) -> slice:
        """Channel range of the group called `name`; ValueError where no group has that name."""
        start = 0
        for group in self.groups:
            if group.name == name:
                return slice(start, start + group.channels)
            start += group.channels
        names = [group.name for group in self.groups]
        raise ValueError(
            f"a latent group must be one of {names}, but got {name!r}; use one of them"
        )

    def scale(
        self, latents: Float[Tensor, "b c h w"], factors: Sequence[float]
    ) -> Float[Tensor, "b c h w"]:
        """Multiply each channel group by a number of its own."""
        if all(factor == 1.0 for factor in factors):
            return latents
        parts = [
            latents[:, self.slice(group.name)] * factor
            for group, factor in zip(self.groups, factors, strict=True)
        ]
        return torch.cat(parts, dim=1)


INDEX_TYPES = (torch.uint8, torch.int16, torch.int32)
"""Types that can hold indices, the smallest first."""


@dataclass(frozen=True, kw_only=True)
class IndexLayout:
    """Grids of indices into one codebook, each an integer in [0, codebook_size).

    A latent is the list of all its indices: grid after grid, each row by row.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: ClassVar[str] = "indices"

    codebook_size: int
    """Number of codes."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of each grid: one, or those of several scales from coarse to fine."""

    def __post_init__(self) -> None:
        largest = torch.iinfo(INDEX_TYPES[-1]).max + 1
        if not 2 <= self.codebook_size <= largest:
            raise ValueError(
                f"a codebook must have 2 to {largest:,} codes, which {INDEX_TYPES[-1]} can number, "
                f"but has {self.codebook_size:,}; use 1024 or 16384"
            )
        if not self.grids or min(map(min, self.grids)) < 1:
            raise ValueError(
                f"`grids` must hold at least one grid of one cell or more, but got {self.grids}; "
                "use the tokenizer's image size divided by its downsampling"
            )

    @property
    def shape(self) -> tuple[int]:
        """(indices,) of one latent, those of all grids."""
        return (sum(map(math.prod, self.grids)),)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest type that holds every index, in which latents are stored."""
        return next(t for t in INDEX_TYPES if self.codebook_size - 1 <= torch.iinfo(t).max)

    def split(self, indices: Int[Tensor, "b n"]) -> Sequence[Int[Tensor, "b _ _"]]:
        """The indices as grids, in the order of `grids`."""
        parts = indices.split([rows * columns for rows, columns in self.grids], dim=1)
        return [part.unflatten(1, grid) for part, grid in zip(parts, self.grids, strict=True)]


AnyLayout = LatentLayout | IndexLayout
"""The geometry of any latent."""
