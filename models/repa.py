"""Representation alignment of a generator (REPA): its tokens should predict frozen features."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class NoREPA:
    """No representation alignment."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["none"] = "none"
    """Tells this choice from others."""


@dataclass(frozen=True, kw_only=True)
class REPAConfig:
    """Where the tokens are tapped and how strongly they are aligned."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["repa"] = "repa"
    """Tells this choice from others."""
    block: int = 2
    """Number of blocks before the tap, at least 1 and at most the generator's depth."""
    weight: float = 1.0
    """Weight of the term."""
    hidden_width: int = 2048
    """Width of the projection's hidden layers."""
    mode: Literal["cos", "mse", "cos_mse"] = field(
        default="cos", metadata={"key": "unless_default"}
    )
    """The term: 1 - cosine of each token, the squared error over tokens and features, or the mean
    of both."""
    head: Literal["apart", "within"] = field(default="apart", metadata={"key": "unless_default"})
    """The projection. `apart`: PyTorch's initial weights, kept for training alone. `within`, as
    Semantic-First Diffusion has it: Xavier-uniform weights and zero biases, averaged with the
    generator, and kept in its files as `repa_projector`."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(
                f"`block` of the REPA tap must be at least 1, but got {self.block}; "
                "count blocks from 1"
            )


@runtime_checkable
class TokenNetwork(Protocol):
    """A generator whose tokens can be aligned.

    It also has `forward_with_tap`: its `forward` with one argument more, the number of blocks
    before the tap, and with the tokens there as a second result.
    """

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of its tokens."""
        ...

    @property
    def token_width(self) -> int:
        """Width of a token."""
        ...


HEAD = "repa_projector"
"""Name of a projection within a generator, as published."""


def without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of a generator that sampling needs."""
    return {name: each for name, each in tensors.items() if not name.startswith(f"{HEAD}.")}


class REPAHead(nn.Module):
    """Projection of tapped tokens to the width of the frozen features."""

    def __init__(self, config: REPAConfig, *, width: int, feature_dim: int) -> None:
        super().__init__()
        self.mode = config.mode
        self.project = nn.Sequential(
            nn.Linear(width, config.hidden_width),
            nn.SiLU(),
            nn.Linear(config.hidden_width, config.hidden_width),
            nn.SiLU(),
            nn.Linear(config.hidden_width, feature_dim),
        )
        if config.head == "within":
            for layer in self.project[::2]:
                assert isinstance(layer, nn.Linear)
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Float[Tensor, "b n d"], features: Float[Tensor, "b f h w"]
    ) -> Float[Tensor, ""]:
        """Unweighted term; features lie on the token grid and are not normalised for `mse`."""
        return alignment_term(self.project(tokens).float(), features, self.mode)


def alignment_term(
    predicted: Float[Tensor, "b n f"], features: Float[Tensor, "b f h w"], mode: str
) -> Float[Tensor, ""]:
    """How far predictions of tokens, row by row of the grid, are from the frozen features."""
    targets = features.flatten(2).transpose(1, 2)
    terms = []
    if "cos" in mode:
        terms.append((1.0 - functional.cosine_similarity(predicted, targets, dim=-1)).mean())
    if "mse" in mode:
        terms.append(functional.mse_loss(predicted, targets))
    return torch.stack(terms).mean()
