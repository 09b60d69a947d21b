"""An encoded data set as a generator reads it: latents by position and view.

`statistics.safetensors` holds the per-channel mean and standard deviation (1, c, 1, 1) that
normalise them. Indices are read as they are, as 64-bit integers. A set that fits lies on the device
as a whole; another one is read from its shards, so that a caller does well to read ahead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import TypeAdapter
from torch import Tensor

from harness.data.latents.folder import check_unchanged
from harness.data.latents.shards import FEATURES, LatentShards, lower_name, planes_of
from harness.machine.random_streams import generator_for
from harness.storage.artifacts import Artifact
from models.latent import AnyLayout, IndexLayout, LatentLayout
from models.objectives.cascade import lower_key

DEVICE_SHARE = 0.4
"""Share of the free device memory that a latent set may fill; the training needs the rest."""

Precision = Literal["fp32", "bf16"]

Latents = Float[Tensor, "b c h w"] | Int64[Tensor, "b n"]
"""Normalised latents, or indices of codes."""

_LAYOUT: TypeAdapter[AnyLayout] = TypeAdapter(AnyLayout)

Rows = tuple[Tensor, ...]
"""Result of `read`: labels, then one tensor a plane."""


class LatentSet:
    """Normalised latents or indices, from the device where they fit, else from disk.

    Args:
        precision: `fp32`, or `bf16`: latents are rounded after normalisation, wherever they lie;
            batches are fp32 either way. Indices are never rounded.
        on_device: Whether the whole set lies on the device; `auto`: where it fits.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: torch.device,
        precision: Precision = "fp32",
        *,
        on_device: bool | Literal["auto"] = "auto",
    ) -> None:
        self.device, self.precision = device, precision
        self.views: Sequence[str] = artifact.result["views"]
        self.draws_posteriors = artifact.record["config"]["latents"]["posterior"] == "moments"
        """Whether the set holds whole posteriors, of which a batch is a fresh sample."""
        self.layout: AnyLayout = _LAYOUT.validate_python(artifact.result["layout"])
        """Shape and type of one latent."""
        statistics = artifact.tensors("statistics.safetensors")
        if not isinstance(self.layout, IndexLayout):
            self.mean, self.std = statistics["mean"].to(device), statistics["std"].to(device)
        self._planes = [planes_of(view, moments=self.draws_posteriors) for view in self.views]
        names = [name for view in self._planes for name in view]
        self._shards = _open_shards(artifact, names, self.layout)
        self.labels = self._shards.labels
        self._lower: dict[int, LatentShards] = {}
        for side in artifact.record["config"].get("lower") or ():
            assert isinstance(self.layout, LatentLayout), "indices have no lower resolutions"
            layout = replace(self.layout, height=side, width=side)
            names = [lower_name(view, side) for view in self.views]
            self._lower[side] = _open_shards(artifact, names, layout)
        wanted = self._fits() if on_device == "auto" else on_device
        self._resident = self._load_all() if wanted else None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_resident(self) -> bool:
        """Whether the whole set lies on the device."""
        return self._resident is not None

    def batch(
        self,
        indices: Int64[np.ndarray, " b"],
        views: Int64[np.ndarray, " b"],
        noise: Float[Tensor, "b c h w"] | None = None,
    ) -> tuple[Latents, Int64[Tensor, " b"]]:
        """Normalised latents, or indices, and labels.

        Args:
            views: For each, which of `self.views` to read.
            noise: Standard normal, where `draws_posteriors`.
        """
        return self.finish(self.read(indices, views), noise)

    def read(self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]) -> Rows:
        """Read the rows of a batch from device memory, or from disk to the host. The result depends
        on the arguments alone, so this may run in another thread."""
        if self._resident is None:
            labels = self.labels[torch.from_numpy(indices)]
            return labels, *(self._from_disk(number, indices, views) for number in self._numbers)
        labels, *planes = self._resident
        # One transfer for both kinds of positions.
        places = np.stack([indices, views * len(self) + indices])
        images, chosen = torch.from_numpy(places).to(self.device, non_blocking=True)
        return labels[images], *(plane[chosen] for plane in planes)

    def lower(
        self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> Mapping[str, Float[Tensor, "b c s s"]]:
        """The latents of smaller images as they were encoded, on the device, by `lower_key`."""
        found: dict[str, Tensor] = {}
        for side, shards in self._lower.items():
            rows = torch.empty((len(indices), *shards.layout.shape))
            for view in np.unique(views):
                places = np.flatnonzero(views == view)
                name = lower_name(self.views[int(view)], side)
                rows[torch.from_numpy(places)] = shards.gather(name, indices[places])
            found[lower_key(side)] = rows.to(self.device, non_blocking=True)
        return found

    def features(
        self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> Float[Tensor, "b d h w"]:
        """Features of the images behind latents, from a folder that holds them; on the host."""
        rows = self._shards.gather_features(FEATURES[self.views[int(views[0])]], indices)
        for view in np.unique(views[views != views[0]]):
            places = np.flatnonzero(views == view)
            gathered = self._shards.gather_features(
                FEATURES[self.views[int(view)]], indices[places]
            )
            rows[torch.from_numpy(places)] = gathered
        return rows

    def finish(
        self, rows: Rows, noise: Float[Tensor, "b c h w"] | None = None
    ) -> tuple[Latents, Int64[Tensor, " b"]]:
        """Make the batch from what `read` gave: move it to the device, sample and normalise."""
        # A resident set in bf16 was rounded when it was loaded, by the same operations: batches
        # have the same bits wherever the set lies.
        labels, *planes = (part.to(self.device, non_blocking=True) for part in rows)
        if isinstance(self.layout, IndexLayout):
            return planes[0].long(), labels
        if self.precision == "bf16" and self._resident is None:
            planes = [self._rounded(plane, number) for number, plane in enumerate(planes)]
        if self.precision == "bf16":
            return self._sampled([plane.float() for plane in planes], noise), labels
        if self.draws_posteriors:
            planes[1] = torch.exp(0.5 * planes[1])
        return (self._sampled(planes, noise) - self.mean) / self.std, labels

    def noise(
        self, seed: int, step: int, count: int, part: slice = slice(None)
    ) -> Float[Tensor, "b c h w"] | None:
        """Standard normal noise with which `finish` samples posteriors; None for a set of samples.

        Args:
            count: Images of the whole batch, for which it is drawn whoever needs which part.
            part: Those of the batch that are read here.
        """
        if not self.draws_posteriors:
            return None
        random = generator_for(seed, "posterior", step, device=self.device)
        shape = (count, *self.layout.shape)
        return torch.randn(shape, generator=random, device=self.device)[part]

    @property
    def _dtype(self) -> torch.dtype:
        """Type in which the set lies on the device."""
        rounded = self.precision == "bf16" and not isinstance(self.layout, IndexLayout)
        return torch.bfloat16 if rounded else self.layout.dtype

    @property
    def _numbers(self) -> range:
        return range(len(self._planes[0]))

    def _sampled(
        self, planes: Sequence[Float[Tensor, "b c h w"]], noise: Float[Tensor, "b c h w"] | None
    ) -> Float[Tensor, "b c h w"]:
        """Samples as they were stored, or of means and deviations."""
        if not self.draws_posteriors:
            return planes[0]
        assert noise is not None, "a set of posteriors must be given noise to draw a batch"
        return planes[0] + planes[1] * noise

    def _rounded(self, plane: Float[Tensor, "b c h w"], number: int) -> Tensor:
        """A plane in bf16: normalised samples or means, or normalised deviations."""
        # Rounded after normalising, and here rather than when latents are stored: one encoding
        # serves both precisions.
        if number == 0:
            return ((plane - self.mean) / self.std).bfloat16()
        return (torch.exp(0.5 * plane) / self.std).bfloat16()

    def _from_disk(
        self, number: int, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> Tensor:
        rows = torch.empty((len(indices), *self.layout.shape), dtype=self.layout.dtype)
        for view in np.unique(views):
            places = np.flatnonzero(views == view)
            gathered = self._shards.gather(self._planes[view][number], indices[places])
            rows[torch.from_numpy(places)] = gathered
        return rows

    def _load_all(self) -> Rows:
        """Load labels, and each plane of all views in turn, onto the device."""
        size = (len(self.views) * len(self), *self.layout.shape)
        # Allocated first and filled shard by shard, so that memory never holds the set twice.
        planes = [torch.empty(size, dtype=self._dtype, device=self.device) for _ in self._numbers]
        for number, plane in enumerate(planes):
            start = 0
            for view in self._planes:
                for part in self._shards.parts(view[number]):
                    moved = part.to(self.device)
                    rounded = moved if self._dtype == moved.dtype else self._rounded(moved, number)
                    plane[start : start + len(part)] = rounded
                    start += len(part)
        return self.labels.to(self.device), *planes

    def _fits(self) -> bool:
        numbers = len(self.views) * len(self._numbers) * len(self) * math.prod(self.layout.shape)
        needed = numbers * self._dtype.itemsize
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
        else:
            free = free_host_bytes()
        return needed <= DEVICE_SHARE * free


def _open_shards(artifact: Artifact, names: Sequence[str], layout: AnyLayout) -> LatentShards:
    source = artifact.record["config"]["latents"]["source"]
    paths = sorted(artifact.path.glob("latents_shard*.safetensors"))
    if "linked_shards" in artifact.result:
        # The shards are somebody else's: what has changed there cannot be made anew here.
        check_unchanged(artifact, paths)
    # Asking for a file holds it to its hash.
    for name in artifact.record["files"]:
        artifact.file(name)
    return LatentShards(
        paths,
        names,
        layout,
        apart="linked_shards" in artifact.result,
        features=[FEATURES[v] for v in artifact.result["views"]] if source.get("features") else (),
    )


def free_host_bytes() -> int:
    """Memory that this machine can still give, in bytes; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    fields: Mapping[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
