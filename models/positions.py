"""Fixed position and time codes of LightningDiT: sin-cos grid, rotary angles, time sinusoid.

The additive code puts the column in its first half, the rotary code the row: both as published.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10_000.0


def _sine_cosine(positions: Float[Tensor, " n"], width: int) -> Float[Tensor, "n d"]:
    exponents = torch.arange(width // 2, dtype=torch.float64) / (width // 2)
    angles = positions[:, None] * BASE**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_coordinates(
    height: int, width: int, cell: float = 1.0
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Row and column of every token of a grid, in row-major order, in float64.

    They are the centres of cells of side `cell` in units of another grid's cells, so that grids of
    one latent share a frame; with side 1 they are 0, 1, 2, ...
    """
    rows = torch.arange(height, dtype=torch.float64).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float64).repeat(height)
    return (rows + 0.5) * cell - 0.5, (columns + 0.5) * cell - 0.5


def sincos_position_code(
    height: int, width: int, dim: int, cell: float = 1.0
) -> Float[Tensor, "1 n d"]:
    """Additive code: sines then cosines of the column, then the same of the row."""
    rows, columns = grid_coordinates(height, width, cell)
    code = torch.cat([_sine_cosine(columns, dim // 2), _sine_cosine(rows, dim // 2)], dim=1)
    return code.float()[None]


def rotary_angles(
    height: int, width: int, head_dim: int, cell: float = 1.0
) -> Float[Tensor, "n d"]:
    """Rotation angle of every head dimension: rows in the first half, columns in the second.

    Neighbouring dimensions form a pair and share an angle.
    """
    num_frequencies = head_dim // 4
    exponents = torch.arange(num_frequencies, dtype=torch.float32) * 4 / head_dim
    frequencies = BASE**-exponents
    per_axis = [
        (positions.float()[:, None] * frequencies).repeat_interleave(2, dim=1)
        for positions in grid_coordinates(height, width, cell)
    ]
    return torch.cat(per_axis, dim=1)


def rotate(
    x: Float[Tensor, "b k n d"], cosine: Float[Tensor, "n d"], sine: Float[Tensor, "n d"]
) -> Float[Tensor, "b k n d"]:
    """Rotate each pair of neighbouring dimensions by its angle; computed in float32."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        quarter_turn = torch.stack([-odd, even], dim=-1).flatten(-2)
        return x * cosine + quarter_turn * sine
    # The same bits in place, without the copies that gradients need: up to 4 times as fast.
    rotated, crossed = x * cosine, (x * sine).unflatten(-1, (-1, 2))
    pairs = rotated.unflatten(-1, (-1, 2))
    pairs[..., 0] -= crossed[..., 1]
    pairs[..., 1] += crossed[..., 0]
    return rotated


def time_sinusoid(t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b d"]:
    """Cosines then sines of the raw time in [0, 1]; it is not scaled by 1000."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t[:, None].float() * torch.exp(-math.log(BASE) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
