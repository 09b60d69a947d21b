"""An encoded data set: latents in shards, with labels, channel groups and statistics.

The shards follow the published layout: `latents` and, where the images are also encoded mirrored,
`latents_flip`, both (n, c, h, w) in fp32, and `labels`. `statistics.safetensors` holds the
per-channel mean and standard deviation (1, c, 1, 1) that normalise what a generator sees.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from torch import Tensor

from harness.store import Artifact

DEVICE_SHARE = 0.4
"""Share of the free device memory that a latent set may fill."""


class LatentSet:
    """Normalised latents by position and view, from the device where they fit, else from disk."""

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        self.device = device
        self.views: Sequence[str] = artifact.result["views"]
        self._paths = sorted(artifact.path.glob("latents_shard*.safetensors"))
        statistics = artifact.tensors("statistics.safetensors")
        self.mean, self.std = statistics["mean"].to(device), statistics["std"].to(device)
        self.labels = torch.cat([_read(path, "labels") for path in self._paths])
        self._files = [safe_open(path, framework="pt") for path in self._paths]
        sizes = [file.get_slice("labels").get_shape()[0] for file in self._files]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._resident = self._load_all() if self._fits() else None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """Normalised latents and labels.

        Args:
            indices: Positions in the set.
            views: For each, which of `self.views` to read.
        """
        labels = self.labels[torch.from_numpy(indices)].to(self.device, non_blocking=True)
        if self._resident is not None:
            chosen = torch.from_numpy(views * len(self) + indices).to(self.device)
            latents = self._resident[chosen]
        else:
            rows = [self._read_one(int(i), int(v)) for i, v in zip(indices, views, strict=True)]
            latents = torch.stack(rows).to(self.device)
        return (latents - self.mean) / self.std, labels

    def _read_one(self, index: int, view: int) -> Float[Tensor, "c h w"]:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        rows = self._files[shard].get_slice(self.views[view])
        return rows[index - int(self._starts[shard])]

    def _load_all(self) -> Float[Tensor, "n c h w"]:
        parts = [_read(path, view) for view in self.views for path in self._paths]
        return torch.cat(parts).to(self.device)

    def _fits(self) -> bool:
        needed = sum(path.stat().st_size for path in self._paths)
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
        else:
            free = free_host_bytes()
        return needed <= DEVICE_SHARE * free


def free_host_bytes() -> int:
    """Memory that this machine can still give, in bytes; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    fields: Mapping[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
