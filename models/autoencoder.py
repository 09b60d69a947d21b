"""The convolutional autoencoder of latent diffusion, with the official tensor names.

VA-VAE (arXiv 2501.01423) changes its training loss, not this network. Between encoder and decoder
lies a diagonal Gaussian, or a quantiser.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.autoencoder_blocks import Downsample, Level, Middle, Upsample, normalisation
from models.batch_part import WHOLE, BatchDropout, BatchPart, run_in_slices
from models.compilation import compiled
from models.posterior import IndexPosterior, Posterior
from models.quantizers import Quantizer, QuantizerConfig
from models.tokenizer import TokenizerNetwork


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of the autoencoder; the defaults are the published f16 network."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    base_width: int = 128
    """Channels at full image resolution."""
    width_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels of each level in units of `base_width`, from full resolution to the latent grid."""
    num_blocks: int = 2
    """Residual blocks per encoder level; the decoder has one more."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Sides of the feature map, in cells, at which attention follows each residual block."""
    attention_placed_for: int | None = field(default=None, metadata={"key": "unless_default"})
    """Side of the images, in pixels, for which these are the sides: of given weights that are used
    at another size than they were trained at. Absent: that of the data."""
    in_channels: int = 3
    """Image channels, of input and reconstruction."""
    dropout: float = 0.0
    """Dropout probability inside residual blocks, in [0, 1)."""
    norm_groups: int = 32
    """Groups of every group normalisation; must divide every width."""

    def __post_init__(self) -> None:
        positive = (self.base_width, self.num_blocks, self.norm_groups, *self.width_multipliers)
        if min(positive) < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                "`base_width`, `num_blocks`, `norm_groups` and `width_multipliers` must be at "
                f"least 1 and `dropout` in [0, 1), but got {self.base_width}, {self.num_blocks}, "
                f"{self.norm_groups}, {self.width_multipliers} and {self.dropout}; correct them"
            )
        misfits = [width for width in self.widths if width % self.norm_groups]
        if misfits or not self.widths:
            raise ValueError(
                f"`norm_groups` must divide every width, but got {self.norm_groups} groups for "
                f"widths {self.widths}; lower `norm_groups` or raise `base_width`"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base_width * multiplier for multiplier in self.width_multipliers)

    @property
    def num_levels(self) -> int:
        """Number of resolutions the network works at."""
        return len(self.width_multipliers)

    @property
    def downsample(self) -> int:
        """Pixels of the image side per cell of the latent grid."""
        return 2 ** (self.num_levels - 1)


