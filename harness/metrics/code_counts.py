"""How much of its codebook a tokenizer uses."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from harness.metrics.parts import Sums
from models.quantizers import perplexity


@final
@dataclass(frozen=True, kw_only=True)
class CodeCounts(Sums):
    """How often each code was chosen; every operation returns a new object."""

    counts: Int64[Tensor, " k"]

    @classmethod
    def empty(cls, codebook_size: int, device: torch.device | str = "cpu") -> "CodeCounts":
        """No code was chosen yet."""
        return cls(counts=torch.zeros(codebook_size, dtype=torch.int64, device=device))

    def update(self, indices: Int64[Tensor, "b n"]) -> "CodeCounts":
        """Add the codes of images."""
        chosen = torch.bincount(indices.flatten(), minlength=len(self.counts))
        return CodeCounts(counts=self.counts + chosen)

    @property
    def usage(self) -> float:
        """Share of the codes that were chosen at all, in [0, 1]."""
        return float((self.counts > 0).double().mean())

    @property
    def perplexity(self) -> float:
        """Exponential of the entropy of their frequencies, from 1 to the size of the codebook."""
        return float(perplexity(self.counts.double()))
