"""A folder of latents that others encoded, in the published layout.

Safetensors shards with `latents`, `latents_flip` and `labels` (published names:
`latents_rankRR_shardSSS.safetensors`), and `latents_stats.pt` with the mean and standard deviation
of every channel. Composite latents (arXiv 2512.04926) have `latents_sv`, `latents_sv_flip` and
`latents_sv_stats.pt` beside them, and may have features, `feats_dino` and `feats_dino_flip`. It is
read in place: an artifact holds links to its shards, and whoever opens them is told where they have
changed since.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harness.data.missing import MissingItem
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from harness.storage.artifacts import Artifact
from models.checkpoint import read_checkpoint

STATISTICS_FILE = "latents_stats.pt"
"""Published name of the channels' mean and deviation."""
SEMANTIC_STATISTICS_FILE = "latents_sv_stats.pt"
"""Published name of those of a second group of channels."""
STATISTICS_FILES = (STATISTICS_FILE, SEMANTIC_STATISTICS_FILE)
SHARD_NAME = "latents_rank{rank:02d}_shard{shard:03d}.safetensors"
"""Published name of a shard."""
BLOCKS, BLOCK_BYTES = 16, 65_536
"""Blocks of every shard, and bytes of each, that stand for its content."""

Statistics = tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]
"""Mean and standard deviation of every channel."""


@dataclass(frozen=True, kw_only=True)
class EncodedHere:
    """The training split is encoded by the trial's tokenizer."""

    kind: Literal["encoded"] = "encoded"

    def missing(self) -> list[MissingItem]:
        """Nothing beside the images."""
        return []


@dataclass(frozen=True, kw_only=True)
class LatentFolder:
    """The latents are read from a folder in the published layout; nothing is encoded."""

    kind: Literal["folder"] = "folder"
    path: str = field(metadata=NO_KEY)
    """The folder; `~` is the home folder. What it holds enters the key, its place does not."""
    features: bool = field(default=False, metadata=KEY_UNLESS_DEFAULT)
    """Whether it also holds features of the images (`feats_dino`), which the tokens of a generator
    are aligned with (`generator.repa`); they must be those of `generator.repa.encoder`."""

    @property
    def location(self) -> Path:
        """The folder, `~` expanded."""
        return Path(self.path).expanduser()

    @property
    def shards(self) -> list[Path]:
        """Its safetensors files, sorted by name as the published loader sorts them."""
        return sorted(self.location.glob("*.safetensors"))

    @property
    def identity(self) -> str:
        """Hash of its shards and statistics for keys; `absent` where there are no shards."""
        if not self.shards:
            return "absent"
        digest = hashlib.sha256()
        for path in [*self.shards, *(self.location / name for name in STATISTICS_FILES)]:
            if path.is_file():
                digest.update(os.fsencode(f"{path.name} {fingerprint(path)}\n"))
        return f"sha256 {digest.hexdigest()}"

    @property
    def num_padded(self) -> int:
        """The most images that the published extraction may have written twice."""
        # Its sampler repeats images until every process has equally many.
        ranks = {m[1] for p in self.shards if (m := re.match(r"latents_rank(\d+)_", p.name))}
        return max(0, len(ranks) - 1)

    def missing(self) -> list[MissingItem]:
        """The folder, if it holds no shards; nothing is opened."""
        what = "a folder of latents (*.safetensors)"
        remedy = "put it there, or set `latents.source.path` to where it is"
        item = MissingItem(what=what, location=str(self.location), remedy=remedy)
        return [] if self.shards else [item]

    def statistics(self, *channels: int) -> Statistics | None:
        """Mean and deviation that come with it; None where a file of them is not there."""
        paths = [self.location / name for name in STATISTICS_FILES[: len(channels)]]
        if not all(path.is_file() for path in paths):
            return None
        pairs = [_read_statistics(path, n) for path, n in zip(paths, channels, strict=True)]
        mean, std = (torch.cat(each, dim=1) for each in zip(*pairs, strict=True))
        return mean, std


