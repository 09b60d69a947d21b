"""Shards of encoded images: safetensors files read by memory map, their handles kept open.

The layout is the published one: `latents` and, where images are also encoded mirrored,
`latents_flip`, both (n, c, h, w) in fp32, and `labels` (n,). Where whole posteriors are kept these
two are their means, and `latents_logvar` and `latents_flip_logvar` lie beside them. Indices are
(n, tokens) in the smallest integer type that holds the codebook.
Published folders of composite latents (arXiv 2512.04926) have the second group of channels in
`latents_sv` and `latents_sv_flip`, and features of the images in `feats_dino` and `feats_dino_flip`
(n, d, h, w) in fp16.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.latent import AnyLayout, LatentLayout

VIEWS = ("latents", "latents_flip")
"""Names of the tensors of images as they are, and mirrored."""
FEATURES = {"latents": "feats_dino", "latents_flip": "feats_dino_flip"}
"""View -> published name of the features of its images."""


def tensors_of_groups(name: str, count: int) -> tuple[str, ...]:
    """Published names of the tensors that hold the groups of channels of a plane."""
    return (name, name.replace("latents", "latents_sv", 1))[:count]


def planes_of(view: str, *, moments: bool) -> tuple[str, ...]:
    """Names of the tensors that hold a view: samples, or means and log-variances."""
    return (view, f"{view}_logvar") if moments else (view,)


def lower_name(view: str, side: int) -> str:
    """Name of the tensor that holds a view's latents of smaller images, by the grid's side."""
    return f"{view}_{side}x{side}"


class LatentShards:
    """The rows of several shards under one numbering.

    Opening reads headers and labels; rows are read when they are gathered.

    Args:
        paths: The shards in the order of their rows.
        names: Tensors beside `labels` that every shard must hold.
        apart: Each group of channels has tensors of its own (published).
        features: Tensors of features beside them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        layout: AnyLayout,
        *,
        apart: bool = False,
        features: Sequence[str] = (),
    ) -> None:
        self.layout = layout
        self._paths = tuple(paths)
        shape, channels = layout.shape, layout.shape[:1]
        if apart and isinstance(layout, LatentLayout):
            channels = tuple(group.channels for group in layout.groups)
        self._held = {name: tensors_of_groups(name, len(channels)) for name in names}
        shapes = {
            tensor: (number, *shape[1:])
            for held in self._held.values()
            for tensor, number in zip(held, channels, strict=True)
        }
        self._tensors = [_map(path, (*shapes, *features, "labels")) for path in self._paths]
        for path, tensors in zip(self._paths, self._tensors, strict=True):
            _check_shard(path, tensors, shapes, layout.dtype)
        self.labels: Int64[Tensor, " n"] = torch.cat([t["labels"].long() for t in self._tensors])
        sizes = [len(tensors["labels"]) for tensors in self._tensors]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, name: str, indices: Int64[np.ndarray, " b"]) -> Tensor:
        """Rows of one tensor in the order asked for; each shard is read from front to back."""
        return self._gather(
            torch.empty((len(indices), *self.layout.shape), dtype=self.layout.dtype), name, indices
        )

    def gather_features(
        self, name: str, indices: Int64[np.ndarray, " b"]
    ) -> Float[Tensor, "b d h w"]:
        """As `gather`, of a tensor of features, in the type in which it is stored."""
        stored = self._tensors[0][name]
        rows = torch.empty((len(indices), *stored.shape[1:]), dtype=stored.dtype)
        return self._gather(rows, name, indices)

    def _gather(self, rows: Tensor, name: str, indices: Int64[np.ndarray, " b"]) -> Tensor:
        # Handles stay open: opening a file for every row took four times as long (results/LOG.md,
        # 2026-11-25). Sorting is for cold disks; in a warm cache it changes nothing.
        order = np.argsort(indices, kind="stable")
        shards = np.searchsorted(self._starts, indices[order], side="right") - 1
        for shard in np.unique(shards):
            places = order[shards == shard]
            local = torch.from_numpy(indices[places] - self._starts[shard])
            first = 0
            for held in self._held.get(name, (name,)):
                part = self._tensors[shard][held]
                last = first + part.shape[1]
                rows[torch.from_numpy(places), first:last] = part[local].to(rows.dtype)
                first = last
        return rows

    def parts(self, name: str) -> Iterator[Tensor]:
        """One tensor of every shard in turn; on disk until it is used where it is in one piece."""
        for tensors in self._tensors:
            held = [tensors[each].to(self.layout.dtype) for each in self._held[name]]
            yield held[0] if len(held) == 1 else torch.cat(held, dim=1)

    def check_finite(self) -> None:
        """Refuse latents that are not finite; a log-variance may be minus infinity."""
        for name in self._held:
            for path, part in zip(self._paths, self.parts(name), strict=True):
                low = -torch.inf if name.endswith("_logvar") else torch.finfo(part.dtype).min
                bad = ~((part >= low) & (part < torch.inf)).flatten(1).all(dim=1)
                if bool(bad.any()):
                    raise ValueError(
                        f"`{name}` must be finite, but {int(bad.sum()):,} of {len(part):,} rows of "
                        f"{path} are not, the first row {int(bad.nonzero()[0, 0])}; encode them "
                        "again, in float32 or bfloat16 where half precision overflows"
                    )

    def count_codes(self, name: str, codebook_size: int) -> Int64[Tensor, " k"]:
        """How often each code stands in a tensor of indices."""
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
        """Refuse labels that are no classes."""
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
    if all("flip" in name for name in missing):
        return "set latents.flip: false, or encode the mirrored images too"
    if all(name.startswith("feats") for name in missing):
        return "set latents.source.features: false"
    return "write the shard again in the published layout"


def _check_shard(
    path: Path,
    tensors: dict[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
) -> None:
    labels = tensors["labels"]
    if labels.is_floating_point() or labels.ndim != 1:
        raise ValueError(
            f"`labels` of {path} must be int64 of shape (n,), but are {_describe(labels)}; write "
            "one class number an image"
        )
    # Half precision is widened without loss when rows are read.
    types = (torch.float32, torch.float16, torch.bfloat16) if dtype.is_floating_point else (dtype,)
    for name, shape in shapes.items():
        tensor, wanted = tensors[name], (len(labels), *shape)
        if tensor.dtype not in types:
            raise ValueError(
                f"`{name}` of {path} must be {_say(dtype, wanted)} in one of the types "
                f"{', '.join(str(t).removeprefix('torch.') for t in types)}, but is "
                f"{_describe(tensor)}; convert it"
            )
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"`{name}` of {path} must be {_say(dtype, wanted)} (labels, and latents of "
                f"the tokenizer), but is {_describe(tensor)}; take the shards of this tokenizer, "
                "or correct tokenizer.latent_dim, tokenizer.downsample or data.resolution"
            )
    for name in tensors.keys() - shapes.keys() - {"labels"}:
        tensor = tensors[name]
        if not tensor.is_floating_point() or tensor.ndim != 4 or len(tensor) != len(labels):
            raise ValueError(
                f"`{name}` of {path} must be features of shape ({len(labels)}, d, h, w), but is "
                f"{_describe(tensor)}; extract them again, or set latents.source.features: false"
            )


def _describe(tensor: Tensor) -> str:
    return _say(tensor.dtype, tuple(tensor.shape))


def _say(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {shape}"
