"""A generator of one's own: it draws discs and squares as my_data.py does, from other numbers."""

import torch


def build(side: int = 16):
    """Build the function from labels and random numbers to images in [0, 255]."""

    def draw(labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
            found = torch.rand(len(labels), *shape, generator=random, device=labels.device)
            return low + (high - low) * found

        radius, places = uniform(2, 5, 1, 1), uniform(5, side - 5, 2)
        apart = (torch.arange(side, device=labels.device) - places[:, :, None]).abs()
        dy, dx = apart[:, 0, :, None], apart[:, 1, None, :]
        is_disc = labels[:, None, None] == 0
        inside = torch.where(is_disc, torch.hypot(dy, dx), torch.maximum(dy, dx)) < radius
        return inside[:, None] * uniform(100, 255, 3, 1, 1)

    return draw
