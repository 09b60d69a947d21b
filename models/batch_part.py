"""Computing a batch in parts, on several workers or slice by slice, with the outcome of the whole.

Every worker holds a part of the global batch. What depends on the whole (batch statistics, adaptive
weights, the masks of dropout) asks here for sums over the workers and for the part's place.
A worker may go through its part in slices: the activations of one slice are held at a time, and
computed again for the backward pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


@final
@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """One worker's part of a global batch; by default all of it."""

    first: int = 0
    """Position of the part's first image in the batch."""
    total: int | None = None
    """Images of the batch; None where the part is the batch."""
    sum: Callable[[Tensor], Tensor] = _unchanged
    """Sum over the workers, for which no gradient is needed."""
    differentiable_sum: Callable[[Tensor], Tensor] = _unchanged
    """Sum over the workers that passes back the sum of the workers' gradients."""

    @property
    def is_whole(self) -> bool:
        """Whether there are no other parts."""
        return self.total is None

    def share(self, count: int, own: int) -> float:
        """The fraction that `count` images are of the batch, of which `own` are in this part."""
        return count / (self.total or own)


WHOLE = BatchPart()


def slices_of(count: int, slices: int) -> Iterator[slice]:
    """`count` images in up to `slices` runs of nearly equal length, none of them empty."""
    bounds = [count * number // slices for number in range(slices + 1)]
    yield from (slice(start, stop) for start, stop in pairwise(bounds) if stop > start)


def add_terms(total: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named scalars of one more slice added to those of the slices before, detached."""
    return {
        name: total[name] + term.detach() if name in total else term.detach()
        for name, term in terms.items()
    }


@final
class BatchDropout(nn.Module):
    """Dropout whose masks are those of the whole batch, whichever part of it is computed."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.place: tuple[int, int] | None = None
        """Position of the first image in the batch, and images of the batch; None: it is whole."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Zero elements at random and scale up the others, while training."""
        if not self.training or self.probability == 0:
            return x
        if self.place is None:
            return functional.dropout(x, self.probability)
        first, total = self.place
        # Masks are drawn in the order of memory.
        ones = x.new_ones((total, *x.shape[1:])).to(memory_format=_memory_format(x))
        return x * functional.dropout(ones, self.probability)[first : first + len(x)]


def _memory_format(x: Tensor) -> torch.memory_format:
    """That of an image batch; one that is both counts as contiguous."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def run_in_slices(
    network: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b ..."],
    slices: int,
    part: BatchPart = WHOLE,
    dropouts: Sequence[BatchDropout] = (),
) -> Float[Tensor, "b ..."]:
    """Apply a network to a part of a batch, in slices whose activations are not kept.

    Args:
        network: What is applied; images must not depend on each other in it.
        slices: At most so many; 1 keeps the activations.
        part: Where `x` lies in the batch.
    """
    drops = any(layer.training and layer.probability > 0 for layer in dropouts)
    if slices == 1 and (part.is_whole or not drops):
        return network(x)
    total = part.total or len(x)
    results = []
    for rows in places_of_slices(len(x), slices, part, dropouts, x.device):
        placed = _placed(network, dropouts, (part.first + rows.start, total))
        keeps = slices == 1 or not torch.is_grad_enabled()
        piece = x[rows]
        results.append(placed(piece) if keeps else checkpoint(placed, piece, use_reentrant=False))
    return torch.cat(results)


def places_of_slices(
    count: int, slices: int, part: BatchPart, dropouts: Sequence[BatchDropout], device: torch.device
) -> Iterator[slice]:
    """Slices of a part of a batch, with dropout at the place of each.

    Every slice draws the masks of the whole batch, from the same state.
    """
    drops = any(layer.training and layer.probability > 0 for layer in dropouts)
    alone = slices == 1 and part.is_whole
    state = _random_state(device) if drops and not alone else None
    for rows in slices_of(count, slices):
        if state is not None:
            _set_random_state(device, state)
            for layer in dropouts:
                layer.place = (part.first + rows.start, part.total or count)
        yield rows


def _placed(
    network: Callable[[Tensor], Tensor], dropouts: Sequence[BatchDropout], place: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """The network with its dropout at a place in the batch, also when it is computed again."""

    def run(x: Tensor) -> Tensor:
        for layer in dropouts:
            layer.place = place
        return network(x)

    return run


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@final
class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the global batch, with their gradients.

    Where the part is the whole batch it is PyTorch's, to the bit; names of the state are the same.
    """

    part: BatchPart = WHOLE

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each channel, over all workers' images while training."""
        if self.part.is_whole or not self.training:
            return super().forward(input)
        wide = input.float()
        ones = wide.new_full((1,), wide.numel() / wide.shape[1])
        sums = self.part.differentiable_sum(torch.cat([wide.sum(dim=(0, 2, 3)), ones]))
        count = sums[-1].detach()
        shape = (1, -1, 1, 1)
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        squares = self.part.differentiable_sum(centred.square().sum(dim=(0, 2, 3)))
        variance = squares / count
        self._remember(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as PyTorch does; they hold the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
