"""Parameters and FLOPs of a network, counted on PyTorch's meta device without memory for weights.

A multiply and an add are two operations; matrix products and convolutions count, pointwise work
does not. A training step is taken as three forward passes of what is trained.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import harness.stages
import models
from harness.config.training import TrainingConfig
from harness.schema.imported import OWN, code_of
from harness.schema.keys import content_hash
from harness.storage.user_cache import describe_files, remembered
from models.compilation import recompute
from models.parameters import num_parameters

FORWARDS_A_STEP = 3
"""Forward passes that one training step of a network is worth."""
ADAM_STATE = 4
"""Numbers that a trained parameter needs: itself, its gradient and Adam's two moments."""
BYTES = 4
"""Bytes of a stored number: weights and latents are kept in fp32."""
OF_TRAINING = (
    *("seed", "training", "phases", "loss", "alignment", "regularizers", "ema", "snapshots"),
)
"""Fields that say how a network is trained, and neither its size nor its operations."""

Forward = Callable[[], tuple[nn.Module, tuple[Any, ...]]]
"""Builds a network, and the arguments of its forward pass for one image."""

_known: dict[str, list[float]] = {}


def count_forward(config: Any, forward: Forward) -> tuple[int, float]:
    """Count a network's parameters and the FLOPs of one image's forward pass. `forward` is called
    under the meta device; networks of one `config`, which says their shape, are counted once."""

    def count() -> tuple[int, float]:
        # Only here: it imports Triton, and numbers that are remembered need it not.
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"):
            network, arguments = forward()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network.eval()(*arguments)
        return num_parameters(network), float(counter.get_total_flops())

    parameters, flops = of_network("forward", config, count)
    return int(parameters), float(flops)


def count_kept(
    config: Any, forward: Forward, blocks: Callable[[Any], Sequence[nn.Module]]
) -> tuple[float, float]:
    """Bytes that a training keeps of one image for its backward pass, in fp32; and those where its
    blocks are computed again, one at a time. Takes what `count_forward` takes."""

    def count() -> tuple[float, ...]:
        with torch.device("meta"):
            network, arguments = forward()
        whole = kept_bytes(network, lambda: network(*arguments))
        recompute(blocks(network))
        inputs = kept_bytes(network, lambda: network(*arguments))
        return whole, inputs + (whole - inputs) / len(blocks(network))

    whole, recomputed = of_network("kept and recomputed", config, count)
    return whole, recomputed


def kept_bytes(network: nn.Module, compute: Callable[[], Any]) -> float:
    """Bytes of all that autograd keeps of a computation with a network, its weights left out."""
    weights = {_storage_of(weight) for weight in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage_of(tensor) not in weights:
            # Held, so that no other storage comes to its place.
            kept[_storage_of(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = compute()
    del result
    return float(sum(storage.nbytes() for storage in kept.values()))


def _storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # Tensors of the meta device have no address.


def of_network(purpose: str, config: Any, learn: Callable[[], tuple[float, ...]]) -> list[float]:
    """Numbers that follow from a network's shape, learnt once for each and remembered over
    processes: importing timm and building networks takes most of the time of a dry run."""
    name = content_hash([purpose, network_key(config), code_of(config), _code()])
    if name not in _known:
        _known[name] = remembered("networks", name, lambda: list(learn()))
    return _known[name]


@lru_cache(maxsize=1)
def _code() -> list[str]:
    """The code that networks are built of: our own files, and versions of the libraries."""
    own = [Path(package.__path__[0]) for package in (models, harness.stages)]
    files = sorted(path for folder in own for path in folder.rglob("*.py"))
    installed = [metadata.version(name) for name in ("torch", "timm")]
    with contextlib.suppress(metadata.PackageNotFoundError):
        installed.append(metadata.version("diffusers"))
    return [describe_files(files), *installed]


def network_key(config: Any) -> str:
    """A name of a network's shape: its configuration without how it is trained. A sweep over seeds
    has one network in many stages, and building it takes a second."""
    return content_hash(_shape_of(config))


def _shape_of(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_shape_of(each) for each in value]
    if not dataclasses.is_dataclass(value):
        # Whatever arguments of the user's own code are called, the shape may follow from them.
        return value
    # So may every field of a class that is not ours.
    ours = type(value).__module__.partition(".")[0] in OWN
    kept = [f for f in dataclasses.fields(value) if f.metadata.get("key") is not False]
    kept = [f.name for f in kept if not (ours and f.name in OF_TRAINING)]
    return {
        "type": type(value).__name__,
        **{name: _shape_of(getattr(value, name)) for name in kept},
    }


def empty_image(height: int, width: int) -> tuple[torch.Tensor]:
    """One image as the arguments of a forward pass, of the default device."""
    return (torch.empty(1, 3, height, width),)


def training_images(training: TrainingConfig) -> int:
    """Images that a training works through, counted every time."""
    return training.steps * training.batch_size
