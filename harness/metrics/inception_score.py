"""Inception score from streamed float64 sums, in constant memory.

exp of the mean divergence between an image's class posterior and the posteriors' mean (Salimans et
al., arXiv 1606.03498, sect. 4), once for each split of the images, then averaged over the splits.
Which image belongs to which split is settled before the first comes: `splits_in_order` as ADM's
evaluator does, `splits_shuffled` as torch-fidelity does. Both are functions of the number of
images, so that workers agree on them and neither needs all posteriors at once.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from harness.metrics.parts import Sums


def splits_in_order(num_images: int, split_size: int = 5000) -> Int64[Tensor, " n"]:
    """Split of each image where consecutive `split_size` form one; the last may be smaller."""
    return torch.arange(num_images) // split_size


def splits_shuffled(num_images: int, num_splits: int = 10, seed: int = 2020) -> Int64[Tensor, " n"]:
    """Split of each image where `num_splits` of equal size are drawn at random.

    Sizes differ by one at most. Defaults and order are torch-fidelity's.
    """
    order = np.random.RandomState(seed).permutation(num_images)
    ends = np.arange(1, num_splits + 1) * num_images // num_splits
    splits = np.empty(num_images, dtype=np.int64)
    splits[order] = np.searchsorted(ends, np.arange(num_images), side="right")
    return torch.from_numpy(splits)


@final
@dataclass(frozen=True, kw_only=True)
class InceptionScore(Sums):
    """Sums of class posteriors p over the images of each split; operations return a new object."""

    num_images: Int64[Tensor, " s"]
    posterior: Float64[Tensor, "s k"]
    """Sum of p over the images of each split."""
    negative_entropy: Float64[Tensor, " s"]
    """Sum of p log p over them and over classes, in nats."""

    @classmethod
    def empty(
        cls, num_splits: int, num_classes: int, device: torch.device | str = "cpu"
    ) -> "InceptionScore":
        """The score of no images; later updates are computed on `device`."""
        zeros = torch.zeros(num_splits, num_classes, dtype=torch.float64, device=device)
        return cls(
            num_images=torch.zeros(num_splits, dtype=torch.int64, device=device),
            posterior=zeros,
            negative_entropy=zeros[:, 0].clone(),
        )

    def update(self, logits: Float[Tensor, "b k"], splits: Int64[Tensor, " b"]) -> "InceptionScore":
        """Add class scores of a batch, on any device; `splits` are as of `splits_in_order`."""
        num_splits, num_classes = self.posterior.shape
        assert logits.shape[1] == num_classes, "one extractor must score all images"
        device = self.posterior.device
        log_posterior = logits.detach().to(device, torch.float64).log_softmax(dim=1)
        posterior = log_posterior.exp()
        # A product with indicators sums in one order on every device; index_add_ doesn't on CUDA.
        members = splits.to(device) == torch.arange(num_splits, device=device)[:, None]
        weights = members.to(torch.float64)
        return InceptionScore(
            num_images=self.num_images + members.sum(dim=1),
            posterior=self.posterior + weights @ posterior,
            negative_entropy=self.negative_entropy
            + weights @ (posterior * log_posterior).sum(dim=1),
        )

    def compute(self) -> tuple[float, float]:
        """Mean and standard deviation (divided by the number) of the splits' scores.

        The mean is in [1, number of classes], higher is better; the deviation is no standard error,
        since a smaller split has a lower score.

        Raises:
            ValueError: A logit was not finite.
        """
        assert self.num_images.all(), f"no split may be empty: {self.num_images.tolist()}"
        if not bool(torch.isfinite(self.negative_entropy).all()):
            raise ValueError(
                "logits must be finite, but their sums hold NaN or infinity; look at the images "
                "and the extractor's precision"
            )
        counts = self.num_images.to(torch.float64)
        marginal = self.posterior / counts[:, None]
        divergence = self.negative_entropy / counts - torch.xlogy(marginal, marginal).sum(dim=1)
        scores = divergence.exp()
        return float(scores.mean()), float(scores.std(correction=0))
