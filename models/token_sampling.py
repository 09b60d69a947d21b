"""Drawing codes, one or one scale at a time: temperature, truncation, guidance of logits, cache."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from models.batch_part import slices_of
from models.steps import LISTENER


@dataclass(frozen=True, kw_only=True)
class TokenSamplerConfig:
    """How a code is drawn from its logits; the defaults draw from the model's own distribution."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["categorical"] = "categorical"
    """Tells this choice from others."""
    temperature: float = 1.0
    """Divisor of the logits, positive."""
    top_k: int = 0
    """Only so many codes of the largest logits are drawn from; 0: all."""
    top_p: float = 1.0
    """Only the fewest codes whose probabilities sum to this are drawn from, in (0, 1]."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.top_k < 0 or not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                "`temperature` must be positive, `top_k` not negative and `top_p` in (0, 1], but "
                f"got {self.temperature}, {self.top_k} and {self.top_p}; 1, 0 and 1 draw from all"
            )

    @property
    def num_function_evaluations(self) -> int:
        """One: the steps of a sample cost with a cache what one pass over all codes costs."""
        return 1


@dataclass(frozen=True, kw_only=True)
class LogitGuidance:
    """Classifier-free guidance of logits: null + scale (class - null)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["cfg_logits"] = "cfg_logits"
    """Tells this choice from others."""
    scale: float
    """Factor on the difference; 1 is no guidance."""
    schedule: Literal["constant", "linear"] = "constant"
    """`constant`, or `linear`: from 1 at the first code, or scale of codes, to `scale` at the last.
    TokenFlow's released setting of 7.5 is 8.5 here, linear."""

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"`scale` must not be negative, but got {self.scale}; 1 is none")

    @property
    def is_linear(self) -> bool:
        """Whether it grows with the position."""
        return self.schedule == "linear"

    def scale_at(self, position: int, num_draws: int) -> float:
        """The factor at one of the draws."""
        if not self.is_linear or num_draws == 1:
            return self.scale
        return 1.0 + (self.scale - 1.0) * position / (num_draws - 1)


def truncate(logits: Float[Tensor, "b k"], config: TokenSamplerConfig) -> Float[Tensor, "b k"]:
    """Divide by the temperature and set what is not drawn from to minus infinity.

    `top_k` acts before `top_p`, whose sum is of what `top_k` has left.
    """
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[1]:
        least = logits.topk(config.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if config.top_p < 1.0:
        ranked, order = logits.sort(dim=1, descending=True, stable=True)
        chances = ranked.softmax(dim=1)
        # A code stays where those before it don't reach the sum: so the first always does.
        beyond = chances.cumsum(dim=1) - chances >= config.top_p
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), -torch.inf)
    return logits


def draw_codes(
    model: Any,
    labels: Int[Tensor, " b"],
    random: torch.Generator,
    sampler: TokenSamplerConfig,
    guidance: Any,
    weak: Any | None = None,
    slices: int = 1,
) -> Int64[Tensor, "b n"]:
    """Draw the codes of one image for each label, scale by scale and row by row.

    Args:
        labels: classes, on the device of `random`.
        random: source of the draws, one a code for the whole batch.
        guidance: none, or `LogitGuidance`, which runs each label beside the null class.
        weak: no weaker model is known here.
    """
    assert weak is None, "its settings name no guidance by a weaker model"
    guided = isinstance(guidance, LogitGuidance)
    parts = [_Sequences(model, labels, rows, guided) for rows in slices_of(len(labels), slices)]
    drawn = labels.new_empty((len(labels), 0))
    for position in range(model.num_draws):
        LISTENER.get()(position + 1, model.num_draws)
        scale = guidance.scale_at(position, model.num_draws) if guided else 1.0
        logits = torch.cat([part.logits(drawn, scale) for part in parts])
        chances = truncate(logits.flatten(0, 1), sampler).softmax(dim=1)
        codes = torch.multinomial(chances, 1, generator=random)
        drawn = torch.cat([drawn, codes.view(len(labels), -1)], dim=1)
    return drawn


class _Sequences:
    """Images that a network sees together, each beside its unconditional twin under guidance."""

    def __init__(self, model: Any, labels: Int[Tensor, " b"], rows: slice, guided: bool) -> None:
        self.model, self.rows, self.guided = model, rows, guided
        own = labels[rows]
        null = torch.full_like(own, model.num_classes)
        self.asked = torch.cat([own, null]) if guided else own
        self.cache = model.empty_cache(len(self.asked))

    def logits(self, drawn: Int64[Tensor, "b n"], scale: float) -> Float[Tensor, "m _ k"]:
        """Logits of its images' next codes, in float32, given what is drawn of the whole batch."""
        own = drawn[self.rows].repeat(1 + self.guided, 1)
        found = self.model.next_logits(self.asked, own, self.cache)
        if not self.guided:
            return found.float()
        conditional, null = found.float().chunk(2)
        return null + scale * (conditional - null)
