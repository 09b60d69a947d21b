"""The resources of a stage, as a sweep file asks for them, and what it holds by that."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Cores, GPUs and memory of one running stage. They enter no key; `cpus`, `slices`, `shard`,
    `compile`, `channels_last` and `fused_optimizer` move the last bits of numbers, because sums are
    taken in another order."""

    cpus: int = 1
    """CPU cores, and threads, of each worker."""
    gpus: float | Literal["auto"] = "auto"
    """A fraction up to 1 shares a GPU between stages; a whole number above 1 is that many workers
    with one GPU each; `auto` asks for one where the machine or cluster has any."""
    workers: int = 1
    """Processes of a stage that holds no GPU; with GPUs there is one a GPU. Kinds whose work is not
    shared (encoder, diagnostics) have one in any case."""
    memory_gib: float | None = None
    """Host memory of each worker [GiB], set aside by Ray; absent: not accounted for."""
    accelerator_type: str = ""
    """Only on machines with this kind of GPU, as Ray names it: H100, A100, ..."""
    checkpoint_every_s: float = 600.0
    """Seconds between two checkpoints of a training stage."""
    slices: int = 1
    """Parts that each worker computes a batch in, one after the other, with the numbers of the
    whole but for rounding: more need less device memory. They are doubled, up to single images,
    where that runs out. Not of kinds whose work is not shared."""
    profile: int = 0
    """Steps of which a training writes a trace beside its log, `trace-worker0.json.gz`."""
    compile: bool = False
    """`torch.compile` the networks that a stage trains, encodes or samples with, frozen ones of its
    loss included: faster after a start-up time. Feature networks of metrics have a setting of
    their own, `evaluation.extraction`."""
    channels_last: bool | Literal["auto"] = "auto"
    """Whether tokenizers keep images and convolutions with channels last in memory; `auto`: on
    CUDA, where tensor cores want it."""
    activation_checkpointing: bool = False
    """Whether a generator's training keeps of a block its input alone and computes the rest again
    for the backward pass: a third more computing, and a fraction of the memory. Moves no number."""
    shard: bool = False
    """Whether the workers of a generator's training share its weights, gradients, optimiser state
    and averages, of which each then keeps a part (FSDP2): for networks too large for one GPU."""
    fused_optimizer: bool = True
    """Whether an optimiser's step is one kernel over all parameters."""
    latents_on_device: bool | Literal["auto"] = "auto"
    """Whether a generator keeps all latents on its device; `auto`: where they fill at most 40% of
    what is free. Otherwise they are read from the shards, ahead of their step. Moves no number."""
    batches_ahead: int = 2
    """Batches of images read while a training computes with earlier ones; 0: each when it is
    needed. The batches are the same."""

    def __post_init__(self) -> None:
        for name in ("cpus", "workers", "slices"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1, but got {getattr(self, name)}; use 1"
                )
        for name, usual in (("checkpoint_every_s", 600), ("memory_gib", 16)):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive, but got {value}; use {usual}")
        for name in ("batches_ahead", "profile"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"`{name}` must not be negative, but got {value}; use 2")
        if self.gpus != "auto":
            _check_gpus(self.gpus)
            if self.gpus > 0 and self.workers > 1:
                raise ValueError(
                    f"`workers` counts the processes of a stage without GPUs, but got "
                    f"{self.workers} beside `gpus: {self.gpus:g}`; with GPUs there is one process "
                    f"a GPU, so write `gpus: {self.workers}` alone"
                )
        if self.accelerator_type and not re.fullmatch(r"[A-Za-z0-9_-]+", self.accelerator_type):
            raise ValueError(
                f"`accelerator_type` must be letters, digits, '-' and '_', but got "
                f"{self.accelerator_type!r}; for example H100"
            )


def _check_gpus(gpus: float) -> None:
    if not 0 <= gpus < float("inf"):
        raise ValueError(
            f"`gpus` must be `auto`, a fraction up to 1 or a whole number, but got {gpus}; use 1"
        )
    if gpus > 1 and gpus != int(gpus):
        below, above = int(gpus), int(gpus) + 1
        raise ValueError(
            f"`gpus` above 1 must be a whole number, one GPU a worker, but got {gpus}; only a "
            f"stage on a single GPU can share it; use {below} or {above}"
        )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """CPUs and GPUs: of a machine or cluster, or what one stage holds of them."""

    cpus: float = 0.0
    gpus: float = 0.0


def capacity_of(request: Resources, gpus_here: int) -> Capacity:
    """Cores and GPUs that a stage of this request holds on a machine with so many GPUs."""
    gpus = float(min(1, gpus_here)) if request.gpus == "auto" else float(request.gpus)
    workers = getattr(request, "workers", 1)
    cpus = request.cpus * max(1, workers if isinstance(workers, int) else 1, math.ceil(gpus))
    return Capacity(cpus=float(cpus), gpus=gpus)


def merge_default(blocks: Any) -> None:
    """A stage kind's block, as written, changes what it names; the rest is that of `default`."""
    if isinstance(blocks, dict) and isinstance(blocks.get("default"), dict):
        for kind, block in blocks.items():
            if isinstance(block, dict):
                blocks[kind] = {**blocks["default"], **block}
