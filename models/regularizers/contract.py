"""What a regulariser of a tokenizer's training is.

A kind is two classes in one module: a frozen dataclass, which is its block in a sweep file, and the
module that this builds. `harness.config.regularizers` registers kinds. A regulariser may

- change what the decoder is given and what it must reconstruct (`perturb`),
- add terms to the loss, whose weights may depend on the step (`loss`, `weights_at`),
- own parameters, which learn from these terms, with an optimiser of their own or without.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.batch_part import WHOLE, BatchPart
from models.latent import LatentLayout

Drawn = Mapping[str, Any]
"""What a regulariser has drawn for one batch, by name. A tensor with a row for each image of the
batch is cut to the images that a worker computes; every other value is the same for all."""


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW for parameters that learn beside the autoencoder; the defaults are PyTorch's."""

    learning_rate: float = 1e-3
    """Learning rate after the warm-up; it stays constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    max_grad_norm: float | None = None
    """Gradient clipping by the norm over these parameters; absent: none."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.warmup_steps < 0:
            raise ValueError(
                f"`learning_rate` must be positive and `warmup_steps` not negative, but got "
                f"{self.learning_rate} and {self.warmup_steps}; correct them"
            )

    def build(self, parameters: list[nn.Parameter], *, fused: bool) -> torch.optim.Optimizer:
        """Make the optimiser; `fused` is one kernel over all parameters."""
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=fused or None,
        )

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ... of the whole training."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))


class Regularizer(nn.Module):
    """Does nothing, and owns nothing; a kind overrides what it does."""

    part: BatchPart = WHOLE
    """The worker's part of the batch, for statistics that must be those of the whole batch."""
    optimizer: AdamWConfig | None = None
    """Trains the parameters; without it they are trained as the autoencoder's are."""
    weighs_pixels: bool = False
    """Whether its weights are meant beside the mean error of a pixel value. Where the loss sums
    that error over an image, they count by the number of values."""

    def draw(
        self, count: int, layout: LatentLayout, *, choices: torch.Generator, noise: torch.Generator
    ) -> Drawn:
        """Draw all random numbers of a step, for the whole batch.

        Both generators start anew at every step, so that a resumed training draws the same.

        Args:
            count: Images of the batch, over all workers.
            layout: Channels and grid of the latents.
            choices: Generator on the CPU, for what decides on shapes: reading a number from the
                device would wait for it.
            noise: Generator on the device, for tensors.
        """
        return {}

    def perturb(
        self, latent: Float[Tensor, "b c h w"], images: Float[Tensor, "b 3 h_in w_in"], drawn: Drawn
    ) -> tuple[Float[Tensor, "b c h_p w_p"], Float[Tensor, "b 3 h_t w_t"]]:
        """Return what the decoder is given and the images that it must reconstruct from that.

        Args:
            latent: Sample of the posterior, or what an earlier regulariser made of it, whose grid
                may be smaller than that of the layout.
            images: Images in [-1, 1] to reconstruct.
            drawn: What `draw` has drawn, cut to these images.
        """
        return latent, images

    def loss(
        self,
        mean: Float[Tensor, "b c h w"],
        latent: Float[Tensor, "b c h w"],
        drawn: Drawn,
        step: int,
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Compute unweighted terms by name, each a mean over these images.

        Args:
            mean: Mean of the posterior, with its gradient to the encoder.
            latent: Sample of the posterior, unperturbed, with the same.
            drawn: What `draw` has drawn, cut to these images.
            step: Step of the whole training, from 0.
        """
        return {}

    def weights_at(self, step: int) -> Mapping[str, float]:
        """Weights of the terms at a step; a term that is not named has the weight 1."""
        return {}


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(ABC):
    """The block of a regulariser in a sweep file; a kind adds `kind: Literal[...]` and its own."""

    provenance: ClassVar[Literal["reproduced", "reconstruction"]] = "reconstruction"
    """Whether a tokenizer trained with it follows a fully specified recipe or a guessed one."""
    kind: str
    """Name of the kind."""

    @abstractmethod
    def build(self, layout: LatentLayout) -> Regularizer:
        """Build the regulariser for latents of this layout."""

    def check(  # noqa: B027 - a kind that suits every tokenizer has nothing to say
        self, layout: LatentLayout, *, downsample: int, smallest_image: int
    ) -> None:
        """Refuse a tokenizer that it does not suit; called when a sweep is planned.

        Args:
            layout: Channels and grid of the latents.
            downsample: Image side over latent side.
            smallest_image: Side of the smallest image that the networks of the loss take.

        Raises:
            ValueError: Says what must hold, what came and how to mend it.
        """

    @property
    def label(self) -> str:
        """Its kind, and the fields that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return " ".join([self.kind, *_differences(self, defaults)])


def _differences(config: Any, defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, default in defaults.items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value) and type(value) is type(default):
            yield from _differences(value, vars(default))
        elif value != default:
            yield f"{name} {value}"


def try_out(config: RegularizerConfig, layout: LatentLayout, *, downsample: int) -> None:
    """Hold a regulariser to this contract on two random latents and images.

    Args:
        config: What builds it.
        layout: Channels and grid of the latents.
        downsample: Image side over latent side.

    Raises:
        ValueError: Says what it returned and what it must return.
    """
    regularizer, random = config.build(layout), torch.Generator().manual_seed(0)
    mean = torch.randn(2, *layout.shape, generator=random, requires_grad=True)
    images = torch.rand(2, 3, *(downsample * side for side in layout.shape[1:]), generator=random)
    drawn = regularizer.draw(2, layout, choices=random, noise=random)
    latent, target = regularizer.perturb(mean, images, drawn)
    sides = [downsample * side for side in latent.shape[2:]]
    if latent.shape[:2] != mean.shape[:2] or [*target.shape] != [2, 3, *sides]:
        raise ValueError(
            f"`perturb` must return latents [2, {layout.channels}, h, w] and images "
            f"[2, 3, {downsample} h, {downsample} w], but returned {[*latent.shape]} and "
            f"{[*target.shape]}; correct it"
        )
    terms = regularizer.loss(mean, mean, drawn, 0)
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.shape != () or not term.isfinite():
            raise ValueError(
                f"`loss` must return finite scalar tensors by name, but {name} is {term!r}; take "
                "its mean"
            )
    if unknown := set(regularizer.weights_at(0)) - set(terms):
        raise ValueError(
            f"`weights_at` must name terms of `loss` ({', '.join(terms) or 'none'}), but names "
            f"{', '.join(map(str, unknown))}; correct it"
        )


def rows_of(drawn: Drawn, count: int, rows: slice) -> Drawn:
    """Cut what was drawn for a batch of `count` images to some of them."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.shape[:1] == (count,) else value
        for name, value in drawn.items()
    }
