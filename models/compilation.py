"""Compiling and recomputing parts of networks in place: names in state dicts, and calls, stay.

Every batch shape is compiled for itself, since kernels for one shape are faster than for any.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

F = TypeVar("F", bound=Callable[..., Any])

SHAPES = 32
"""Batch shapes that one piece of code is compiled for before it runs uncompiled. Blocks of unlike
width share their code and so this number."""


def compiled(function: F) -> F:
    """The function, compiled on first use for each shape that it meets."""
    _prepare()
    return cast(F, torch.compile(function, dynamic=False))


def compile_in_place(module: nn.Module) -> None:
    """Have calls of a module run compiled code."""
    _prepare()
    module.compile(dynamic=False)


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Have backward passes compute blocks again from their inputs, which alone are kept; before
    they are compiled."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _prepare() -> None:
    """Settings of this process that compilation here needs.

    Adaptive weights pass a graph backwards more than once, so its buffers must not be given away.
    """
    import torch._dynamo
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    torch._functorch.config.donated_buffer = False
    # It tells of a CUDA_HOME without a GPU, which is no fault.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
