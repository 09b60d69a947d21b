"""The training loss of VA-VAE (arXiv 2501.01423; specification, Section 2).

L = L1 + LPIPS (both summed over pixels, averaged over the batch) + 1e-6 KL + w_gan L_gan
+ w_vf L_vf. Both adaptive weights compare the gradient norm of the reconstruction terms with that
of the weighted term, at the last weight that the term can reach. Regularisers change what is
decoded and reconstructed, or add terms.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import record_function

from models.alignment import AlignmentLoss, NoAlignment, VFAlignment
from models.autoencoder import ConvolutionalAutoencoder
from models.batch_part import WHOLE, BatchPart, add_terms, places_of_slices
from models.compilation import compile_in_place
from models.discriminator import (
    DiscriminatorConfig,
    NoDiscriminator,
    PatchDiscriminator,
    discriminator_hinge_loss,
    generator_hinge_loss,
)
from models.known_gradient import with_known_gradient
from models.perceptual import LPIPS, LPIPSConfig, NoPerceptual, build_lpips
from models.regularizers.contract import Drawn, Regularizer
from models.rounding import round_weights

GAN_WEIGHT_LIMIT = 1e4
VF_WEIGHT_LIMIT = 1e8
NORM_OFFSET = 1e-4

# Names of the ranges that a profiler shows, one for each part of a step. They lie inside the loss,
# because each term is differentiated there: the range of a term then has its backward pass too. A
# part that is computed in several places has one name, and the times of its ranges add up.
AUTOENCODER = "autoencoder, forward and backward"
PIXEL_TERMS = "L1 and LPIPS, forward and backward"
ADVERSARY = "discriminator, both steps"
ALIGNMENT = "alignment terms"
ADAPTIVE_WEIGHTS = "adaptive weights"

_Terms = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageLossConfig:
    """Terms of a reconstruction, whatever lies between encoder and decoder."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    perceptual: NoPerceptual | LPIPSConfig = field(default_factory=NoPerceptual)
    """Perceptual term."""
    discriminator: NoDiscriminator | DiscriminatorConfig = field(default_factory=NoDiscriminator)
    """Adversarial term."""

    @property
    def bottleneck_weights(self) -> Mapping[str, float]:
        """Weights of terms of the bottleneck, where it doesn't bring its own."""
        return {}

    @property
    def pixel_term(self) -> Literal["l1", "l2"]:
        """Absolute or squared error of pixel values."""
        return "l1"

    @property
    def sums_pixels(self) -> bool:
        """Whether pixel and perceptual terms are summed over an image's values, or their mean."""
        return True

    @property
    def smallest_image(self) -> int:
        """Side of the smallest image that the networks of the terms take."""
        networks = (self.perceptual, self.discriminator)
        has_one = (LPIPSConfig, DiscriminatorConfig)
        return max((n.smallest_image for n in networks if isinstance(n, has_one)), default=1)


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig(ImageLossConfig):
    """Terms of the tokenizer loss besides the alignment."""

    kl_weight: float = 1e-6
    """Weight of the KL term, which is summed over the latent."""

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(
                f"`kl_weight` must not be negative, but got {self.kl_weight}; use 0 to switch "
                "the term off"
            )

    @property
    def bottleneck_weights(self) -> Mapping[str, float]:
        """That of the KL term."""
        return {"kl": self.kl_weight}


@dataclass(frozen=True, kw_only=True)
class QuantizedLossConfig(ImageLossConfig):
    """Terms of the loss of a tokenizer with a codebook, besides those of its quantiser.

    As of VQGAN: means over pixel values, beside which the quantiser's weights are meant.
    """

    pixels: Literal["l1", "l2"] = "l2"
    """Absolute or squared error of pixel values; CRT and LlamaGen have the squared one."""

    @property
    def pixel_term(self) -> Literal["l1", "l2"]:
        """Absolute or squared error of pixel values."""
        return self.pixels

    @property
    def sums_pixels(self) -> bool:
        """They are means."""
        return False


