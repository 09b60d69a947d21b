"""A feature network of one's own: histograms of oriented gradients (Dalal and Triggs, 2005)."""

import torch
from torch.nn import functional


class Gradients:
    """Strength of the edges in every direction, on cells of a few pixels."""

    def __init__(self, cell: int = 4, directions: int = 8) -> None:
        self.cell, self.angles = cell, torch.arange(directions) * (torch.pi / directions)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        dy, dx = torch.gradient(images.mean(dim=1, keepdim=True), dim=(2, 3))
        angles = self.angles.to(images.device)[:, None, None]
        return functional.avg_pool2d((dx * angles.cos() + dy * angles.sin()).abs(), self.cell)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images).flatten(1)
