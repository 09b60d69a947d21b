"""Shards of encoded images: safetensors files read by memory map, their handles kept open.

The layout is the published one: `latents` and, where images are also encoded mirrored,
`latents_flip`, both (n, c, h, w) in fp32, and `labels` (n,). Where whole posteriors are kept these
two are their means, and `latents_logvar` and `latents_flip_logvar` lie beside them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

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
        shape: (channels, rows, columns) of one latent.

    Raises:
        ValueError: A shard cannot be read, lacks a tensor, or holds another shape or type.
    """

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], shape: tuple[int, int, int]
    ) -> None:
        self.shape = shape
        self._paths = tuple(paths)
        self._tensors = [_map(path, (*names, "labels")) for path in self._paths]
        for path, tensors in zip(self._paths, self._tensors, strict=True):
            _check_shard(path, tensors, shape)
        self.labels: Int64[Tensor, " n"] = torch.cat([t["labels"] for t in self._tensors])
        sizes = [len(tensors["labels"]) for tensors in self._tensors]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, name: str, indices: Int64[np.ndarray, " b"]) -> Float[Tensor, "b c h w"]:
        """Rows of one tensor in the order asked for; each shard is read from front to back."""
        # Handles stay open: opening a file for every row took four times as long (results/LOG.md,
        # 2026-11-25). Sorting is for cold disks; in a warm cache it changes nothing.
        rows = torch.empty((len(indices), *self.shape))
        order = np.argsort(indices, kind="stable")
        shards = np.searchsorted(self._starts, indices[order], side="right") - 1
        for shard in np.unique(shards):
            places = order[shards == shard]
            local = torch.from_numpy(indices[places] - self._starts[shard])
            rows[torch.from_numpy(places)] = self._tensors[shard][name][local]
        return rows

    def parts(self, name: str) -> Sequence[Float[Tensor, "m c h w"]]:
        """One tensor of every shard in turn, still on disk."""
        return [tensors[name] for tensors in self._tensors]

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


def _check_shard(path: Path, tensors: dict[str, Tensor], shape: tuple[int, int, int]) -> None:
    labels = tensors["labels"]
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"`labels` of {path} must be int64 of shape (n,), but are {_describe(labels)}; write "
            "one class number an image"
        )
    wanted = (len(labels), *shape)
    for name, tensor in tensors.items():
        if name != "labels" and (tensor.dtype != torch.float32 or tuple(tensor.shape) != wanted):
            raise ValueError(
                f"`{name}` of {path} must be float32 of shape {wanted} (labels, and latents of "
                f"the tokenizer), but is {_describe(tensor)}; take the shards of this tokenizer, "
                "or correct tokenizer.latent_dim, tokenizer.downsample or data.resolution"
            )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
