"""Quantisers: what turns an encoder's vectors into codes of a codebook, and codes into vectors.

Vector quantisation is VQ-VAE's (arXiv 1711.00937) with the switches of VQGAN (2012.09841) and
LlamaGen (2406.06525); finite scalar quantisation is arXiv 2309.15505's.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64, Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.batch_part import WHOLE, BatchPart

CHUNK = 4096
"""Vectors that are compared with the codebook at a time; 16k codes then take 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class GradientCodebook:
    """Codes move along the gradient of their distance to the vectors that chose them."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["gradient"] = "gradient"
    """Tells this choice from others."""
    weight: float = 1.0
    """Weight of that distance, a mean over all numbers, beside the mean error of a pixel value."""


@dataclass(frozen=True, kw_only=True)
class AveragedCodebook:
    """Codes are moving averages of the vectors that chose them."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["ema"] = "ema"
    """Tells this choice from others."""
    decay: float = 0.99
    """Share of the old average that stays at each step, in (0, 1)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.decay < 1.0:
            raise ValueError(f"`decay` must lie in (0, 1), but got {self.decay}; use 0.99")


@dataclass(frozen=True, kw_only=True)
class VectorQuantizerConfig:
    """A codebook that is learnt."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["vq"] = "vq"
    """Tells this choice from others."""
    codebook_size: int = 16_384
    """Number of codes."""
    unit_length: bool = True
    """Whether vectors and codes are scaled to length 1 before they are compared and decoded."""
    codebook: Annotated[GradientCodebook | AveragedCodebook, Field(discriminator="kind")] = (
        GradientCodebook()
    )
    """How codes are learnt."""
    commitment_weight: float = 0.25
    """Weight of the distance by which vectors are pulled to their codes, as `weight` above."""
    restart_after: int | None = None
    """Steps without use after which a code becomes a random vector of the batch; absent: never."""

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ValueError(
                f"`codebook_size` must be at least 2, but got {self.codebook_size}; use 1024"
            )
        if self.restart_after is not None and self.restart_after < 1:
            raise ValueError(
                f"`restart_after` must be at least 1 step, but got {self.restart_after}; leave it "
                "out to leave unused codes alone"
            )

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the terms."""
        own = self.codebook.weight if isinstance(self.codebook, GradientCodebook) else None
        learnt = {} if own is None else {"codebook": own}
        return {**learnt, "commitment": self.commitment_weight, "perplexity": 0.0}

    @property
    def width(self) -> None:
        """Numbers of a code, where they follow from the rest."""
        return None

    def build(self, width: int) -> "VectorQuantizer":
        """Build it for vectors of `width` numbers."""
        return VectorQuantizer(self, width)


@dataclass(frozen=True, kw_only=True)
class ScalarQuantizerConfig:
    """Each number is rounded to one of a few levels; there is no codebook to learn."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["fsq"] = "fsq"
    """Tells this choice from others."""
    levels: tuple[int, ...] = (8, 8, 8, 6, 5)
    """Levels of each number, as many as `latent_dim`; published for about 16k codes: 8 8 8 6 5."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(
                f"`levels` must be at least 2 for each number, but got {list(self.levels)}; use "
                "[8, 8, 8, 6, 5]"
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the terms."""
        return {"perplexity": 0.0}

    @property
    def width(self) -> int:
        """Numbers of a code."""
        return len(self.levels)

    def build(self, width: int) -> "ScalarQuantizer":
        """Build it."""
        assert width == self.width, "the configuration of the tokenizer has checked this"
        return ScalarQuantizer(self)


QuantizerConfig = VectorQuantizerConfig | ScalarQuantizerConfig
"""Every kind of quantiser."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Codes of vectors, and what training needs of them."""

    vectors: Float[Tensor, "b d h w"]
    """The vectors as they are compared with codes, scaled or bounded: what a regulariser sees, for
    whom a length that no code depends on would be free to shrink."""
    latent: Float[Tensor, "b d h w"]
    """The codes; their gradient goes straight to `vectors`."""
    indices: Int64[Tensor, "b n"]
    """Their numbers, row by row."""
    terms: Mapping[str, Float[Tensor, ""]]
    """Unweighted terms of the loss, means over these images."""