class Encoder(nn.Module):
    """Image to the moments or vectors of its latent, before `quant_conv`."""

    part: BatchPart = WHOLE
    slices: int = 1

    def __init__(self, config: AutoencoderConfig, *, out_channels: int, resolution: int) -> None:
        super().__init__()
        widths, norm = config.widths, config.norm_groups
        last = config.num_levels - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                widths[max(level - 1, 0)],
                width,
                num_blocks=config.num_blocks,
                attends=resolution // 2**level in config.attention_resolutions,
                norm_groups=norm,
                dropout=config.dropout,
                downsample=Downsample(width) if level < last else None,
            )
            for level, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1], norm_groups=norm, dropout=config.dropout)
        self.norm_out = normalisation(widths[-1], norm)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        self.dropouts = [layer for layer in self.modules() if isinstance(layer, BatchDropout)]

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Go down the levels and through the middle."""
        return self.conv_out(run_in_slices(self.trunk, x, self.slices, self.part, self.dropouts))

    def trunk(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b width h_out w_out"]:
        """Everything before the last convolution."""
        hidden = self.conv_in(x)
        for level in self.down:
            hidden = level(hidden)
        return functional.silu(self.norm_out(self.mid(hidden)))


class Decoder(nn.Module):
    """Latent, after `post_quant_conv`, to image; levels are stored from full resolution down."""

    part: BatchPart = WHOLE
    slices: int = 1

    def __init__(self, config: AutoencoderConfig, *, latent_dim: int, resolution: int) -> None:
        super().__init__()
        widths, norm = config.widths, config.norm_groups
        last = config.num_levels - 1
        # As published, from the latent up: an odd side that was halved does not come back.
        side = resolution // 2**last
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], norm_groups=norm, dropout=config.dropout)
        self.up = nn.ModuleList(
            Level(
                widths[min(level + 1, last)],
                width,
                num_blocks=config.num_blocks + 1,
                attends=side * 2 ** (last - level) in config.attention_resolutions,
                norm_groups=norm,
                dropout=config.dropout,
                upsample=Upsample(width) if level > 0 else None,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out = normalisation(widths[0], norm)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels, 3, padding=1)
        self.dropouts = [layer for layer in self.modules() if isinstance(layer, BatchDropout)]

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Go through the middle and up the levels to a linear (unclamped) image."""
        return self.conv_out(run_in_slices(self.trunk, z, self.slices, self.part, self.dropouts))

    def trunk(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b width h_out w_out"]:
        """Everything before the last convolution."""
        hidden = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            hidden = level(hidden)
        return functional.silu(self.norm_out(hidden))


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """What training sees between encoder and decoder."""

    mean: Float[Tensor, "b c h w"]
    """What the encoder says: the posterior's mean, or vectors before they are quantised."""
    latent: Float[Tensor, "b c h w"]
    """What the decoder is given."""
    terms: Callable[[Float[Tensor, "b f h w"] | None], Mapping[str, Float[Tensor, ""]]]
    """Gives the unweighted terms of the loss, means over the images, for the frozen features of
    them, if any. It is called after the decoder has run: gradients are summed in the reverse order,
    which moves their last bits."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of terms, where the bottleneck has them rather than the loss."""


class ConvolutionalAutoencoder(TokenizerNetwork):
    """Encoder and decoder, and what all bottlenecks between them have in common.

    Args:
        out_channels: channels that the encoder gives.
        latent_dim: channels that the decoder takes, at least 1.
        resolution: image side in pixels for which attention is placed; other sizes run too.
        decoder: shape of the decoder, where it is not the encoder's.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        out_channels: int,
        latent_dim: int,
        resolution: int,
        decoder: AutoencoderConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = latent_dim
        resolution = config.attention_placed_for or resolution
        self.encoder = Encoder(config, out_channels=out_channels, resolution=resolution)
        self.decoder = Decoder(decoder or config, latent_dim=latent_dim, resolution=resolution)
        self.quant_conv = nn.Conv2d(out_channels, out_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_dim, latent_dim, 1)

    @abstractmethod
    def bottleneck(
        self, x: Float[Tensor, "b c_in h_in w_in"], noise: Float[Tensor, "b c h w"]
    ) -> Bottleneck:
        """Encode images as training does, with standard normal noise for what it draws."""

    @property
    def last_encoder_weight(self) -> Tensor:
        """The weight whose gradient norms balance reconstruction and alignment."""
        return self.encoder.conv_out.weight

    @property
    def last_decoder_weight(self) -> Tensor:
        """The weight whose gradient norms balance reconstruction and the adversarial term."""
        return self.decoder.conv_out.weight

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters between the latent and the image."""
        modules = nn.ModuleList([self.post_quant_conv, self.decoder])
        return [weight for weight in modules.parameters() if weight.requires_grad]

    def compile_trunks(self) -> None:
        """Compile encoder and decoder, but for their last convolutions.

        Adaptive weights ask for gradients by these alone, and compiled code passes back as a whole.
        """
        self.encoder.trunk = compiled(self.encoder.trunk)
        self.decoder.trunk = compiled(self.decoder.trunk)

    def divide(self, part: BatchPart, slices: int) -> None:
        """Take what comes from now on as this part of a batch, and go through it in slices.

        The last convolutions see all slices at once, since adaptive weights ask for their gradients
        alone.
        """
        for network in (self.encoder, self.decoder):
            network.part, network.slices = part, slices

    def encoded(self, x: Float[Tensor, "b c_in h_in w_in"]) -> Float[Tensor, "b c_out h w"]:
        """Moments or vectors of images in [-1, 1]; ValueError where the image sides are not
        divisible by the downsampling factor."""
        if x.shape[-2] % self.config.downsample or x.shape[-1] % self.config.downsample:
            raise ValueError(
                f"image sides must be divisible by the downsampling factor "
                f"{self.config.downsample}, but got {tuple(x.shape[-2:])}; crop or resize"
            )
        return self.quant_conv(self.encoder(x))

    def decode_channels(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Decode channels to images around [-1, 1], linear and unclamped."""
        return self.decoder(self.post_quant_conv(z))


class Autoencoder(ConvolutionalAutoencoder):
    """Encoder, diagonal Gaussian posterior and decoder.

    Args:
        latent_dim: channels of the latent, at least 1.
        resolution: image side in pixels for which attention is placed; other sizes run too.
    """

    def __init__(self, config: AutoencoderConfig, *, latent_dim: int, resolution: int) -> None:
        super().__init__(
            config, out_channels=2 * latent_dim, latent_dim=latent_dim, resolution=resolution
        )

    def encode(self, x: Float[Tensor, "b c_in h_in w_in"]) -> Posterior:
        """Encode images in [-1, 1]; ValueError where the image sides are not divisible by the
        downsampling factor."""
        return Posterior.from_moments(self.encoded(x))

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Decode latents to images around [-1, 1], linear and unclamped."""
        return self.decode_channels(z)

    def bottleneck(
        self, x: Float[Tensor, "b c_in h_in w_in"], noise: Float[Tensor, "b c h w"]
    ) -> Bottleneck:
        """A sample of the posterior, and its KL divergence."""
        posterior = self.encode(x)
        return Bottleneck(
            mean=posterior.mean,
            latent=posterior.sample(noise),
            terms=lambda _features: {"kl": posterior.kl().mean()},
        )


class QuantizedAutoencoder(ConvolutionalAutoencoder):
    """Encoder, quantiser and decoder; its latents are indices on a square grid.

    Args:
        latent_dim: numbers of a code.
        resolution: image side in pixels for which attention is placed.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        quantizer: QuantizerConfig,
        *,
        latent_dim: int,
        resolution: int,
    ) -> None:
        super().__init__(
            config, out_channels=latent_dim, latent_dim=latent_dim, resolution=resolution
        )
        self.quantizer: Quantizer = quantizer.build(latent_dim)

    def divide(self, part: BatchPart, slices: int) -> None:
        """As for encoder and decoder; codes learn from the whole batch."""
        super().divide(part, slices)
        self.quantizer.part = part

    def encode(self, x: Float[Tensor, "b c_in h_in w_in"]) -> IndexPosterior:
        """Indices of the codes of images in [-1, 1], row by row; ValueError where the image sides
        are not divisible by the downsampling factor."""
        return IndexPosterior(indices=self.quantizer.quantize(self.encoded(x)).indices)

    def decode(self, indices: Int64[Tensor, "b n"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Decode indices to images around [-1, 1], linear and unclamped."""
        return self.decode_channels(self.quantizer.grid(indices))

    def bottleneck(
        self, x: Float[Tensor, "b c_in h_in w_in"], noise: Float[Tensor, "b c h w"]
    ) -> Bottleneck:
        """Codes with a gradient straight to the encoder's vectors, and the quantiser's terms."""
        found = self.quantizer.quantize(self.encoded(x), noise)
        return Bottleneck(
            mean=found.vectors,
            latent=found.latent,
            terms=lambda _features: found.terms,
            weights=self.quantizer.config.weights,
        )
