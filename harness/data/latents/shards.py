"""Shards of encoded images: safetensors files read by memory map, their handles kept open.

The layout is the published one: `latents` and, where images are also encoded mirrored,
`latents_flip`, both (n, c, h, w) in fp32, and `labels` (n,). Where whole posteriors are kept these
two are their means, and `latents_logvar` and `latents_flip_logvar` lie beside them. Indices are
(n, tokens) in the smallest integer type that holds the codebook.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.latent import AnyLayout

VIEWS = ("latents", "latents_flip")
"""Names of the tensors of images as they are, and mirrored."""


def planes_of(view: str, *, moments: bool) -> tuple[str, ...]:
    """Names of the tensors that hold a view: samples, or means and log-variances."""
    return (view, f"{view}_logvar") if moments else (view,)


class LatentShards:
    """The rows of several shards under one numbering.

    Opening reads headers and labels; rows are read when they are gathered.

    Args:
        paths: The shards in the order of their rows.
        names: Tensors beside `labels` that every shard must hold.
        layout: Shape and type of one latent.

    Raises:
        ValueError: A shard cannot be read, lacks a tensor, or holds another shape or type.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str], layout: AnyLayout) -> None:
        self.layout = layout
        self._paths = tuple(paths)
        self._tensors = [_map(path, (*names, "labels")) for path in self._paths]
        for path, tensors in zip(self._paths, self._tensors, strict=True):
            _check_shard(path, tensors, layout)
        self.labels: Int64[Tensor, " n"] = torch.cat([t["labels"] for t in self._tensors])
        sizes = [len(tensors["labels"]) for tensors in self._tensors]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, name: str, indices: Int64[np.ndarray, " b"]) -> Tensor:
        """Rows of one tensor in the order asked for; each shard is read from front to back."""
        # Handles stay open: opening a file for every row took four times as long (results/LOG.md,
        # 2026-11-25). Sorting is for cold disks; in a warm cache it changes nothing.
        rows = torch.empty((len(indices), *self.layout.shape), dtype=self.layout.dtype)
        order = np.argsort(indices, kind="stable")
        shards = np.searchsorted(self._starts, indices[order], side="right") - 1
        for shard in np.unique(shards):
            places = order[shards == shard]
            local = torch.from_numpy(indices[places] - self._starts[shard])
            rows[torch.from_numpy(places)] = self._tensors[shard][name][local]
        return rows

    def parts(self, name: str) -> Sequence[Tensor]:
        """One tensor of every shard in turn, still on disk."""
        return [tensors[name] for tensors in self._tensors]

    def count_codes(self, name: str, codebook_size: int) -> Int64[Tensor, " k"]:
        """How often each code stands in a tensor of indices.

        Raises:
            ValueError: An index is no code; names the shard.
        """
        counts = torch.zeros(codebook_size, dtype=torch.int64)
        for path, part in zip(self._paths, self.parts(name), strict=True):
            low, high = (int(found) for found in part.aminmax())
            if low < 0 or high >= codebook_size:
                raise ValueError(
                    f"`{name}` of {path} must hold indices in 0..{codebook_size - 1}, but holds "
                    f"{low}..{high}; take the shards of this tokenizer"
                )
            counts += torch.bincount(part.flatten(), minlength=codebook_size)
        return counts

    def check_labels(self, num_classes: int) -> None:
        """Refuse labels that are no classes.

        Raises:
            ValueError: Names shard, row and label.
        """
        for path, tensors in zip(self._paths, self._tensors, strict=True):
            labels = tensors["labels"]
            wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
            if len(wrong):
                row = int(wrong[0])
                raise ValueError(
                    f"labels must lie in 0..{num_classes - 1}, but {len(wrong):,} of {path} do "
                    f"not, the first in row {row} ({int(labels[row])}); correct them or declare "
                    "data.num_classes"
                )


def _map(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Map the tensors of a shard into memory; nothing is read before rows are gathered."""
    try:
        with safe_open(path, framework="pt") as file:
            held = list(file.keys())
            if missing := [name for name in names if name not in held]:
                raise ValueError(
                    f"{path} must hold {', '.join(names)}, but has no {', '.join(missing)} (it "
                    f"holds {', '.join(sorted(held))}); {_remedy(missing)}"
                )
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} must be a whole safetensors file, but cannot be read ({error}); copy it again"
        ) from error


def _remedy(missing: Sequence[str]) -> str:
    if all(name.startswith("latents_flip") for name in missing):
        return "set latents.flip: false, or encode the mirrored images too"
    return "write the shard again in the published layout"


def _check_shard(path: Path, tensors: dict[str, Tensor], layout: AnyLayout) -> None:
    labels = tensors["labels"]
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"`labels` of {path} must be int64 of shape (n,), but are {_describe(labels)}; write "
            "one class number an image"
        )
    wanted = _say(layout.dtype, (len(labels), *layout.shape))
    for name, tensor in tensors.items():
        if name != "labels" and _describe(tensor) != wanted:
            raise ValueError(
                f"`{name}` of {path} must be {wanted} (labels, and latents of "
                f"the tokenizer), but is {_describe(tensor)}; take the shards of this tokenizer, "
                "or correct tokenizer.latent_dim, tokenizer.downsample or data.resolution"
            )


def _describe(tensor: Tensor) -> str:
    return _say(tensor.dtype, tuple(tensor.shape))


def _say(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {shape}"
