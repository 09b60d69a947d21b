"""A decoder-only transformer over the codes of an image, row by row (LlamaGen, arXiv 2406.06525).

The class is the first token. Norms are RMSNorm, the feed-forward is SwiGLU, positions are rotary
over rows and columns; the class token has none. CRT (arXiv 2412.16326) generates with such a one.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.compilation import compiled
from models.latent import IndexLayout
from models.lightningdit_blocks import RMSNorm
from models.positions import rotary_angles, rotate


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Depth and width of a decoder."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    depth: int
    """Number of blocks."""
    width: int
    """Token width; divisible by `num_heads`."""
    num_heads: int
    """Attention heads; the width of one must be divisible by 4 for rotary positions."""
    hidden_multiple: int = 256
    """The width of the feed-forward, 8/3 of the token's, is rounded up to a multiple of this."""

    def __post_init__(self) -> None:
        if min(self.depth, self.num_heads, self.hidden_multiple) < 1:
            raise ValueError(
                f"`depth`, `num_heads` and `hidden_multiple` must be at least 1, but got "
                f"{self.depth}, {self.num_heads} and {self.hidden_multiple}; raise them"
            )
        if self.width % (4 * self.num_heads):
            raise ValueError(
                f"`width` must be a multiple of 4 * `num_heads`, but got width {self.width} and "
                f"{self.num_heads} heads; change either"
            )

    @property
    def hidden(self) -> int:
        """Width of the feed-forward."""
        multiple = self.hidden_multiple
        return -(-int(8 * self.width / 3) // multiple) * multiple


SIZES: dict[str, DecoderShape] = {
    "pico": DecoderShape(depth=3, width=64, num_heads=4, hidden_multiple=32),
    "nano": DecoderShape(depth=4, width=96, num_heads=4, hidden_multiple=32),
    "micro": DecoderShape(depth=4, width=128, num_heads=4, hidden_multiple=32),
    "mini": DecoderShape(depth=6, width=192, num_heads=6, hidden_multiple=32),
    "S": DecoderShape(depth=12, width=384, num_heads=6),
    "111M": DecoderShape(depth=12, width=768, num_heads=12),
    "343M": DecoderShape(depth=24, width=1024, num_heads=16),
    "775M": DecoderShape(depth=36, width=1280, num_heads=20),
}
"""Named sizes. Those with a number are published, and have so many parameters with 16,384 codes and
1,000 classes; the others are for short runs."""


@dataclass
class KeyValues:
    """Keys and values of the tokens that a block has seen."""

    keys: Float[Tensor, "b k n d"]
    values: Float[Tensor, "b k n d"]
    length: int = 0

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of further tokens; returns all there are."""
        start, self.length = self.length, self.length + key.shape[2]
        self.keys[:, :, start : self.length] = key
        self.values[:, :, start : self.length] = value
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class DecoderBlock(nn.Module):
    """Causal attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        width, self.num_heads = shape.width, shape.num_heads
        self.attention_norm, self.feed_forward_norm = RMSNorm(width), RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.gate_and_value = nn.Linear(width, 2 * shape.hidden, bias=False)
        self.back = nn.Linear(shape.hidden, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        cosine: Float[Tensor, "n k"],
        sine: Float[Tensor, "n k"],
        seen: KeyValues | None = None,
        mask: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Go through a whole sequence, or on from what was `seen` by tokens that see each other.

        `mask` says which tokens (columns) one sees (rows), in place of itself and those before.
        """
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # Rotated in float32, whatever the arithmetic of the rest.
        query, key = (rotate(each.float(), cosine, sine).type_as(value) for each in (query, key))
        if seen is not None:
            key, value = seen.extend(key, value)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=seen is None and mask is None
        )
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        gate, inner = self.gate_and_value(self.feed_forward_norm(x)).chunk(2, dim=-1)
        return x + self.back(functional.silu(gate) * inner)


class CodeTransformer(nn.Module):
    """Blocks between embedded codes and logits of codes; a kind says what a token is given.

    Label `num_classes` is the null class; `angles` rotate the tokens.
    """

    cosine: Tensor
    sine: Tensor
    num_draws: int
    """Draws of an image's codes, one after the other."""

    def __init__(
        self, shape: DecoderShape, *, layout: IndexLayout, num_classes: int, angles: Tensor
    ) -> None:
        super().__init__()
        self.shape, self.layout, self.num_classes = shape, layout, num_classes
        self.classes = nn.Embedding(num_classes + 1, shape.width)
        self.codes = nn.Embedding(layout.codebook_size, shape.width)
        self.blocks = nn.ModuleList(DecoderBlock(shape) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, layout.codebook_size, bias=False)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.weight)

    def empty_cache(self, count: int) -> list[KeyValues]:
        """Caches of `count` sequences, in the type that the blocks compute in."""
        weight = self.head.weight
        kind = weight.device.type
        low = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if low else weight.dtype
        heads = self.shape.num_heads
        size = (count, heads, self.layout.shape[0], self.shape.width // heads)
        empty = partial(torch.empty, size, dtype=dtype, device=weight.device)
        return [KeyValues(empty(), empty()) for _ in self.blocks]

    def logits(
        self,
        x: Float[Tensor, "b n d"],
        cache: list[KeyValues] | None = None,
        mask: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n k"]:
        """Go through the blocks with all tokens, or with those after what a cache holds."""
        first = cache[0].length if cache else 0
        cosine, sine = (each[first : first + x.shape[1]] for each in (self.cosine, self.sine))
        for block, seen in zip(self.blocks, cache or [None] * len(self.blocks), strict=True):
            x = block(x, cosine, sine, seen, mask)
        return self.head(self.norm(x))

    @abstractmethod
    def next_logits(
        self, labels: Int[Tensor, " b"], drawn: Int64[Tensor, "b m"], cache: list[KeyValues]
    ) -> Float[Tensor, "b n k"]:
        """Logits of the codes of the next draw, given all codes before; it fills the cache."""

    def compile_blocks(self) -> None:
        """Compile the training's pass through each block; sampling grows its cache uncompiled."""
        for block in self.blocks:
            whole, plain = compiled(block.forward), block.forward
            block.forward = lambda x, cosine, sine, seen, mask, whole=whole, plain=plain: (
                plain if seen else whole
            )(x, cosine, sine, seen, mask)


class AutoregressiveTransformer(CodeTransformer):
    """Logits of the next code on a latent's one grid, given the class and the codes before it."""

    def __init__(self, shape: DecoderShape, *, layout: IndexLayout, num_classes: int) -> None:
        ((height, width),) = layout.grids
        angles = rotary_angles(height, width, shape.width // shape.num_heads)
        # The class token stands nowhere: it is not rotated. The last code is never an input.
        angles = torch.cat([torch.zeros_like(angles[:1]), angles[:-1]])
        super().__init__(shape, layout=layout, num_classes=num_classes, angles=angles)
        self.num_draws = height * width

    def forward(
        self, labels: Int[Tensor, " b"], indices: Int64[Tensor, "b m"]
    ) -> Float[Tensor, "b m_plus_1 k"]:
        """Logits of the first m + 1 codes, each given those before it.

        Args:
            labels: classes in [0, num_classes]; the last is the null class.
            indices: the first m codes.
        """
        return self.logits(torch.cat([self.classes(labels)[:, None], self.codes(indices)], dim=1))

    def next_logits(
        self, labels: Int[Tensor, " b"], drawn: Int64[Tensor, "b m"], cache: list[KeyValues]
    ) -> Float[Tensor, "b 1 k"]:
        """Logits of the next code."""
        first = drawn.shape[1] == 0
        return self.logits(
            self.classes(labels[:, None]) if first else self.codes(drawn[:, -1:]), cache
        )
