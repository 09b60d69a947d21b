"""A tokenizer of one's own: the lowest frequencies of a cosine transform of every 4x4 patch."""

import math

import torch
from torch import nn
from torch.nn import functional


class CosineTokenizer(nn.Module):
    """Latent channels are the first coefficients in order of frequency, over three colours."""

    def __init__(self, latent_dim: int, patch: int = 4) -> None:
        super().__init__()
        grid = torch.arange(patch)
        waves = torch.cos(math.pi / patch * (grid + 0.5) * grid[:, None]) * (2 / patch) ** 0.5
        waves[0] /= 2**0.5
        order = sorted((i + j, i, j) for i in range(patch) for j in range(patch))
        planes = torch.stack([torch.outer(waves[i], waves[j]) for _, i, j in order])
        kernels = torch.zeros(3 * len(planes), 3, patch, patch)
        for number, plane in enumerate(planes.repeat_interleave(3, dim=0)):
            kernels[number, number % 3] = plane
        self.patch = patch
        self.register_buffer("kernels", kernels[:latent_dim])

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(images, self.kernels, stride=self.patch)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return functional.conv_transpose2d(latents, self.kernels, stride=self.patch).clamp(-1, 1)
