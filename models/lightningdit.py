"""LightningDiT (arXiv 2501.01423, Section 4): a diffusion transformer that predicts velocity."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from models.compilation import compile_in_place
from models.latent import LatentLayout
from models.lightningdit_blocks import (
    Block,
    FinalLayer,
    GroupedTimestepEmbedder,
    LabelEmbedder,
    PatchEmbed,
    RotaryEmbedding,
    TimestepEmbedder,
    fixed_position_parameter,
)


@dataclass(frozen=True, kw_only=True)
class DiTShape:
    """Depth and width of a transformer."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    depth: int
    """Number of blocks."""
    width: int
    """Token width; divisible by `num_heads`."""
    num_heads: int
    """Attention heads; the width of one must be divisible by 4 for rotary positions."""

    def __post_init__(self) -> None:
        if min(self.depth, self.num_heads) < 1 or self.width % (4 * self.num_heads):
            raise ValueError(
                f"`width` must be a multiple of 4 * `num_heads`, and `depth` and `num_heads` at "
                f"least 1, but got depth {self.depth}, width {self.width} and {self.num_heads} "
                f"heads; change `width` or `num_heads`"
            )


SIZES: dict[str, DiTShape] = {
    "pico": DiTShape(depth=3, width=64, num_heads=4),
    "nano": DiTShape(depth=4, width=96, num_heads=4),
    "micro": DiTShape(depth=4, width=128, num_heads=4),
    "mini": DiTShape(depth=6, width=128, num_heads=4),
    "tiny": DiTShape(depth=6, width=192, num_heads=6),
    "S": DiTShape(depth=12, width=384, num_heads=6),
    "B": DiTShape(depth=12, width=768, num_heads=12),
    "L": DiTShape(depth=24, width=1024, num_heads=16),
    "XL": DiTShape(depth=28, width=1152, num_heads=16),
    "1p0B": DiTShape(depth=24, width=1536, num_heads=24),
    "1p6B": DiTShape(depth=28, width=1792, num_heads=28),
}
"""Named sizes; B, L, XL, 1p0B and 1p6B are published, the smaller ones are for short runs."""


