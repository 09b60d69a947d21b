"""The contract of an objective, and what several objectives share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Draws = Mapping[str, Any]
"""Random numbers of a whole batch by name: tensors of one row an image, and numbers that hold for
the whole batch."""

Network = Callable[..., Tensor]
"""A generator's forward pass as the training loop runs it, in the training's arithmetic."""


@dataclass(frozen=True)
class Loss:
    """The loss of some images of a batch: means over them, so that a slice counts by its share."""

    total: Float[Tensor, ""]
    """The number that is differentiated."""
    terms: Mapping[str, Float[Tensor, ""]]
    """Its parts by name, unweighted; they become the training's curve."""

    def __post_init__(self) -> None:
        if "loss" in self.terms:
            raise ValueError(
                "`terms` must not have one called `loss`, as the total is, but have; rename it"
            )


@runtime_checkable
class Objective(Protocol):
    """How a generator learns from clean latents and their labels, by steps along a gradient.

    The random numbers of a step are drawn for the whole batch and apart from the loss. So a resumed
    training, and any number of workers or slices, computes with the same numbers.
    """

    def draw(
        self, labels: Int[Tensor, " b"], shape: tuple[int, ...], random: torch.Generator, step: int
    ) -> Draws:
        """Draw all random numbers of a step.

        Args:
            labels: classes of the batch, in [0, num_classes), on the device of `random`.
            shape: shape of one clean latent.
            random: the step's stream; the order of the draws is part of the numerics.
            step: optimiser step, from 0.
        """
        ...

    def loss(self, network: Network, clean: Tensor, draws: Draws) -> Loss:
        """Compute the loss of some images of a batch.

        Args:
            network: the generator; what it is called with is between it and the objective.
            clean: normalised latents (or indices, of a grid of these), one row an image.
            draws: the rows of `draw`'s tensors that belong to these images.
        """
        ...


def rows_of(draws: Draws, rows: slice) -> Draws:
    """The random numbers of some images of a batch."""
    return {name: v[rows] if isinstance(v, Tensor) else v for name, v in draws.items()}


def drop_labels(
    labels: Int[Tensor, " b"],
    num_classes: int,
    probability: float,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " b"]:
    """Replace labels by the null class with the given probability in [0, 1].

    The draw happens on the generator's device.
    """
    device = torch.device("cpu") if generator is None else generator.device
    draw = torch.rand(labels.shape[0], generator=generator, device=device)
    return torch.where(draw.to(labels.device) < probability, num_classes, labels)
