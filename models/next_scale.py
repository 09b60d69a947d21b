"""A transformer over codes of several scales, those of one drawn at once (VAR, arXiv 2404.02905).

Tokens of a scale are given what coarser ones have said, on their own grid, and see all tokens up to
their own scale. Blocks, norms and the class token are those of `models.autoregressive`.
"""

import itertools
import math

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.autoregressive import CodeTransformer, DecoderShape, KeyValues
from models.latent import IndexLayout
from models.positions import rotary_angles


class NextScaleTransformer(CodeTransformer):
    """Logits of the codes of a scale, given the class and the codes of all coarser scales.

    VAR and TokenFlow give it the tokenizer's codes; here it learns vectors of its own for them, as
    `AutoregressiveTransformer` does, so that indices are all that it needs.
    """

    scale_of: Tensor
    mixing: Tensor

    def __init__(self, shape: DecoderShape, *, layout: IndexLayout, num_classes: int) -> None:
        head, finest = shape.width // shape.num_heads, layout.grids[-1][0]
        # Centres of cells in units of the finest grid's.
        angles = [rotary_angles(rows, cols, head, finest / rows) for rows, cols in layout.grids]
        super().__init__(shape, layout=layout, num_classes=num_classes, angles=torch.cat(angles))
        self.num_draws = len(layout.grids)
        self.scales = nn.Embedding(self.num_draws, shape.width)
        nn.init.normal_(self.scales.weight, std=0.02)
        sizes = [math.prod(grid) for grid in layout.grids]
        self.size_after = dict(zip(itertools.accumulate(sizes, initial=0), sizes, strict=False))
        scale_of = torch.cat([torch.full((n,), number) for number, n in enumerate(sizes)])
        self.register_buffer("scale_of", scale_of, persistent=False)
        self.register_buffer("mixing", _mixing(layout), persistent=False)

    def forward(
        self, labels: Int[Tensor, " b"], indices: Int64[Tensor, "b m"]
    ) -> Float[Tensor, "b n k"]:
        """Logits of all codes.

        Args:
            labels: classes in [0, num_classes]; the last is the null class.
            indices: the codes; those of the finest scale are not looked at and may be missing.
        """
        mask = self.scale_of[:, None] >= self.scale_of
        return self.logits(self._inputs(labels, indices, slice(None)), mask=mask)

    def next_logits(
        self, labels: Int[Tensor, " b"], drawn: Int64[Tensor, "b m"], cache: list[KeyValues]
    ) -> Float[Tensor, "b n k"]:
        """Logits of the codes of the next scale."""
        start = drawn.shape[1]
        tokens = slice(start, start + self.size_after[start])
        return self.logits(self._inputs(labels, drawn, tokens), cache)

    def _inputs(
        self, labels: Int[Tensor, " b"], indices: Int64[Tensor, "b m"], tokens: slice
    ) -> Float[Tensor, "b n d"]:
        """Tokens that depend on these codes at most; the first scale's are given the class."""
        scale = self.scale_of[tokens]
        said = self.mixing[tokens, : indices.shape[1]] @ self.codes(indices)
        start = (scale == 0)[:, None] * self.classes(labels)[:, None]
        return said + start + self.scales(scale)


def _mixing(layout: IndexLayout) -> Float[Tensor, "n n"]:
    """What each token (row) is given of the codes of coarser scales (columns).

    Codes are enlarged to the finest grid and added up, as the quantiser does, and made smaller to
    the token's grid, where the quantiser looks at what is left.
    """
    columns = []
    for number, grid in enumerate(layout.grids):
        units = torch.eye(math.prod(grid)).unflatten(1, (1, *grid))
        spread = functional.interpolate(units, layout.grids[-1], mode="bicubic")
        given = [
            functional.interpolate(spread, other, mode="area").flatten(1).T * (later > number)
            for later, other in enumerate(layout.grids)
        ]
        columns.append(torch.cat(given))
    return torch.cat(columns, dim=1)