@dataclass(frozen=True, kw_only=True)
class AutoencoderLoss:
    """Outcome of the autoencoder's forward pass and loss."""

    total: Float[Tensor, ""]
    """Sum of weight times term; call `backward` on it once."""
    terms: dict[str, Float[Tensor, ""]]
    """Unweighted terms, detached; terms that are off are absent."""
    weights: dict[str, Float[Tensor, ""]]
    """Weight of each term at this step, detached."""
    per_element: dict[str, Float[Tensor, ""]]
    """Means per pixel value (`l1` or `l2`) and per image (`perceptual`)."""
    target: Float[Tensor, "b c h w"]
    """The images to reconstruct: those encoded, unless a regulariser changed them."""
    reconstruction: Float[Tensor, "b c h w"]
    """Reconstructed images, detached, for the discriminator's step."""


def balance_weight(
    reconstruction_gradient: Float[Tensor, "*shape"],
    term_gradient: Float[Tensor, "*shape"],
    limit: float,
) -> Float[Tensor, ""]:
    """Ratio of gradient norms, clamped to [0, limit]; 1e-4 is added to the denominator."""
    numerator, denominator = reconstruction_gradient.norm(), term_gradient.norm()
    return (numerator / (denominator + NORM_OFFSET)).clamp(0.0, limit)