@dataclass(frozen=True, kw_only=True)
class LatentStatistics:
    """No latents, only how they were normalised: all that a generator needs that is not trained."""

    kind: Literal["statistics"] = "statistics"
    path: str | None = field(default=None, metadata=NO_KEY)
    """A published `latents_stats.pt`. Its hash enters the key, its path does not. Absent where the
    tokenizer comes with a scaling of its own."""

    @property
    def identity(self) -> str:
        """Hash of the file for keys; `absent` where it is not there."""
        if self.path is None:
            return "the tokenizer's scaling"
        path = Path(self.path).expanduser()
        return f"sha256 {fingerprint(path)}" if path.is_file() else "absent"

    def missing(self) -> list[MissingItem]:
        """The file."""
        if self.identity != "absent":
            return []
        what, remedy = "the statistics of the latents", "set `latents.source.path` to where it is"
        return [MissingItem(what=what, location=str(self.path), remedy=remedy)]

    def statistics(self, *channels: int) -> Statistics | None:
        """Mean and deviation of the file, of the channels of all groups; None without one."""
        if self.path is None:
            return None
        return _read_statistics(Path(self.path).expanduser(), sum(channels))


def fingerprint(path: Path) -> str:
    """sha256 of a file's size and of blocks spread evenly over it, first and last bytes included.

    Encoding again changes every number, so it does not go unseen; one changed byte may. The record
    of an artifact holds the hash of all bytes.
    """
    status = path.stat()
    return _fingerprint(path.resolve(), status.st_size, status.st_mtime_ns)


# ImageNet's latents are 84 GB, which take minutes to hash; a dry run plans in seconds.
@lru_cache(maxsize=4096)
def _fingerprint(path: Path, size: int, _modified_ns: int) -> str:
    digest = hashlib.sha256(f"{size}\n".encode())
    last = max(0, size - BLOCK_BYTES)
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(last * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def link_shards(folder: LatentFolder, payload: Path) -> list[Path]:
    """Link the shards into an artifact, hard where the file system can, else by symbolic links."""
    links = []
    for number, source in enumerate(folder.shards):
        link = payload / f"latents_shard{number:05d}.safetensors"
        link.unlink(missing_ok=True)
        # A hard link keeps the bytes when the folder is removed; 84 GB are not copied.
        try:
            os.link(source.resolve(), link)
        except OSError:
            link.symlink_to(source.resolve())
        links.append(link)
    return links


def check_unchanged(artifact: Artifact, shards: Sequence[Path]) -> None:
    """Refuse shards of an artifact that are gone or no longer what they were."""
    recorded: Mapping[str, str] = artifact.result.get("linked_shards", {})
    for path in shards:
        if not path.exists():
            became = "is gone"
        elif path.stat().st_size != artifact.record["files"][path.name]["bytes"]:
            became = "has another size"
        elif recorded and recorded[path.name] != fingerprint(path):
            became = "has another content"
        else:
            continue
        raise ValueError(
            f"{path} must be the shard that was recorded, but {became}"
            + (f" (it is linked to {path.resolve()})" if recorded else "")
            + f"; put it back, or remove {artifact.path} to have the stage run again"
        )


def write_statistics(path: Path, mean: Tensor, std: Tensor) -> None:
    """Write `latents_stats.pt` as published: a dictionary of `mean` and `std`, (1, c, 1, 1)."""
    torch.save({"mean": mean.cpu(), "std": std.cpu()}, path)


def _read_statistics(path: Path, num_channels: int) -> Statistics:
    shape = (1, num_channels, 1, 1)
    remedy = f"take the file of this tokenizer, or remove it to have {shape} measured"
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from error
    pair = [found.get(name) for name in ("mean", "std")]
    # Some write them without the axes of batch, rows and columns.
    pair = [
        t.view(shape)
        if isinstance(t, Tensor) and max(t.shape, default=0) == t.numel() == num_channels
        else t
        for t in pair
    ]
    tensors = [t for t in pair if isinstance(t, Tensor) and tuple(t.shape) == shape]
    if len(tensors) != 2 or not all(bool(torch.isfinite(t).all()) for t in tensors):
        held = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
        raise ValueError(
            f"{path} must hold finite `mean` and `std` of shape {shape}, but holds {held}; {remedy}"
        )
    mean, std = (tensor.float() for tensor in tensors)
    if not bool((std > 0).all()):
        raise ValueError(
            f"`std` of {path} must be positive, but is not in channel "
            f"{int((std.flatten() <= 0).nonzero()[0])}; {remedy}"
        )
    return mean, std
