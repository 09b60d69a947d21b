"""Networks in shards: each worker keeps a part of every weight and of what goes with it (FSDP2).

A block's weights are put together while it computes. Gradients are summed, as `gradients` does.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.machine.world import World


def shard(
    network: nn.Module,
    blocks: Iterable[nn.Module],
    device: torch.device,
    world: World,
    methods: Iterable[str] = (),
) -> None:
    """Leave this worker a part of each weight, on the device.

    Args:
        blocks: Put together one by one; the rest of the network is at once.
        methods: Of the network, called in place of its `forward`.

    Raises:
        ValueError: This PyTorch cannot add gradients of shards up; releases since mid-2025 can.
    """
    # Only here: they take a second to import.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ValueError(
            f"resources.generator.shard needs a later PyTorch than {torch.__version__}; upgrade "
            "it, or set this to false"
        )
    mesh = init_device_mesh(device.type, (world.size,))
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        # It would average, and by an operation that gloo lacks.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    for method in methods:
        register_fsdp_forward_method(network, method)


def is_shard(value: Any) -> bool:
    """Whether something is a worker's part of a tensor."""
    # A class that is not loaded has no instances.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def put_together(value: Any) -> Any:
    """The tensor that a shard is of, on every worker; what is no shard as it is."""
    return value.full_tensor() if is_shard(value) else value


def whole(value: Any) -> Any:
    """Shards put together, in nested mappings, on the first worker's host; others keep theirs. All
    workers call it alike."""
    if isinstance(value, Mapping):
        return {name: whole(each) for name, each in value.items()}
    if not is_shard(value):
        return value
    full = put_together(value)
    return full.cpu() if value.device_mesh.get_rank() == 0 else value


def part_of(full: Tensor, like: Any) -> Tensor:
    """This worker's part of a tensor that each has whole, where `like` is a shard."""
    if not is_shard(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
