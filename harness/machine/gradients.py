"""Gradients summed over the workers of a training, bucket by bucket while the backward pass runs.

Each worker's loss is its contribution to that of the global batch: the mean over its images times
their share of the batch. So the sum is the gradient of the global batch, also where workers have
unequal numbers of images.
"""

from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn

from harness.machine.world import World

BUCKET_BYTES = 25 * 2**20
"""Gradients that travel together: large enough for the network, small enough to start early."""


@final
class GradientSum:
    """Sums the gradients of some parameters over the workers; with one worker it does nothing.

    A bucket is sent as soon as the last of its gradients is there. Buckets leave in one order on
    all workers, from the last parameter to the first, about the order of the backward pass.

    Args:
        passes: Backward passes that add up to one step's gradients.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: World, passes: int = 1) -> None:
        self._world = world
        self._buckets: list[_Bucket] = []
        self._next = 0
        if world.is_alone:
            return
        # Not torch's DDP: it averages, which is wrong for unequal parts, and it does not see the
        # gradients that adaptive loss weights ask for within a step.
        self._buckets = _in_buckets([p for p in parameters if p.requires_grad], passes)
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._count(bucket))

    def finish(self) -> None:
        """Wait until every gradient is the sum over the workers; call it after the last pass.

        A parameter without gradient must lack it on all workers.
        """
        for bucket in self._buckets[self._next :]:
            bucket.send(self._world)
        for bucket in self._buckets:
            bucket.receive()
        self._next = 0

    def _count(self, bucket: "_Bucket") -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            bucket.num_missing -= 1
            # Workers must start their exchanges in one order, so a bucket that is full early waits
            # for those before it.
            while self._next < len(self._buckets) and not self._buckets[self._next].num_missing:
                self._buckets[self._next].send(self._world)
                self._next += 1

        return hook


@final
class _Bucket:
    """Neighbouring parameters of one type on one device."""

    def __init__(self, parameters: list[nn.Parameter], passes: int) -> None:
        self.parameters, self.passes = parameters, passes
        self.num_missing = passes * len(parameters)
        self._flat: Tensor | None = None
        self._wait: Callable[[], None] | None = None

    def send(self, world: World) -> None:
        # Parameters that took no part in the loss have no gradient.
        gradients = [p.grad.flatten() for p in self.parameters if p.grad is not None]
        if gradients:
            self._flat = torch.cat(gradients)
            self._wait = world.start_sum(self._flat)

    def receive(self) -> None:
        self.num_missing = self.passes * len(self.parameters)
        if self._flat is None or self._wait is None:
            return
        self._wait()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        parts = self._flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        self._flat = self._wait = None


def _in_buckets(parameters: list[nn.Parameter], passes: int) -> list[_Bucket]:
    buckets: list[list[nn.Parameter]] = []
    filled, kind = 0, None
    # The backward pass reaches the last parameters first.
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if kind != (parameter.dtype, parameter.device) or filled + size > BUCKET_BYTES:
            buckets.append([])
            filled, kind = 0, (parameter.dtype, parameter.device)
        buckets[-1].append(parameter)
        filled += size
    return [_Bucket(bucket, passes) for bucket in buckets]
