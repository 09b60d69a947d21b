"""Building blocks of LightningDiT, with the official tensor names."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.positions import rotary_angles, rotate, sincos_position_code, time_sinusoid

NORM_EPSILON = 1e-6
TIME_FREQUENCIES = 256


class RMSNorm(nn.Module):
    """Root-mean-square norm: in float32, cast back, and only then scaled by a learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Divide by the root mean square of the last axis and scale."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPSILON)
        return (wide * scale).type_as(x) * self.weight


def token_norm(width: int, *, rmsnorm: bool) -> nn.Module:
    """The norm over token width: RMSNorm with a weight, or LayerNorm without parameters."""
    if rmsnorm:
        return RMSNorm(width)
    return nn.LayerNorm(width, eps=NORM_EPSILON, elementwise_affine=False)


class PatchEmbed(nn.Module):
    """Cut a latent into patches and project each to a token."""

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens in row-major order."""
        # A transposed view would set the layout of every block: norms would stride over memory, and
        # torch would multiply by frozen weights image by image, in bfloat16 with a copy for each.
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


class TimestepEmbedder(nn.Module):
    """Sinusoid of one time per sample, then a two-layer perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Float[Tensor, "b g"]) -> Float[Tensor, "b d"]:
        """Embed times in [0, 1]; of several groups, which share a time, the first one's."""
        return self.mlp(time_sinusoid(t[:, 0], TIME_FREQUENCIES))


class GroupedTimestepEmbedder(nn.Module):
    """One embedder per channel group, each of an equal share of the width, concatenated.

    Args:
        order: groups of the latent in the order in which their embeddings are concatenated.
        names: names of these groups. With their place they are part of the tensors' names, so that
            weights are never loaded in another order.
    """

    def __init__(self, width: int, order: Sequence[int], names: Sequence[str]) -> None:
        super().__init__()
        if width % len(order):
            raise ValueError(
                f"the generator's width must be divisible by the number of channel groups, but "
                f"got {width} and {len(order)}; use another size"
            )
        self.order = tuple(order)
        self.groups = nn.ModuleDict(
            {f"{i}_{name}": TimestepEmbedder(width // len(order)) for i, name in enumerate(names)}
        )

    def forward(self, t: Float[Tensor, "b g"]) -> Float[Tensor, "b d"]:
        """Embed one time per group."""
        pairs = zip(self.groups.values(), self.order, strict=True)
        return torch.cat([embed(t[:, group : group + 1]) for embed, group in pairs], dim=1)


class LabelEmbedder(nn.Module):
    """A table of class vectors; its last row is the null class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Look up class vectors."""
        return self.embedding_table(labels)


class RotaryEmbedding(nn.Module):
    """Rotary position code of a grid; its tables are part of the official state dict."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, height: int, width: int, head_dim: int, cell: float = 1.0) -> None:
        super().__init__()
        angles = rotary_angles(height, width, head_dim, cell)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Float[Tensor, "b k n d"]) -> Float[Tensor, "b k n d"]:
        """Rotate queries or keys of all tokens."""
        return rotate(x, self.freqs_cos, self.freqs_sin)


class Attention(nn.Module):
    """Multi-head self-attention with optional query-key norm and rotary positions."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool, rmsnorm: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        # Unlike `token_norm`, the published LayerNorm of heads has weight, bias and PyTorch's
        # epsilon.
        norm = (RMSNorm if rmsnorm else nn.LayerNorm) if qk_norm else nn.Identity
        self.q_norm, self.k_norm = (norm(width // num_heads) for _ in range(2))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], rope: RotaryEmbedding | None
    ) -> Float[Tensor, "b n d"]:
        """Mix tokens; queries and keys are rotated in float32 and cast to the values' type."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            query, key = rope(query).type_as(value), rope(key).type_as(value)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated feed-forward layer; the first half of `w12`'s output is the gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(2 / 3 * 4 * width)
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Gate, multiply, project back."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


class GELUFeedForward(nn.Module):
    """The plain two-layer feed-forward of DiT, four times as wide inside, tanh-form GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Widen, activate, project back."""
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


def _modulation(width: int, num_vectors: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, num_vectors * width))


def _rows(modulation: Float[Tensor, "v m"], rows: Tensor | None) -> Float[Tensor, "b m"]:
    return modulation if rows is None else modulation[rows]


class Block(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by the condition (adaLN)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        qk_norm: bool,
        swiglu: bool,
        rmsnorm: bool,
        adaln_shift: bool,
    ) -> None:
        super().__init__()
        self.adaln_shift = adaln_shift
        self.norm1 = token_norm(width, rmsnorm=rmsnorm)
        self.attn = Attention(width, num_heads, qk_norm=qk_norm, rmsnorm=rmsnorm)
        self.norm2 = token_norm(width, rmsnorm=rmsnorm)
        self.mlp = SwiGLU(width) if swiglu else GELUFeedForward(width)
        self.adaLN_modulation = _modulation(width, 6 if adaln_shift else 4)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        condition: Float[Tensor, "v d"],
        rope: RotaryEmbedding | None,
        rows: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Run both sublayers around their skips; `rows` says which condition each image has."""
        attention, feed_forward = self._split(_rows(self.adaLN_modulation(condition), rows))
        shift, scale, gate = attention
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift, rope)
        shift, scale, gate = feed_forward
        return x + gate * self.mlp(self.norm2(x) * (1 + scale) + shift)

    def _split(
        self, modulation: Float[Tensor, "b m"]
    ) -> tuple[Sequence[Tensor | float], Sequence[Tensor | float]]:
        if self.adaln_shift:
            vectors = modulation.unsqueeze(1).chunk(6, dim=-1)
            return vectors[:3], vectors[3:]
        scale1, gate1, scale2, gate2 = modulation.unsqueeze(1).chunk(4, dim=-1)
        return (0.0, scale1, gate1), (0.0, scale2, gate2)


class FinalLayer(nn.Module):
    """Modulated norm and the projection of each token to its patch."""

    def __init__(self, width: int, out_features: int, *, rmsnorm: bool) -> None:
        super().__init__()
        self.norm_final = token_norm(width, rmsnorm=rmsnorm)
        self.linear = nn.Linear(width, out_features)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        condition: Float[Tensor, "v d"],
        rows: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n p"]:
        """Shift, scale, project."""
        modulation = _rows(self.adaLN_modulation(condition), rows)
        shift, scale = modulation.unsqueeze(1).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


def fixed_position_parameter(height: int, width: int, dim: int, cell: float = 1.0) -> nn.Parameter:
    """The additive position code as a frozen parameter, which is how checkpoints hold it."""
    return nn.Parameter(sincos_position_code(height, width, dim, cell), requires_grad=False)
