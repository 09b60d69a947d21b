"""Building blocks of the KL autoencoder, with the official tensor names."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.batch_part import BatchDropout

NORM_EPSILON = 1e-6


def normalisation(width: int, groups: int) -> nn.GroupNorm:
    """Affine group normalisation with the published epsilon."""
    return nn.GroupNorm(groups, width, eps=NORM_EPSILON)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group normalisation and SiLU, around a skip."""

    def __init__(
        self, in_width: int, out_width: int, *, norm_groups: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = normalisation(in_width, norm_groups)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.norm2 = normalisation(out_width, norm_groups)
        self.dropout = BatchDropout(dropout)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_width, out_width, 1) if in_width != out_width else None

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        """Add the convolved features to the (projected) input."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        skip = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return skip + hidden


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, head dimension = all channels."""

    def __init__(self, width: int, *, norm_groups: int) -> None:
        super().__init__()
        self.norm = normalisation(width, norm_groups)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what each position gathers from all others."""
        normed = self.norm(x)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2).unsqueeze(1)
            for layer in (self.q, self.k, self.v)
        )
        gathered = functional.scaled_dot_product_attention(query, key, value)
        return x + self.proj_out(gathered.squeeze(1).transpose(1, 2).reshape_as(x))


class Downsample(nn.Module):
    """Halve the resolution; the padding is right and bottom only, as published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h_half w_half"]:
        """Pad by one row and column, then convolve with stride 2."""
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by repetition, then smooth with a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h_twice w_twice"]:
        """Repeat each position into a 2x2 square and convolve."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, and the layer that leaves it up- or downwards, if any."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        num_blocks: int,
        attends: bool,
        norm_groups: int,
        dropout: float = 0.0,
        downsample: Downsample | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        in_widths = [in_width] + [out_width] * (num_blocks - 1)
        self.block = nn.ModuleList(
            ResidualBlock(width, out_width, norm_groups=norm_groups, dropout=dropout)
            for width in in_widths
        )
        self.attn = nn.ModuleList(
            AttentionBlock(out_width, norm_groups=norm_groups)
            for _ in range(num_blocks if attends else 0)
        )
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Run each residual block (and its attention where the level attends), then resample."""
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, width: int, *, norm_groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width, norm_groups=norm_groups, dropout=dropout)
        self.attn_1 = AttentionBlock(width, norm_groups=norm_groups)
        self.block_2 = ResidualBlock(width, width, norm_groups=norm_groups, dropout=dropout)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Run the three blocks."""
        return self.block_2(self.attn_1(self.block_1(x)))