class Quantizer(nn.Module):
    """What both kinds offer."""

    config: Any
    """Its configuration."""
    part: BatchPart = WHOLE
    """The worker's part of the batch: codes learn from all of it."""

    @abstractmethod
    def quantize(
        self, vectors: Float[Tensor, "b d h w"], noise: Float[Tensor, "b d h w"] | None = None
    ) -> Quantized:
        """Choose the code of each vector.

        Args:
            vectors: what the encoder gives.
            noise: standard normal, by which training chooses vectors for codes that start anew;
                absent: nothing is learnt.
        """

    @abstractmethod
    def codes(self, indices: Int64[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """The vectors of codes."""

    def grid(self, indices: Int64[Tensor, "b n"]) -> Float[Tensor, "b d h w"]:
        """The vectors of a square grid of codes."""
        side = math.isqrt(indices.shape[1])
        return self.codes(indices).unflatten(1, (side, side)).permute(0, 3, 1, 2)

    def _counts(self, indices: Int64[Tensor, "..."], codebook_size: int) -> Float[Tensor, " k"]:
        """How often the whole batch chose each code."""
        # `bincount` would wait for the device.
        chosen = indices.flatten()
        counts = torch.zeros(codebook_size, device=chosen.device)
        return self.part.sum(counts.index_add_(0, chosen, torch.ones_like(chosen).float()))

    def _of_batch(self, own: Shaped[Tensor, "m *d"], images: int) -> Shaped[Tensor, "m_all *d"]:
        """Rows of all workers, in the order of the batch; `own` are those of so many images."""
        cells, total = len(own) // images, self.part.total or images
        rows = own.new_zeros((total * cells, *own.shape[1:]))
        rows[self.part.first * cells :][: len(own)] = own
        return self.part.sum(rows)


def nearest(vectors: Float[Tensor, "m d"], book: Float[Tensor, "k d"]) -> Int64[Tensor, " m"]:
    """The code of a book that lies nearest to each vector."""
    offset = 0.5 * book.square().sum(dim=1)
    # Autocast would compare in bf16 and choose other codes; the meta device knows none.
    kind = vectors.device.type
    exact = nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
    with exact:
        parts = [(part @ book.T - offset).argmax(dim=1) for part in vectors.split(CHUNK)]
    return torch.cat(parts)


def perplexity(counts: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of frequencies: as many codes, all used alike, would give it."""
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


@final
class VectorQuantizer(Quantizer):
    """A codebook, learnt along its gradient or as a moving average."""

    config: VectorQuantizerConfig
    codebook: Tensor
    counts: Tensor
    sums: Tensor
    idle: Tensor

    def __init__(self, config: VectorQuantizerConfig, width: int) -> None:
        super().__init__()
        self.config = config
        size = config.codebook_size
        # As published: near the origin, so that vectors find codes on every side of them.
        start = torch.empty(size, width).uniform_(-1 / size, 1 / size)
        if config.unit_length:
            start = functional.normalize(start, dim=1)
        self.averaged = isinstance(config.codebook, AveragedCodebook)
        if self.averaged:
            self.register_buffer("codebook", start)
            self.register_buffer("counts", torch.ones(size))
            self.register_buffer("sums", start.clone())
        else:
            self.codebook = nn.Parameter(start)
        if config.restart_after is not None:
            self.register_buffer("idle", torch.zeros(size, dtype=torch.int64))

    def codes(self, indices: Int64[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """The vectors of codes."""
        return functional.embedding(indices, self._book())

    def quantize(
        self, vectors: Float[Tensor, "b d h w"], noise: Float[Tensor, "b d h w"] | None = None
    ) -> Quantized:
        """Choose the nearest code of each vector."""
        rows = vectors.float().permute(0, 2, 3, 1)
        if self.config.unit_length:
            rows = functional.normalize(rows, dim=-1)
        flat = rows.detach().flatten(0, 2)
        if self.training and noise is not None and self.config.restart_after is not None:
            # Before the codes enter the graph, which would not have them changed.
            self._restart(flat, noise, self.config.restart_after)
        chosen = nearest(flat, self._book().detach())
        counts = self._counts(chosen, self.config.codebook_size)
        codes = self.codes(chosen).view(rows.shape)
        terms = {
            "commitment": functional.mse_loss(rows, codes.detach()),
            "perplexity": perplexity(counts),
        }
        if not self.averaged:
            terms["codebook"] = functional.mse_loss(codes, rows.detach())
        straight = rows + (codes - rows).detach()
        if self.training and noise is not None:
            self._learn(flat, chosen, counts)
        return Quantized(
            vectors=rows.permute(0, 3, 1, 2),
            latent=straight.permute(0, 3, 1, 2),
            indices=chosen.view(len(vectors), -1),
            terms=terms,
        )

    def _book(self) -> Tensor:
        """The codes as they are compared and decoded."""
        return (
            functional.normalize(self.codebook, dim=1) if self.config.unit_length else self.codebook
        )

    @torch.no_grad()
    def _learn(self, vectors: Tensor, chosen: Tensor, counts: Tensor) -> None:
        """Move averaged codes by the vectors of the whole batch, and note which were used."""
        if isinstance(self.config.codebook, AveragedCodebook):
            sums = torch.zeros_like(self.sums).index_add_(0, chosen, vectors)
            share = 1 - self.config.codebook.decay
            self.counts.lerp_(counts, share)
            self.sums.lerp_(self.part.sum(sums), share)
            # Without the floor a code that nobody chooses for long would divide zero by zero.
            self.codebook.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])
        if self.config.restart_after is not None:
            self.idle.add_(1).masked_fill_(counts > 0, 0)

    @torch.no_grad()
    def _restart(self, vectors: Tensor, noise: Tensor, restart_after: int) -> None:
        """Set unused codes to vectors of the batch, those with the largest noise first."""
        # Every worker holds the vectors of its images; all must choose the same.
        lots = self._of_batch(noise[:, 0].flatten(), len(noise))
        pool = self._of_batch(vectors, len(noise))
        order = lots.argsort(descending=True, stable=True)
        # The host doesn't wait for the number of them: each takes the vector of its rank.
        unused = self.idle >= restart_after
        rank = (unused.cumsum(0) - 1).clamp(min=0) % len(order)
        fresh, mask = pool[order[rank]], unused[:, None]
        self.codebook.copy_(torch.where(mask, fresh, self.codebook))
        if self.averaged:
            self.sums.copy_(torch.where(mask, fresh, self.sums))
            self.counts.masked_fill_(unused, 1.0)
        self.idle.masked_fill_(unused, 0)


@final
class ScalarQuantizer(Quantizer):
    """Numbers squashed to a range and rounded to its levels, which count as -1 to 1."""

    config: ScalarQuantizerConfig
    levels: Tensor
    bases: Tensor

    def __init__(self, config: ScalarQuantizerConfig) -> None:
        super().__init__()
        self.config = config
        levels = torch.tensor(config.levels)
        self.register_buffer("levels", levels, persistent=False)
        bases = torch.cat([torch.ones(1, dtype=torch.int64), levels.cumprod(0)[:-1]])
        self.register_buffer("bases", bases, persistent=False)

    def codes(self, indices: Int64[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """The vectors of codes."""
        steps = indices[..., None] // self.bases % self.levels
        return 2 * steps / (self.levels - 1) - 1

    def quantize(
        self, vectors: Float[Tensor, "b d h w"], noise: Float[Tensor, "b d h w"] | None = None
    ) -> Quantized:
        """Round each number to the nearest of its levels."""
        rows = vectors.float().permute(0, 2, 3, 1)
        # All levels are equally wide on the scale of tanh; the paper's outer ones are half as wide.
        most = self.levels - 1
        squashed = (torch.tanh(rows) + 1) / 2 * (most + 1) - 0.5
        steps = squashed.detach().round().clamp_min(0).minimum(most)
        bounded = 2 * squashed / most - 1
        straight = bounded + (2 * steps / most - 1 - bounded).detach()
        indices = (steps.long() * self.bases).sum(dim=-1).flatten(1)
        return Quantized(
            vectors=bounded.permute(0, 3, 1, 2),
            latent=straight.permute(0, 3, 1, 2),
            indices=indices,
            terms={"perplexity": perplexity(self._counts(indices, self.config.codebook_size))},
        )
