"""The workers that compute one stage together, and the exchanges between them.

Every worker is a process with one device and runs the same code on its part of a global batch. The
global batch settles which numbers come out: random numbers are drawn for all of it, and each worker
takes its part. What is summed over workers is rounded in another order than on one worker, and
nothing else differs.

Whoever starts the workers has each of them `join` the others.
"""

import contextlib
import gc
import importlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from harness.machine.devices import is_out_of_memory

Value = TypeVar("Value")

PATIENCE_S = 1800.0
"""Seconds that a worker waits for the others in one exchange. A worker that ends is noticed as
soon as its connections close; this bounds the wait for one that hangs."""
LONG_PATIENCE_S = 7 * 86400.0
"""The same where the first worker may have long work of its own: it hashes what it publishes."""


class WorkerLost(RuntimeError):
    """Another worker of this stage has ended or does not answer."""


@final
@dataclass(frozen=True, kw_only=True)
class World:
    """This worker's place among the workers of its stage, and the exchanges between them.

    A worker that is alone gets back what it gives.
    """

    rank: int = 0
    """Number of this worker, from 0."""
    size: int = 1
    host_group: Any = field(default=None, repr=False, compare=False)
    """Process group for tensors on the host and for objects; None: the default one carries them."""
    patient_group: Any = field(default=None, repr=False, compare=False)
    """Process group of exchanges that wait for the first worker's own work; None: the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"`rank` must lie in 0..{self.size - 1} (`size` - 1), but got {self.rank}; count "
                "workers from 0"
            )

    @property
    def is_first(self) -> bool:
        """Whether this worker holds the lease and writes into the store."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no other workers."""
        return self.size == 1

    def part(self, count: int) -> slice:
        """This worker's run of `count` things; sizes differ by one at most, and may be 0."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the workers, the same bits on each; not differentiable."""
        if self.is_alone:
            return tensor
        # The exchange writes in place, and the caller's tensor may be part of a graph.
        total = tensor.detach().clone()
        with _losses_told():
            dist.all_reduce(total, group=self._group(total))
        return total

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to sum a tensor over the workers, in place.

        Call the result to wait for the sum; later work on the tensor's device then sees it.
        """
        with _losses_told():
            exchange = dist.all_reduce(tensor, group=self._group(tensor), async_op=True)

        def wait() -> None:
            with _losses_told():
                exchange.wait()

        return wait

    def differentiable_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the workers whose backward pass sums the gradients of all workers.

        So the gradient of a sum of the workers' losses comes out right where each depends on what
        the others computed. All workers must go backward through it alike.
        """
        if self.is_alone:
            return tensor
        result = _DifferentiableSum.apply(tensor, self)
        assert isinstance(result, Tensor)
        return result

    def sum_terms(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named scalars summed over the workers in one exchange."""
        if self.is_alone or not terms:
            return dict(terms)
        # Every exchange costs a round trip, so all terms share one.
        total = self.sum(torch.stack([term.detach().float() for term in terms.values()]))
        return dict(zip(terms, total.unbind(), strict=True))

    def broadcast(self, value: Value, *, patient: bool = False) -> Value:
        """The first worker's value, on every worker; what the others give is ignored. They are
        `patient` where the first one may have work of its own before."""
        if self.is_alone:
            return value
        values = [value]
        with _losses_told():
            group = self.patient_group if patient else self.host_group
            dist.broadcast_object_list(values, src=0, group=group)
        return values[0]

    def gather(self, value: Value) -> list[Value]:
        """Every worker's value in the order of ranks, on the first worker; nothing elsewhere.

        Tensors of the others' devices come to the first one's.
        """
        if self.is_alone:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        # Saved with the data of its tensors: pickled as it is, a tensor would be made anew on the
        # device of the worker that sent it, which this machine need not have.
        packed = io.BytesIO()
        if not self.is_first:
            torch.save(value, packed)
        with _losses_told():
            dist.gather_object(packed.getvalue(), values, dst=0, group=self.host_group)
        others = [
            torch.load(io.BytesIO(each), map_location=to_own_device, weights_only=False)
            for each in (values or [])[1:]
        ]
        return [value, *others] if self.is_first else []

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self.broadcast(None)
        self.gather(None)

    def leave(self) -> None:
        """Leave after a failure, so that the others' exchanges end with `WorkerLost` at once."""
        if not self.is_alone and dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                # An orderly end waits for exchanges that the others may never join.
                if dist.get_backend() == "nccl" and (whole := dist.group.WORLD) is not None:
                    whole.abort()
                dist.destroy_process_group()
            # Connections close with the last reference, and an error's frames hold some in cycles.
            gc.collect()

    def _group(self, tensor: Tensor) -> Any:
        return self.host_group if tensor.device.type == "cpu" else None


def to_own_device(storage: Any, place: str) -> Any:
    """Where `torch.load` puts what another worker had: on its GPU, on this worker's GPU."""
    return storage.cuda() if place.startswith("cuda") else storage


class _DifferentiableSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.world.sum(grad_outputs[0].contiguous()), None


@contextlib.contextmanager
def _losses_told() -> Iterator[None]:
    """Raise `WorkerLost` for whatever a backend raises when another worker is gone."""
    try:
        yield
    except WorkerLost:
        raise
    # gloo and NCCL have no error classes of their own for it, and their texts change.
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        cause = " ".join(str(error).split())[:120]
        raise WorkerLost(
            f"all workers of a stage must go on together, but another one has ended or does not "
            f"answer ({cause}); run the command again to continue from the last checkpoint"
        ) from error


@contextlib.contextmanager
def join(
    rank: int,
    size: int,
    rendezvous: Path | str,
    *,
    backend: str = "gloo",
    patience_s: float = PATIENCE_S,
) -> Iterator[World]:
    """Join the workers that meet at a file or a port, until the block ends.

    Args:
        rendezvous: A file that is not there yet, on a file system with locks that all workers see;
            or `tcp://HOST:PORT` of the first worker, which then listens there on every interface.
        backend: `gloo`, or `nccl` where every worker has a GPU of its own.
        patience_s: Seconds to wait for the others in one exchange.
    """
    # Its functions have the default group of the moment as default argument; imported later, as
    # parts of PyTorch do, it would hold the group for ever, and `leave` would close no connection.
    importlib.import_module("torch.distributed.nn.functional")
    is_file = isinstance(rendezvous, Path)
    timeout = timedelta(seconds=patience_s)
    dist.init_process_group(
        backend,
        init_method=f"file://{rendezvous.resolve()}" if is_file else rendezvous,
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    try:
        # NCCL carries tensors on devices only.
        group = None if "gloo" in backend else dist.new_group(backend="gloo", timeout=timeout)
        long = timedelta(seconds=max(patience_s, LONG_PATIENCE_S))
        patient = dist.new_group(backend="gloo", timeout=long)
        yield World(rank=rank, size=size, host_group=group, patient_group=patient)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
