"""TokenFlow's quantiser (arXiv 2412.03069): a semantic and a pixel codebook that share one index.

It goes over one grid, or over several from coarse to fine, each of which codes what is left. Where
paper and code differ this is the code; tests hold it to recordings of it.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.quantizers import Quantized, Quantizer, nearest, perplexity

RECENT = 131_072
"""Indices, of the last ones that were chosen in training, among which the used codes are counted.
They start as zeros, so the first code counts as used."""


@dataclass(frozen=True, kw_only=True)
class DualQuantizerConfig:
    """Pairs of codes that share an index; the defaults are the published script's."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["dual"] = "dual"
    """Tells this choice from others."""
    codebook_size: int = 32_768
    """Number of pairs."""
    semantic_dim: int = 32
    """Numbers of a semantic code."""
    pixel_dim: int = 8
    """Numbers of a pixel code."""
    pixel_distance_weight: float = 1.0
    """Weight of the distance to the pixel code beside that to the semantic one."""
    commitment_weight: float = 0.25
    """Weight of the distance by which features are pulled to their codes; that of codes has 1."""
    scales: tuple[int, ...] = ()
    """Sides of the grids, in cells, from coarse to fine, of which the last is the latent's;
    published for 14 cells: 1 2 4 6 8 10 12 14. Empty: the latent's alone."""
    scale_drop: float = 0.1
    """Probability with which a training step leaves out one scale, any but the first."""

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or min(self.semantic_dim, self.pixel_dim) < 1:
            raise ValueError(
                "`codebook_size` must be at least 2, `semantic_dim` and `pixel_dim` at least 1, "
                f"but got {self.codebook_size}, {self.semantic_dim} and {self.pixel_dim}; use "
                "32768, 32 and 8"
            )
        rising = all(a < b for a, b in itertools.pairwise((0, *self.scales)))
        if not rising or not 0.0 <= self.scale_drop < 1.0 or self.pixel_distance_weight < 0:
            raise ValueError(
                "`scales` must be positive and rise, `scale_drop` lie in [0, 1) and "
                f"`pixel_distance_weight` not be negative, but got {list(self.scales)}, "
                f"{self.scale_drop} and {self.pixel_distance_weight}; correct them"
            )

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the terms."""
        return {
            "codebook": 1.0,
            "commitment": self.commitment_weight,
            "perplexity": 0.0,
            "usage": 0.0,
        }

    @property
    def width(self) -> int:
        """Numbers of a pair."""
        return self.semantic_dim + self.pixel_dim

    def sides(self, cells: int) -> tuple[int, ...]:
        """Sides of all grids for a latent of `cells` a side; ValueError where the last scale is
        another."""
        if self.scales and self.scales[-1] != cells:
            raise ValueError(
                f"`scales` must end at the {cells} cells of the latent, but end at "
                f"{self.scales[-1]}; correct them"
            )
        return self.scales or (cells,)


@final
class DualQuantizer(Quantizer):
    """Two codebooks, compared in unit length each, and residuals over scales up to `cells`."""

    config: DualQuantizerConfig
    recent: Tensor

    def __init__(self, config: DualQuantizerConfig, cells: int) -> None:
        super().__init__()
        self.config, self.sides = config, config.sides(cells)
        size, parts = config.codebook_size, (config.semantic_dim, config.pixel_dim)
        # As published: uniform near the origin, brought to unit length.
        starts = (torch.empty(size, width).uniform_(-1 / size, 1 / size) for width in parts)
        self.semantic, self.pixel = (nn.Parameter(functional.normalize(s, dim=1)) for s in starts)
        self.register_buffer("recent", torch.zeros(RECENT, dtype=torch.int64))

    def codes(self, indices: Int64[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """The pairs, each half in unit length."""
        return functional.embedding(indices, self._unit(torch.cat([self.semantic, self.pixel], 1)))

    def quantize(
        self, vectors: Float[Tensor, "b d h w"], noise: Float[Tensor, "b d h w"] | None = None
    ) -> Quantized:
        """Code the features at each scale, less what coarser scales have said of them.

        Features and residuals are not in unit length; what is compared is, and so are the codes
        that are added up. Codes pass their gradient to the features in unit length.
        """
        rest, found = vectors.float(), list[Quantized]()
        total = torch.zeros_like(rest)
        for side in self._scales_of_step(noise is not None):
            found.append(self._at(functional.interpolate(rest, (side, side), mode="area")))
            added = self._spread(found[-1].latent)
            total, rest = total + added, rest - added.detach()
        names = found[0].terms
        return Quantized(
            vectors=self._unit(vectors.float().movedim(1, -1)).movedim(-1, 1),
            latent=total,
            indices=torch.cat([scale.indices for scale in found], dim=1),
            terms={n: torch.stack([scale.terms[n] for scale in found]).mean() for n in names},
        )

    def grid(self, indices: Int64[Tensor, "b n"]) -> Float[Tensor, "b d h w"]:
        """The sum of the codes of all scales, or of the coarsest ones."""
        counts = list(itertools.accumulate(side * side for side in self.sides))
        if indices.shape[1] not in counts:
            raise ValueError(
                f"indices must be those of whole scales, {counts} of them, but got "
                f"{indices.shape[1]}; cut them there"
            )
        sides = self.sides[: counts.index(indices.shape[1]) + 1]
        parts = indices.split([side * side for side in sides], dim=1)
        maps = zip(parts, sides, strict=True)
        spread = [
            self._spread(self.codes(part.unflatten(1, (s, s))).movedim(-1, 1)) for part, s in maps
        ]
        return torch.stack(spread).sum(dim=0)

    def _scales_of_step(self, learns: bool) -> Iterator[int]:
        """The sides, of which a step of training may leave out one."""
        dropped, may_drop = 0, learns and self.training and len(self.sides) > 1
        # The step has seeded PyTorch's own generator, on all workers alike. The published one is
        # Python's, so that its workers drop different scales.
        if may_drop and torch.rand(()) < self.config.scale_drop:
            dropped = int(torch.randint(1, len(self.sides), ()))
        return (side for number, side in enumerate(self.sides) if not dropped or number != dropped)

    def _at(self, features: Float[Tensor, "b d s s"]) -> Quantized:
        """Pairs and terms of one scale."""
        rows = self._unit(features.movedim(1, -1))
        # Half the squared distance of both parts is a constant less this product.
        scales = rows.new_ones(self.config.width)
        scales[self.config.semantic_dim :] = self.config.pixel_distance_weight**0.5
        book = self._unit(torch.cat([self.semantic, self.pixel], 1)).detach()
        chosen = nearest(rows.detach().flatten(0, 2) * scales, book * scales)
        codes = self.codes(chosen).view(rows.shape)
        terms = {
            "codebook": functional.mse_loss(codes, rows.detach()),
            "commitment": functional.mse_loss(rows, codes.detach()),
            "perplexity": perplexity(self._counts(chosen, self.config.codebook_size)),
            "usage": self._usage(chosen, len(features)),
        }
        return Quantized(
            vectors=rows.movedim(-1, 1),
            latent=(rows + (codes - rows).detach()).movedim(-1, 1),
            indices=chosen.view(len(features), -1),
            terms=terms,
        )

    @torch.no_grad()
    def _usage(self, chosen: Int64[Tensor, " m"], images: int) -> Float[Tensor, ""]:
        """Share of the codes among those that training chose last, with these."""
        if self.training:
            joined = torch.cat([self.recent, self._of_batch(chosen, images)])
            self.recent.copy_(joined[-RECENT:])
        used = torch.zeros(self.config.codebook_size, device=chosen.device)
        return used.index_fill_(0, self.recent, 1.0).mean()

    def _unit(self, pairs: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        parts = pairs.split([self.config.semantic_dim, self.config.pixel_dim], dim=-1)
        return torch.cat([functional.normalize(part, dim=-1) for part in parts], dim=-1)

    def _spread(self, codes: Float[Tensor, "b d s s"]) -> Float[Tensor, "b d h w"]:
        """Codes of a scale on the grid of the finest."""
        side = self.sides[-1]
        return functional.interpolate(codes, (side, side), mode="bicubic")