@dataclass(frozen=True, kw_only=True)
class LightningDiTConfig:
    """Size and switches of the generator; the defaults are the published XL/1."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["lightningdit"] = "lightningdit"
    """Tells this choice from others."""
    size: str | DiTShape = "XL"
    """A name in `SIZES`, or a shape of one's own."""
    patch_size: int = 1
    """Side of the latent patch that becomes one token, in latent cells."""
    class_dropout: float = 0.1
    """Probability in [0, 1] that training replaces a label by the null class."""
    qk_norm: bool = False
    """Whether queries and keys are normalised per head (stable, but costs FID): by RMSNorm, or
    without `rmsnorm` by LayerNorm, both with parameters."""
    swiglu: bool = True
    """Whether the feed-forward is SwiGLU; otherwise DiT's GELU."""
    rope: bool = True
    """Whether rotary positions are used, in addition to the additive code."""
    rmsnorm: bool = True
    """Whether norms are RMSNorm with a weight; otherwise LayerNorm without parameters."""
    adaln_shift: bool = True
    """Whether the condition shifts as well as scales the blocks (`wo_shift` turned round)."""
    time_groups: Literal["each", "shared", "by_offset"] | tuple[str, ...] = field(
        default="each", metadata={"key": "unless_default"}
    )
    """Time embedders of a latent of several channel groups. `each`: one for each group, of an equal
    share of the width, concatenated in the latent's order; names of all groups: in that order;
    `shared`: one of full width, for groups that are always at one time; `by_offset`, as
    Semantic-First Diffusion has them: one for each with the leading group's first where
    `flow.offset` is above 0, and `shared` where it is 0."""

    def __post_init__(self) -> None:
        if isinstance(self.size, str) and self.size not in SIZES:
            raise ValueError(
                f"`size` must be one of {', '.join(SIZES)} or a shape, but got {self.size!r}; "
                "use a name from the list"
            )
        if self.patch_size < 1:
            raise ValueError(
                f"`patch_size` must be at least 1, but got {self.patch_size}; use 1 or 2"
            )
        if not 0.0 <= self.class_dropout <= 1.0:
            raise ValueError(
                f"`class_dropout` must lie in [0, 1], but got {self.class_dropout}; use 0.1"
            )

    @property
    def shape(self) -> DiTShape:
        """Depth, width and heads."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size

    def embedded_groups(self, layout: LatentLayout) -> tuple[int, ...]:
        """The groups of a latent that have a time embedder, in the order of the embedders;
        ValueError where `time_groups` does not name every group once."""
        names = [group.name for group in layout.groups]
        if self.time_groups in ("shared", "by_offset"):
            return (0,)
        if self.time_groups == "each":
            return tuple(range(len(names)))
        if sorted(self.time_groups) != sorted(names):
            raise ValueError(
                f"`time_groups` must name each of the latent's groups {', '.join(names)} once, but "
                f"got {', '.join(self.time_groups)}; name them in the order of the embedders"
            )
        return tuple(names.index(name) for name in self.time_groups)


class LightningDiT(nn.Module):
    """Velocity of a noisy latent, given its time(s) and class.

    Args:
        num_classes: number of classes; label `num_classes` is the null class.

    Raises:
        ValueError: if the grid is not divisible by the patch size, or the width by the number of
            time embedders, or if these are of other groups.
    """

    def __init__(
        self, config: LightningDiTConfig, *, layout: LatentLayout, num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        self.num_classes = num_classes
        patch, shape = config.patch_size, config.shape
        if layout.height % patch or layout.width % patch:
            raise ValueError(
                f"`patch_size` must divide the latent grid, but got {patch} for "
                f"{layout.height}x{layout.width}; use a smaller patch"
            )
        self.grid = (layout.height // patch, layout.width // patch)
        self.x_embedder = PatchEmbed(layout.channels, shape.width, patch)
        embedded = config.embedded_groups(layout)
        self.t_embedder = (
            TimestepEmbedder(shape.width)
            if len(embedded) == 1
            else GroupedTimestepEmbedder(
                shape.width, embedded, [layout.groups[index].name for index in embedded]
            )
        )
        self.y_embedder = LabelEmbedder(num_classes, shape.width)
        self.pos_embed = fixed_position_parameter(*self.grid, shape.width)
        head_dim = shape.width // shape.num_heads
        self.feat_rope = RotaryEmbedding(*self.grid, head_dim) if config.rope else None
        self.blocks = nn.ModuleList(
            Block(
                shape.width,
                shape.num_heads,
                qk_norm=config.qk_norm,
                swiglu=config.swiglu,
                rmsnorm=config.rmsnorm,
                adaln_shift=config.adaln_shift,
            )
            for _ in range(shape.depth)
        )
        self.final_layer = FinalLayer(
            shape.width, patch * patch * layout.channels, rmsnorm=config.rmsnorm
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for name, parameter in self.t_embedder.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)

    @property
    def token_width(self) -> int:
        """Width of a token."""
        return self.config.shape.width

    def compile_blocks(self) -> None:
        """Compile the blocks and the final layer.

        All blocks share one code, so that depth does not prolong the start as it does where the
        whole network is compiled.
        """
        for layer in (*self.blocks, self.final_layer):
            compile_in_place(layer)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b g"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Predict velocity.

        Args:
            x: noisy latent, normalised to unit variance at t = 1.
            t: time of each channel group in [0, 1]; 0 is noise, 1 is data. Of an expanded row, as
                samplers give it, a class is embedded and modulates once, not for each image.
            labels: classes in [0, num_classes]; the last is the null class.
        """
        return self.forward_with_tap(x, t, labels, len(self.blocks))[0]

    def forward_with_tap(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, "b g"],
        labels: Int[Tensor, " b"],
        block: int,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n d"]]:
        """Predict velocity and return the tokens after the first `block` blocks (1 to depth)."""
        assert 1 <= block <= len(self.blocks), "the tap's range is checked by its configuration"
        tokens = tapped = self.x_embedder(x) + self.pos_embed
        condition, rows = self._condition(t, labels)
        for index, layer in enumerate(self.blocks, start=1):
            tokens = layer(tokens, condition, self.feat_rope, rows)
            if index == block:
                tapped = tokens
        return self._unpatchify(self.final_layer(tokens, condition, rows), self.grid), tapped

    def _condition(
        self, t: Float[Tensor, "b g"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "v d"], Int[Tensor, " b"] | None]:
        """What modulates the blocks, and which row of it each image has; None: its own."""
        classes = self.y_embedder.embedding_table.weight
        # All classes, not those that occur: their number would be another shape to compile for.
        if t.stride(0) == 0 and len(classes) < len(labels):
            return self.t_embedder(t[:1]) + classes, labels
        return self.t_embedder(t) + self.y_embedder(labels), None

    def _unpatchify(
        self, tokens: Float[Tensor, "b n p"], grid: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        rows, columns = grid
        patch, channels = self.config.patch_size, self.layout.channels
        pieces = tokens.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, channels))
        return pieces.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * patch, columns * patch)
