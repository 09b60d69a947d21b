"""Representation alignment of a generator (REPA): its tokens should predict frozen features."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

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
    """Weight of the cosine term."""
    hidden_width: int = 2048
    """Width of the projection's hidden layers."""

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


class REPAHead(nn.Module):
    """Projection of tapped tokens to the width of the frozen features."""

    def __init__(self, config: REPAConfig, *, width: int, feature_dim: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(width, config.hidden_width),
            nn.SiLU(),
            nn.Linear(config.hidden_width, config.hidden_width),
            nn.SiLU(),
            nn.Linear(config.hidden_width, feature_dim),
        )

    def forward(
        self, tokens: Float[Tensor, "b n d"], features: Float[Tensor, "b f h w"]
    ) -> Float[Tensor, ""]:
        """Mean over tokens of 1 - cosine, in [0, 2]; features lie on the token grid."""
        targets = features.flatten(2).transpose(1, 2)
        predicted = self.project(tokens).float()
        return (1.0 - functional.cosine_similarity(predicted, targets, dim=-1)).mean()
