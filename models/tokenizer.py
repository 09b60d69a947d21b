"""What every tokenizer's network offers, whatever its kind."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from models.posterior import AnyPosterior


class TokenizerNetwork(nn.Module):
    """A network that encodes images into latents and decodes latents into images."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "b 3 h w"], /) -> AnyPosterior:
        """The latent of images in [-1, 1], as the encoder's distribution over it, in float32."""

    @abstractmethod
    def decode(self, latent: Tensor, /) -> Float[Tensor, "b 3 h w"]:
        """Images of latents [b, c, h, w], or of indices [b, n] where its latents are indices,
        in about [-1, 1]; whoever shows them cuts off the rest."""

    def compile_trunks(self) -> None:
        """Compile what takes the time; numbers move by rounding only. A kind may have nothing."""
        return
