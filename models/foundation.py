"""Frozen feature networks from timm: dense features, pooled features and logits."""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoint import read_tensors
from models.compilation import compiled

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of pixels in [0, 1] by which a network's images are standardised."""

NOT_THE_NETWORKS = frozenset({
    "cache_dir", "checkpoint_path", "exportable", "features_only", "no_jit", "pretrained",
    "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "scriptable",
})  # fmt: skip
"""Arguments of `timm.create_model` that `model_args` may not hold."""
MOST_BLOCKS, MOST_SIZE = 256, 10**6
"""Largest `depth` and largest other number that `model_args` may hold: building more takes
minutes."""
ModelArgument = int | float | bool | str | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TimmEncoderConfig:
    """A timm network, its weights, and how images are prepared for it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["timm"] = "timm"
    """Tells this choice from others."""
    name: str
    """timm model name, e.g. `vit_large_patch14_dinov2.lvd142m`."""
    weights: str = field(default="pretrained", metadata={"key": False})
    """`pretrained` (timm's cache), `random`, or the path of a local file. The path
    enters no content key (`metadata`); the file's hash does."""
    normalisation: Literal["repo", "imagenet", "none", "clip", "siglip"] = "repo"
    """`repo` feeds [-1, 1] as the published code does, `imagenet` standardises with ImageNet's
    mean and deviation, `none` feeds [0, 1]; `clip` and `siglip` cut off what lies outside of [0, 1]
    and standardise, as published for TokenFlow's teachers (arXiv 2412.03069)."""
    antialias: bool = False
    """Whether the resize is antialiased (published for alignment: it is not)."""
    interpolation: Literal["bilinear", "bicubic", "bicubic_unrounded"] = field(
        default="bilinear", metadata={"key": "unless_default"}
    )
    """How images are resized. `bicubic` also cuts off what overshoots and rounds to 8 bits, so that
    with `antialias` it is Pillow's, as published for FD-DINOv2 (arXiv 2306.04675).
    `bicubic_unrounded` does neither, as published for SemVAE's features (arXiv 2512.04926)."""
    position_resize: Literal["timm", "dinov2"] = field(
        default="timm", metadata={"key": "unless_default"}
    )
    """How position embeddings are brought to another input size. `timm`: antialiased bicubic;
    `dinov2`: once, to `input_size`, as the published DINOv2 without registers does, not antialiased
    and with its offset of 0.1 cells."""
    bfloat16: bool = False
    """Whether the network runs in bfloat16 on CUDA (published: float32); no effect on the CPU."""
    feature_level: int | None = None
    """Index of timm's intermediate stage that gives dense features; absent takes the last."""
    feature_norm: bool = field(default=True, metadata={"key": "unless_default"})
    """Whether the final norm goes over the features of that stage."""
    feature_head: bool = field(default=False, metadata={"key": "unless_default"})
    """Whether the network's head goes over every cell, as over those of TokenFlow's CLIP."""
    input_size: int | None = None
    """Side, in pixels, of the images behind pooled features and logits; absent takes `img_size`
    or the side of the pretraining."""
    model_args: Mapping[str, ModelArgument] = field(default_factory=dict)
    """Arguments of the network's own, e.g. `num_classes`, `img_size`, `depth`."""

    def __post_init__(self) -> None:
        if ":" in self.name:
            raise ValueError(
                f"`name` must be one of timm's own networks, but {self.name!r} names a hub or a "
                "folder, where timm would look for its description; give the network's name, and "
                "the path of its file as `weights`"
            )
        for name, value in self.model_args.items():
            sizes = value if isinstance(value, tuple) else (value,)
            most = MOST_BLOCKS if name.startswith("depth") else MOST_SIZE
            if any(isinstance(each, int | float) and not abs(each) <= most for each in sizes):
                raise ValueError(
                    f"`model_args` must be numbers of at most {most:,}, but {name!r} is {value}; "
                    "lower it"
                )
            if name in NOT_THE_NETWORKS:
                raise ValueError(
                    f"`model_args` must be the network's own, but {name!r} says where timm finds "
                    "or how it wraps it; remove it, and use `name`, `weights` and `feature_level`"
                )
            if isinstance(value, str) and not value.isidentifier():
                raise ValueError(
                    f"texts in `model_args` must be names, such as `gelu`, but {name!r} is "
                    f"{value!r}; remove it (a file of weights is given as `weights`)"
                )


@dataclass(frozen=True, kw_only=True)
class EncoderOutputs:
    """Everything that one forward pass of a `FeatureEncoder` gives."""

    pooled: Float[Tensor, "b d"]
    """Globally pooled features (the class token of DINOv2)."""
    dense: Float[Tensor, "b c h w"] | None
    """Feature map, of the configured level; None where the network has no map."""
    logits: Float[Tensor, "b k"] | None
    """Class scores; None where the network has no classification head."""


class EncoderNetwork(nn.Module):
    """A frozen network that gives features of images in [-1, 1], all of them in float32."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Channels of `features`, and width of pooled features."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """Input pixels per cell of the feature grid."""

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, int]:
        """Rows and columns of the images behind pooled features and logits."""

    @abstractmethod
    def features(
        self, images: Float[Tensor, "b c h_in w_in"], grid: tuple[int, int]
    ) -> Float[Tensor, "b d h w"]:
        """Dense features on a grid of (rows, columns)."""

    @abstractmethod
    def outputs(self, images: Float[Tensor, "b c h w"]) -> EncoderOutputs:
        """Everything from one pass, in the caller's precision."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "b c h w"]) -> Any:
        """The pass of images of the network's own size; its operations are what it costs."""

    def compile_features(self) -> None:
        """Compile the pass behind `features` alone. A kind may have nothing to compile."""
        return


class FeatureEncoder(EncoderNetwork):
    """A frozen timm network in evaluation mode.

    Images come in [-1, 1]; all results are float32. The timm network itself is `model`, whose
    state dict a training stage may fill or save.

    Raises:
        ValueError: if timm does not know the name or the weights cannot be had.
    """

    model: Any

    def __init__(self, config: TimmEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _create_model(config)
        if config.position_resize == "dinov2":
            _resize_positions_as_dinov2(self.model, self.input_size)
        self.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """The timm network's own pass."""
        return self.model(images)

    def compile_features(self) -> None:
        """Compile the pass behind `features`; `pooled`, `logits` and `outputs` stay as they are."""
        self._dense = compiled(self._dense)

    @property
    def feature_dim(self) -> int:
        """Channels of `features`."""
        if self.config.feature_head:
            return self.model.num_classes
        return self._level_info["num_chs"] if self._has_level else self.model.num_features

    @property
    def stride(self) -> int:
        """Input pixels per cell of the feature grid."""
        return self._level_info["reduction"]

    def features(
        self, images: Float[Tensor, "b c h_in w_in"], grid: tuple[int, int]
    ) -> Float[Tensor, "b d h w"]:
        """Dense features on a grid of (rows, columns); images are resized so that they match.

        Weights that ask for it receive a gradient; as built, none does.

        A vision transformer gives its patch tokens after the final norm, without prefix tokens,
        in row-major order; a convolutional network gives its feature map.
        """
        size = (grid[0] * self.stride, grid[1] * self.stride)
        with self._precision(images):
            dense = self._dense(self.prepare(images, size), grid)
        if tuple(dense.shape[2:]) != grid:
            raise ValueError(
                f"features must lie on the latent's grid {grid}, but {self.config.name} gives "
                f"{tuple(dense.shape[2:])}; choose another `feature_level` or network"
            )
        return dense.float()

    @torch.no_grad()
    def pooled(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Globally pooled features, at the network's own input size."""
        with self._precision(images):
            hidden = self.model.forward_features(self.prepare(images, self.input_size))
            return self.model.forward_head(hidden, pre_logits=True).float()

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Class logits, at the network's own input size; ValueError where the network has no
        classification head."""
        if self.model.num_classes < 1:
            raise ValueError(
                f"logits need a classification head, but {self.config.name} has none; set "
                "`num_classes` in `model_args`"
            )
        with self._precision(images):
            return self.model(self.prepare(images, self.input_size)).float()

    @torch.no_grad()
    def outputs(self, images: Float[Tensor, "b c h w"]) -> EncoderOutputs:
        """Pooled features, feature map and logits from one pass, at the network's own input size.

        The body runs in the precision of the configuration or else of the caller's autocast,
        pooling and head in float32.
        """
        inputs = self.prepare(images, self.input_size)
        precision = self._precision(images) if self.config.bfloat16 else nullcontext()
        with precision:
            hidden, dense = self._hidden_and_map(inputs)
        with torch.autocast(images.device.type, enabled=False):
            hidden = hidden.float()
            pooled = self.model.forward_head(hidden, pre_logits=True)
            logits = self.model.forward_head(hidden) if self.model.num_classes > 0 else None
        return EncoderOutputs(
            pooled=pooled, dense=None if dense is None else dense.float(), logits=logits
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """Image size for pooled features and logits: `img_size`, or that of the pretraining."""
        if self.config.input_size is not None:
            return self.config.input_size, self.config.input_size
        arguments = dict(self.config.model_args)
        size: Any = arguments.get("img_size", self.model.pretrained_cfg["input_size"][1:])
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def _has_level(self) -> bool:
        return self.config.feature_level is not None

    @property
    def _level_info(self) -> dict[str, Any]:
        level = -1 if self.config.feature_level is None else self.config.feature_level
        levels = self.model.feature_info
        try:
            return levels[level]
        except IndexError as error:
            raise ValueError(
                f"`feature_level` must be below {len(levels)}, the levels of {self.config.name}, "
                f"but is {level}; leave it out to take the last"
            ) from error

    def _precision(self, images: Tensor) -> AbstractContextManager[Any]:
        if images.is_meta:  # Costs are counted there, and it knows no autocast.
            return nullcontext()
        enabled = self.config.bfloat16 and images.is_cuda
        return torch.autocast(images.device.type, torch.bfloat16, enabled=enabled)

    def prepare(
        self, images: Float[Tensor, "b c h_in w_in"], size: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Resize images in [-1, 1] to (rows, columns) and normalise them for the network."""
        if tuple(images.shape[2:]) != size:
            images = self._resize(images, size)
        if self.config.normalisation == "repo":
            return images
        unit = (images + 1.0) / 2.0
        if self.config.normalisation == "none":
            return unit
        if self.config.normalisation != "imagenet":
            unit = unit.clamp(0.0, 1.0)
        statistics = STATISTICS[self.config.normalisation]
        mean, deviation = (unit.new_tensor(values)[:, None, None] for values in statistics)
        return (unit - mean) / deviation

    def _resize(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        antialias = self.config.antialias
        if self.config.interpolation != "bicubic":
            mode = self.config.interpolation.removesuffix("_unrounded")
            return functional.interpolate(images, size, mode=mode, antialias=antialias)
        # Pillow goes along rows first, and rounds after each of the two passes.
        for step in ((images.shape[2], size[1]), size):
            images = functional.interpolate(images, step, mode="bicubic", antialias=antialias)
            images = (127.5 * images.clamp(-1.0, 1.0) + 128.0).floor() / 127.5 - 1.0
        return images

    def _dense(self, inputs: Tensor, grid: tuple[int, int]) -> Tensor:
        if self._has_level:
            return self.model.forward_intermediates(
                inputs,
                indices=[self.config.feature_level],
                norm=self.config.feature_norm,
                output_fmt="NCHW",
                intermediates_only=True,
            )[0]
        hidden = self.model.forward_features(inputs)
        return self._as_map(self.model.head(hidden) if self.config.feature_head else hidden, grid)

    def _hidden_and_map(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input of the network's head, and the feature map."""
        if self._has_level:
            hidden, (dense,) = self.model.forward_intermediates(
                inputs, indices=[self.config.feature_level], norm=True, output_fmt="NCHW"
            )
            return hidden, dense
        hidden = self.model.forward_features(inputs)
        if hidden.ndim == 2:
            return hidden, None
        rows, columns = inputs.shape[2:]
        return hidden, self._as_map(hidden, (rows // self.stride, columns // self.stride))

    def _as_map(self, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
        if hidden.ndim == 3:
            tokens = hidden[:, self.model.num_prefix_tokens :]
            return tokens.transpose(1, 2).unflatten(2, grid)
        return hidden if hidden.shape[1] == self.feature_dim else hidden.permute(0, 3, 1, 2)


def _create_model(config: TimmEncoderConfig) -> nn.Module:
    arguments: dict[str, Any] = dict(config.model_args)
    arguments["pretrained"] = config.weights != "random"
    if config.weights not in ("pretrained", "random"):
        path = Path(config.weights).expanduser()
        if not path.is_file():
            raise ValueError(
                f"`weights` must be `pretrained`, `random` or a file, but {config.weights} is no "
                "file; correct the path"
            )
        # Read here, and not by timm, some versions of which run the code that a file holds. The
        # archives of arrays that JAX wrote have a reader of the network's own.
        given = {"file": str(path)} if path.suffix == ".npz" else {"state_dict": read_tensors(path)}
        arguments["pretrained_cfg_overlay"] = given | {
            name: value for name, value in arguments.items() if name == "num_classes"
        }
    try:
        network = _create_for_any_size(config.name, arguments)
        if isinstance(described := getattr(network, "pretrained_cfg", None), dict):
            described.pop("state_dict", None)
        return network
    # A network's arguments are its own, and so is what it raises where they do not fit.
    except Exception as error:
        raise ValueError(
            f"`name` must be a network of this timm version with weights {config.weights!r} at "
            f"hand and take `model_args`, but {config.name} failed: {type(error).__name__}: "
            f"{error}; check name and arguments, or give a local file as `weights`"
        ) from error


def _create_for_any_size(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Ask transformers for inputs of any size; convolutional networks take any size as it is."""
    import timm  # Importing timm takes seconds, and a plan does not need it.

    try:
        return timm.create_model(name, dynamic_img_size=True, **arguments)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        return timm.create_model(name, **arguments)


def _resize_positions_as_dinov2(model: Any, size: tuple[int, int]) -> None:
    """Bring a vision transformer's learnt positions to an input size in DINOv2's own way."""
    learnt = getattr(model, "pos_embed", None)
    if learnt is None or model.num_prefix_tokens != 1:
        raise ValueError(
            "`position_resize: dinov2` must meet learnt positions and one class token, but "
            f"{type(model).__name__} came without; use `timm`"
        )
    learnt = learnt.detach()
    rows, columns = model.patch_embed.grid_size
    model.set_input_size(img_size=size)
    grid = model.patch_embed.grid_size
    cells = learnt[:, 1:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    scale = ((grid[0] + 0.1) / rows, (grid[1] + 0.1) / columns)
    cells = functional.interpolate(cells, scale_factor=scale, mode="bicubic")
    resized = torch.cat([learnt[:, :1], cells.flatten(2).transpose(1, 2)], dim=1)
    model.pos_embed = nn.Parameter(resized)
