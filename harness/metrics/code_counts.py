"""How much of its codebook a tokenizer uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from harness.metrics.parts import Sums
from models.latent import IndexLayout
from models.quantizers import perplexity


@final
@dataclass(frozen=True, kw_only=True)
class CodeCounts(Sums):
    """How often each code was chosen; every operation returns a new object."""

    counts: Int64[Tensor, "s k"]
    """Counts by scale and code."""

    @classmethod
    def empty(cls, layout: IndexLayout, device: torch.device | str = "cpu") -> "CodeCounts":
        """No code was chosen yet."""
        shape = (len(layout.grids), layout.codebook_size)
        return cls(counts=torch.zeros(shape, dtype=torch.int64, device=device))

    def update(self, scales: Sequence[Int64[Tensor, "b _ _"]]) -> "CodeCounts":
        """Add the codes of images, a tensor for each scale."""
        size = self.counts.shape[1]
        chosen = [torch.bincount(part.flatten(), minlength=size) for part in scales]
        return CodeCounts(counts=self.counts + torch.stack(chosen))

    @property
    def usage(self) -> float:
        """Share of the codes that were chosen at all, in [0, 1]."""
        return float((self.counts.sum(dim=0) > 0).double().mean())

    @property
    def usage_by_scale(self) -> str | None:
        """That share at each scale, from coarse to fine, in words; None where there is one."""
        shares = (self.counts > 0).double().mean(dim=1).tolist()
        return " ".join(f"{share:.3g}" for share in shares) if len(shares) > 1 else None

    @property
    def perplexity(self) -> float:
        """Exponential of the entropy of their frequencies, from 1 to the size of the codebook."""
        return float(perplexity(self.counts.sum(dim=0).double()))
