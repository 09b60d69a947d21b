"""A feature network of the user's own: a Python object with `features`, `pooled` or both."""

from dataclasses import dataclass
from typing import Literal

from harness.schema.imported import Target
from harness.schema.reading import ConfigError


@dataclass(frozen=True, kw_only=True)
class PythonEncoderConfig(Target):
    """An object that gives features of images [b, 3, h, w] in `image_range`; nothing is trained.

    `features` returns [b, d, h / stride, w / stride]; alignment and REPA need it. `pooled` returns
    [b, d]; a metric extractor needs it, and takes sFID from `features` where `stride` is set, and
    the inception score from `logits`, which returns [b, k], where there are any. An `nn.Module` is
    moved to the device and put into evaluation mode.
    """

    kind: Literal["python"] = "python"
    feature_dim: int
    """Width d of the features; held to what is returned."""
    stride: int | None = None
    """Image pixels per cell of `features`; absent where only pooled features are wanted."""
    input_size: int | None = None
    """Images are resized to this side in pixels first (bilinear); absent: the data's resolution."""
    image_range: tuple[float, float] = (-1.0, 1.0)
    """Values of black and white in images that it takes: [-1, 1], [0, 1], [0, 255]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.image_range
        sizes = [self.feature_dim, self.stride, self.input_size]
        if any(size is not None and size < 1 for size in sizes) or not low < high:
            raise ValueError(
                "`feature_dim`, `stride` and `input_size` must be at least 1 and `image_range` "
                f"must rise, but got {', '.join(map(str, sizes))} and {list(self.image_range)}; "
                "use those of the network, 384, 14, 224 and [-1, 1] for instance"
            )

    @property
    def name(self) -> str:
        """What builds it, and its arguments."""
        return self.call

    @property
    def feature_name(self) -> str:
        """Its kind and name."""
        return f"{self.kind} {self.name}"

    @property
    def distance_name(self) -> str:
        """Named after the network."""
        return f"Fréchet distance ({self.name})"

    def describe(self) -> str:
        """Empty: code and weights of one's own enter keys by themselves."""
        return ""

    def check(self, resolution: int) -> None:
        """Refuse images that are no whole number of cells."""
        side = self.input_size or resolution
        if side % (self.stride or 1):
            raise ConfigError(
                f"must divide the {side} pixels of its images, but got {self.stride}; correct it, "
                "or set `input_size`",
                path="stride",
            )
