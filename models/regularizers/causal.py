"""CRT (arXiv 2412.16326): latents whose next vector a small causal transformer can predict.

The paper has no code. Two layers, the weight of 4, its rise over 1,000 steps and an AdamW of its
own are reported; width, heads, positions, whether the error is squared and whether the target has a
gradient are not, and are options here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.autoregressive import DecoderBlock, DecoderShape
from models.latent import LatentLayout
from models.lightningdit_blocks import RMSNorm
from models.positions import rotary_angles
from models.regularizers.contract import AdamWConfig, Drawn, Regularizer, RegularizerConfig


@dataclass(frozen=True, kw_only=True)
class CausalConfig(RegularizerConfig):
    """The predictor, its error and its weight."""

    kind: Literal["causal"] = "causal"
    depth: int = 2
    """Blocks of the predictor."""
    width: int = 512
    """Its token width; ours."""
    num_heads: int = 8
    """Its attention heads; ours."""
    error: Literal["mse", "squared_norm", "norm"] = "mse"
    """Of a prediction: its mean squared number, squared length or length. The paper writes an l2
    norm; readers call it an l2 loss. A sum over the channels would outweigh the pixels."""
    target_gradient: bool = True
    """Whether the predicted vector is pulled to its prediction too."""
    relative: bool = False
    """Whether errors count in deviations of the batch, with gradient: latents of a KL tokenizer,
    whose length nothing fixes, could else shrink to lower the error."""
    weight: float = 4.0
    """Weight beside the mean error of a pixel value, after the rise."""
    warmup_steps: int = 1000
    """Steps over which the weight rises from 0."""
    rise: Literal["cosine", "linear"] = "cosine"
    """How it rises; the paper's is said to be smooth."""
    optimizer: AdamWConfig = AdamWConfig(learning_rate=1e-4)
    """Trains the predictor."""

    def __post_init__(self) -> None:
        if min(self.depth, self.num_heads) < 1 or self.width % (4 * self.num_heads):
            raise ValueError(
                "`width` must be a multiple of 4 * `num_heads`, and `depth` and `num_heads` at "
                f"least 1, but got depth {self.depth}, width {self.width} and {self.num_heads} "
                "heads; change `width` or `num_heads`"
            )
        if self.weight <= 0 or self.warmup_steps < 0:
            raise ValueError(
                f"`weight` must be positive and `warmup_steps` not negative, but got {self.weight} "
                f"and {self.warmup_steps}; leave the regulariser out to train without it"
            )

    def build(self, layout: LatentLayout) -> "Causal":
        """Build it."""
        return Causal(self, layout)

    def check(self, layout: LatentLayout, *, downsample: int, smallest_image: int) -> None:
        """Refuse latents of a single vector, which has no next."""
        if layout.height * layout.width < 2:
            raise ValueError(
                "a causal regulariser must have latents of at least 2 cells, but they have one; "
                "use a tokenizer that downsamples less"
            )


@final
class Causal(Regularizer):
    """Predicts each vector from those before it, row by row, and adds the error to the loss."""

    weighs_pixels = True
    cosine: Tensor
    sine: Tensor

    def __init__(self, config: CausalConfig, layout: LatentLayout) -> None:
        super().__init__()
        self.config, self.optimizer = config, config.optimizer
        shape = DecoderShape(depth=config.depth, width=config.width, num_heads=config.num_heads)
        self.into = nn.Linear(layout.channels, shape.width)
        self.blocks = nn.ModuleList(DecoderBlock(shape) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width)
        self.out = nn.Linear(shape.width, layout.channels)
        # The first vector is given: it has nothing before it, and no start token stands for that.
        angles = rotary_angles(layout.height, layout.width, shape.width // shape.num_heads)[:-1]
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def predict(self, vectors: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The vectors after these, each from all up to its place."""
        x = self.into(vectors)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return self.out(self.norm(x)).float()

    def loss(
        self,
        mean: Float[Tensor, "b c h w"],
        latent: Float[Tensor, "b c h w"],
        drawn: Drawn,
        step: int,
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Error of the predictions, and the latents' variance to watch, which has no weight."""
        variance = self._variance(mean)
        vectors = mean.flatten(2).mT
        target = vectors[:, 1:] if self.config.target_gradient else vectors[:, 1:].detach()
        missed = self.predict(vectors[:, :-1]) - target
        if self.config.relative:
            missed = missed * torch.rsqrt(variance)
        if self.config.error == "mse":
            error = missed.square().mean()
        elif self.config.error == "squared_norm":
            error = missed.square().sum(dim=-1).mean()
        else:
            error = missed.norm(dim=-1).mean()
        return {"prediction": error, "variance": variance.detach()}

    def weights_at(self, step: int) -> Mapping[str, float]:
        """The weight, while it rises and after."""
        progress = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        if self.config.rise == "cosine":
            progress = 0.5 * (1 - math.cos(math.pi * progress))
        return {"prediction": progress * self.config.weight, "variance": 0.0}

    def _variance(self, mean: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Mean over the channels of each one's variance over the whole batch."""
        count = (self.part.total or len(mean)) * mean[0, 0].numel()
        total = self.part.differentiable_sum(mean.sum(dim=(0, 2, 3)))
        centred = mean - (total / count).view(1, -1, 1, 1)
        squares = self.part.differentiable_sum(centred.square().sum(dim=(0, 2, 3)))
        return (squares / count).mean()