class TokenizerLoss(nn.Module):
    """Terms, weights and auxiliary networks of the tokenizer's training.

    Args:
        feature_dim: channels of the foundation features; needed with alignment.
        regularizers: by kind, in the order in which they act.

    Raises:
        ValueError: if alignment comes without `feature_dim`.
    """

    def __init__(
        self,
        config: ImageLossConfig,
        alignment: NoAlignment | VFAlignment,
        *,
        latent_dim: int,
        feature_dim: int | None = None,
        in_channels: int = 3,
        regularizers: Mapping[str, Regularizer] = {},
    ) -> None:
        super().__init__()
        self.config = config
        self.part, self.slices = WHOLE, 1
        self.perceptual: LPIPS | None = None
        self.discriminator: PatchDiscriminator | None = None
        self.alignment: AlignmentLoss | None = None
        if isinstance(config.perceptual, LPIPSConfig):
            self.perceptual = build_lpips(config.perceptual)
        if isinstance(config.discriminator, DiscriminatorConfig):
            self.discriminator = PatchDiscriminator(config.discriminator, in_channels=in_channels)
        if isinstance(alignment, VFAlignment):
            if feature_dim is None:
                raise ValueError(
                    "alignment needs the width of the foundation features, but got no "
                    "`feature_dim`; pass the feature encoder's"
                )
            self.alignment = AlignmentLoss(
                alignment, latent_dim=latent_dim, feature_dim=feature_dim
            )
        self._kinds = tuple(regularizers)
        self.regularizers = nn.ModuleList(regularizers.values())

    def divide(self, part: BatchPart, slices: int) -> None:
        """Take what comes from now on as this part of a batch, and its LPIPS in slices.

        Losses are then contributions to those of the whole batch; weights and logged terms are
        those of the whole batch.
        """
        self.part, self.slices = part, slices
        if self.discriminator is not None:
            self.discriminator.divide(part)
        for _, regularizer in self.named_regularizers():
            regularizer.part = part

    def enter(self, config: ImageLossConfig, alignment: NoAlignment | VFAlignment) -> None:
        """Use other weights, margins and start steps from now on; all networks stay.

        Args:
            config: as at construction, but for numbers of the terms.
        """
        assert type(alignment) is not NoAlignment or self.alignment is None
        assert config.discriminator.kind == self.config.discriminator.kind
        self.config = config
        if self.alignment is not None and isinstance(alignment, VFAlignment):
            self.alignment.config = alignment

    def compile_perceptual(self) -> None:
        """Compile LPIPS, where there is one."""
        if self.perceptual is not None:
            compile_in_place(self.perceptual)

    def round_perceptual(self) -> None:
        """Keep LPIPS' convolutions in bfloat16, for training under autocast; no number moves."""
        if self.perceptual is not None:
            round_weights(self.perceptual.backbone)

    def named_regularizers(self) -> Iterator[tuple[str, Regularizer]]:
        """Kinds and regularisers, in the order in which they act."""
        for kind, regularizer in zip(self._kinds, self.regularizers, strict=True):
            assert isinstance(regularizer, Regularizer)
            yield kind, regularizer

    def autoencoder_parameters(self) -> list[nn.Parameter]:
        """Parameters to train with the autoencoder's optimiser.

        They are the alignment's projection, unless frozen, and those of regularisers that have no
        optimiser of their own.
        """
        owners = [r for _, r in self.named_regularizers() if r.optimizer is None]
        return [*self._projection(), *_trained(*owners)]

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters of the discriminator's own optimiser."""
        return [] if self.discriminator is None else list(self.discriminator.parameters())

    def discriminator_is_on(self, batch_index: int) -> bool:
        """Whether the discriminator trains on batch `batch_index` (counted from 0)."""
        config = self.config.discriminator
        return isinstance(config, DiscriminatorConfig) and config.discriminator_is_on(batch_index)

    def generator_term_is_on(self, batch_index: int) -> bool:
        """Whether the autoencoder sees the discriminator on batch `batch_index`."""
        config = self.config.discriminator
        return isinstance(config, DiscriminatorConfig) and config.generator_term_is_on(batch_index)

    def autoencoder_loss(
        self,
        autoencoder: ConvolutionalAutoencoder,
        images: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b d h_z w_z"],
        features: Float[Tensor, "b f h_z w_z"] | None,
        batch_index: int,
        *,
        step: int = 0,
        drawn: Mapping[str, Drawn] = {},
    ) -> AutoencoderLoss:
        """Encode, sample, perturb, decode, and sum the weighted terms.

        The gradient of each term by the reconstruction (or the sample) is computed once and
        handed on, so LPIPS, the discriminator and the alignment are differentiated once. The
        adversarial term is neither computed nor balanced before its start.

        Args:
            images: batch in [-1, 1].
            noise: standard normal noise of the posterior sample.
            features: frozen foundation features; absent without alignment.
            batch_index: batches trained before this one in the present phase.
            step: batches trained before this one in all phases.
            drawn: what each regulariser has drawn for these images, by kind.
        """
        with record_function(AUTOENCODER):
            inner = autoencoder.bottleneck(images, noise)
            z = inner.latent
            perturbed, target = z, images
            for kind, regularizer in self.named_regularizers():
                perturbed, target = regularizer.perturb(perturbed, target, drawn[kind])
            reconstruction = autoencoder.decode_channels(perturbed).float()
        with record_function(PIXEL_TERMS):
            terms, weights, per_element, nll_gradient = self._reconstruction_terms(
                target, reconstruction.detach()
            )
        nll = _weighted_sum(terms, weights)
        behind = [*autoencoder.decoder_parameters(), *_trained(self.regularizers)]
        decoded = _Decoded(autoencoder, behind, z, reconstruction, nll, nll_gradient)
        if self.generator_term_is_on(batch_index):
            terms["gan"], weights["gan"], gan_gradient = self._adversarial_term(decoded)
            decoded = decoded.with_adversarial(terms["gan"], weights["gan"], gan_gradient)

        own_weights = {**inner.weights, **self.config.bottleneck_weights}
        found = inner.terms(features)
        inner_terms = {name: self._share(images) * term for name, term in found.items()}
        weights |= {n: torch.full_like(term, own_weights[n]) for n, term in inner_terms.items()}
        terms |= inner_terms
        total = _weighted_sum(inner_terms, weights)
        if self.alignment is None:
            total = total + decoded.total()
        else:
            assert features is not None, "the caller computes features wherever alignment is on"
            aligned, vf_terms, vf_weights = self._aligned_total(self.alignment, decoded, features)
            total, terms, weights = total + aligned, terms | vf_terms, weights | vf_weights
        for kind, regularizer in self.named_regularizers():
            own_weights = regularizer.weights_at(step)
            own = regularizer.loss(inner.mean, z, drawn[kind], step)
            for name, term in own.items():
                # A dot stands in no other term's name.
                path, weight = f"{kind}.{name}", own_weights.get(name, 1.0)
                if regularizer.weighs_pixels and self.config.sums_pixels:
                    weight = weight * images[0].numel()
                terms[path] = self._share(images) * term
                weights[path] = torch.full_like(term, weight)
                total = total + weight * terms[path]
        return AutoencoderLoss(
            total=total,
            terms=self._over_workers(terms),
            weights={name: weight.detach() for name, weight in weights.items()},
            per_element=self._over_workers(per_element),
            target=target,
            reconstruction=reconstruction.detach(),
        )

    def discriminator_loss(
        self,
        images: Float[Tensor, "b c h w"],
        reconstruction: Float[Tensor, "b c h w"],
        batch_index: int = 0,
    ) -> Float[Tensor, ""]:
        """Hinge loss of the discriminator on images and detached reconstructions, weighted.

        The caller asks `discriminator_is_on` first. Real and fake batches pass separately, since
        batch normalisation must not mix them.
        """
        assert self.discriminator is not None, "`discriminator_is_on` is false without one"
        assert isinstance(self.config.discriminator, DiscriminatorConfig)
        real = self.discriminator(images)
        fake = self.discriminator(reconstruction.detach())
        weight = self.config.discriminator.own_weight(batch_index)
        return weight * self._share(images) * discriminator_hinge_loss(real, fake)

    def _projection(self) -> list[nn.Parameter]:
        return [] if self.alignment is None else _trained(self.alignment)

    def _share(self, images: Tensor) -> float:
        return self.part.share(len(images), len(images))

    def _over_workers(self, terms: _Terms) -> _Terms:
        """Contributions summed over the workers, detached."""
        summed = self.part.sum(torch.stack([term.detach().float() for term in terms.values()]))
        return dict(zip(terms, summed.unbind(), strict=True))

    def _reconstruction_terms(
        self, images: Float[Tensor, "b c h w"], reconstruction: Float[Tensor, "b c h w"]
    ) -> tuple[_Terms, _Terms, _Terms, Float[Tensor, "b c h w"]]:
        """Terms, weights, means per element, and the gradient of the terms' weighted sum.

        Slices are differentiated one by one, so that LPIPS holds the activations of one.
        """
        terms, weights, per_element, gradients = {}, {}, {}, []
        dropout = None if self.perceptual is None else self.perceptual.dropout
        places = [] if dropout is None else [dropout]
        for rows in places_of_slices(len(images), self.slices, self.part, places, images.device):
            leaf = reconstruction[rows].requires_grad_()
            share = self.part.share(len(leaf), len(images))
            own, weights, own_per_element = self._terms_of_slice(images[rows], leaf, share)
            gradients += torch.autograd.grad(_weighted_sum(own, weights), leaf)
            terms = add_terms(terms, own)
            per_element = add_terms(per_element, own_per_element)
        return terms, weights, per_element, torch.cat(gradients)

    def _terms_of_slice(
        self,
        images: Float[Tensor, "b c h w"],
        reconstruction: Float[Tensor, "b c h w"],
        share: float,
    ) -> tuple[_Terms, _Terms, _Terms]:
        """Terms summed over pixels or not, their weights, and their means per element."""
        num_values = images[0].numel() if self.config.sums_pixels else 1
        name, error = self.config.pixel_term, images - reconstruction
        pixel = share * (error.abs() if name == "l1" else error.square()).mean()
        terms, per_element = {name: num_values * pixel}, {name: pixel}
        weights = {name: torch.ones_like(pixel)}
        if self.perceptual is not None and isinstance(self.config.perceptual, LPIPSConfig):
            distance = share * self.perceptual(images, reconstruction).mean()
            terms["perceptual"], per_element["perceptual"] = num_values * distance, distance
            weights["perceptual"] = torch.full_like(pixel, self.config.perceptual.weight)
        return terms, weights, per_element

    def _adversarial_term(self, decoded: "_Decoded") -> tuple[Tensor, Tensor, Tensor]:
        """Generator term, its weight, and its gradient by the reconstruction."""
        assert self.discriminator is not None
        assert isinstance(self.config.discriminator, DiscriminatorConfig)
        with record_function(ADVERSARY):
            logits = self.discriminator(decoded.reconstruction)
            term = self._share(logits) * generator_hinge_loss(logits)
            (gradient,) = torch.autograd.grad(term, decoded.reconstruction)
        if self.config.discriminator.balance == "constant":
            return term, torch.full_like(term, self.config.discriminator.weight), gradient
        ratio = _balance_at(
            decoded.autoencoder.last_decoder_weight,
            decoded.reconstruction,
            (decoded.nll_gradient, gradient),
            GAN_WEIGHT_LIMIT,
            self.part,
        )
        return term, self.config.discriminator.weight * ratio, gradient

    def _aligned_total(
        self, alignment: AlignmentLoss, decoded: "_Decoded", features: Float[Tensor, "b f h w"]
    ) -> tuple[Tensor, _Terms, _Terms]:
        """Image terms plus weighted alignment, with the alignment's terms and weights."""
        share = self._share(features)
        with record_function(ALIGNMENT):
            terms = {name: share * t for name, t in alignment(decoded.z, features).items()}
            vf = alignment.total(terms)
        factor = torch.full_like(vf, alignment.config.vf_weight)
        if not alignment.config.adaptive:
            total = decoded.total() + factor * vf
        else:
            image_total, nll_by_z = decoded.total_and_nll_gradient_by_z()
            inputs = [decoded.z, *self._projection()]
            with record_function(ALIGNMENT):
                gradients = torch.autograd.grad(vf, inputs)
            factor = factor * _balance_at(
                decoded.autoencoder.last_encoder_weight,
                decoded.z,
                (nll_by_z, gradients[0]),
                VF_WEIGHT_LIMIT,
                self.part,
            )
            vf_total = with_known_gradient(
                factor * vf, inputs, [factor * gradient for gradient in gradients]
            )
            total = image_total + vf_total
        weights = {name: factor * weight for name, weight in alignment.term_weights.items()}
        return total, terms, weights


