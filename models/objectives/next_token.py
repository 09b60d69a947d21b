"""Prediction of codes: cross entropy of each, given the class and the codes before it."""

from dataclasses import dataclass

import torch
from jaxtyping import Int, Int64
from torch import Tensor
from torch.nn import functional

from models.objectives.objective import Draws, Loss, Network, drop_labels

NUM_STRETCHES = 4
"""Stretches of the sequence whose cross entropy has a curve of its own."""


@dataclass(frozen=True, kw_only=True)
class NextTokenObjective:
    """Cross entropy over all codes of an image (an `Objective`).

    The network is called with labels and all codes but the last, which none depends on. CRT's
    analysis looks at the loss by position, so each quarter of the sequence is a term that is shown
    and not trained on.
    """

    num_classes: int
    """Number of classes; the label of this number is the null class."""
    class_dropout: float
    """Probability in [0, 1] that a label is replaced by the null class."""

    def draw(
        self, labels: Int[Tensor, " b"], shape: tuple[int, ...], random: torch.Generator, step: int
    ) -> Draws:
        """Draw which labels are dropped."""
        return {"labels": drop_labels(labels, self.num_classes, self.class_dropout, random)}

    def loss(self, network: Network, clean: Int64[Tensor, "b n"], draws: Draws) -> Loss:
        """Compute the mean over images and codes, in nats."""
        logits = network(draws["labels"], clean[:, :-1])
        entropy = functional.cross_entropy(logits.float().mT, clean, reduction="none")
        total = entropy.mean()
        terms = {"cross_entropy": total}
        stretches = entropy.detach().tensor_split(NUM_STRETCHES, dim=1)
        for number, part in enumerate(stretches, start=1):
            if part.shape[1]:
                terms[f"cross_entropy_{number}of{NUM_STRETCHES}"] = part.mean()
        return Loss(total, terms)
