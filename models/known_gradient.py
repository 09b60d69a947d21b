"""A scalar whose gradients have already been computed.

The adaptive weights of the tokenizer loss need gradients of single terms. Handing these gradients
on, instead of differentiating the terms again, keeps every network to the passes it needs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grad_outputs[0] * gradient for gradient in ctx.gradients)


def with_known_gradient(
    value: Float[Tensor, ""], tensors: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """Attach given gradients to a detached scalar.

    Args:
        value: what the result equals.
        tensors: tensors that the result is to be differentiated by.
        gradients: derivative of the result by each tensor.
    """
    result = _KnownGradient.apply(value.detach(), tuple(gradients), *tensors)
    assert isinstance(result, Tensor)
    return result