@dataclass(frozen=True)
class _Decoded:
    """A reconstruction and what is known of the image terms' value and gradient there."""

    autoencoder: ConvolutionalAutoencoder
    behind: list[nn.Parameter]
    """Parameters that may stand between the sample and the reconstruction."""
    z: Tensor
    reconstruction: Tensor
    nll: Tensor
    nll_gradient: Tensor
    adversarial: tuple[Tensor, Tensor] | None = None

    def with_adversarial(self, term: Tensor, weight: Tensor, gradient: Tensor) -> "_Decoded":
        return replace(self, adversarial=(weight * term, weight * gradient))

    def total(self) -> Tensor:
        """Reconstruction and adversarial terms, differentiable from the reconstruction back."""
        value, gradient = self.nll, self.nll_gradient
        if self.adversarial is not None:
            value, gradient = value + self.adversarial[0], gradient + self.adversarial[1]
        return with_known_gradient(value, [self.reconstruction], [gradient])

    def total_and_nll_gradient_by_z(self) -> tuple[Tensor, Tensor]:
        """As `total`, with the gradient of the reconstruction terms alone by the sample.

        Without an adversarial term both come from one pass through the decoder. With one, the
        decoder's activations are passed a second time, because the two gradients differ.
        """
        if self.adversarial is not None:
            with record_function(ADAPTIVE_WEIGHTS):
                (by_z,) = torch.autograd.grad(
                    self.reconstruction, self.z, self.nll_gradient, retain_graph=True
                )
            return self.total(), by_z
        inputs = [self.z, *self.behind]
        with record_function(AUTOENCODER):
            gradients = torch.autograd.grad(
                self.reconstruction, inputs, self.nll_gradient, allow_unused=True
            )
        # A regulariser's parameters need not stand there; they may serve a term of its own.
        used = {i: g for i, g in zip(inputs, gradients, strict=True) if g is not None}
        return with_known_gradient(self.nll, [*used], [*used.values()]), used[self.z]


def _trained(*modules: nn.Module) -> list[nn.Parameter]:
    return [weight for module in modules for weight in module.parameters() if weight.requires_grad]


def _balance_at(
    weight: Tensor, output: Tensor, gradients: tuple[Tensor, Tensor], limit: float, part: BatchPart
) -> Tensor:
    """Adaptive weight from two gradients by `output`, compared at a weight just before it.

    The gradients at the weight are those of the global batch, so that all workers have the weight
    that one would have. The published implementation compares each worker's own.
    """
    with record_function(ADAPTIVE_WEIGHTS):
        reconstruction_gradient, term_gradient = (
            part.sum(torch.autograd.grad(output, weight, gradient, retain_graph=True)[0])
            for gradient in gradients
        )
        return balance_weight(reconstruction_gradient, term_gradient, limit)


def _weighted_sum(terms: _Terms, weights: _Terms) -> Tensor:
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
