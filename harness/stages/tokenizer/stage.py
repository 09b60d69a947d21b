"""Stage `tokenizer`: a network that encodes images and decodes latents, of any of its kinds."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from harness.config.tokenizer import TOKENIZERS
from harness.stages.flops import ADAM_STATE, BYTES, count_forward, empty_image
from harness.stages.running.context import StageContext
from harness.stages.stage import Estimate, Stage, StageKind
from harness.stages.tokenizer import composite, diffusers, identity, python, semantic, va_vae
from harness.stages.tokenizer.kind import TokenizerStage, kind_of, memory_format, network_of
from harness.storage.artifacts import Artifact
from models.tokenizer import TokenizerNetwork

TOKENIZERS.implement("va_vae", va_vae.KIND)
TOKENIZERS.implement("vq", va_vae.KIND)
TOKENIZERS.implement("dual_vq", va_vae.KIND)
TOKENIZERS.implement("diffusers", diffusers.KIND)
TOKENIZERS.implement("identity", identity.KIND)
TOKENIZERS.implement("python", python.KIND)
TOKENIZERS.implement("semvae", semantic.SEMVAE)
TOKENIZERS.implement("pca", semantic.PCA)
TOKENIZERS.implement("composite", composite.KIND)


def run(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """Train the tokenizer, or copy given weights."""
    return kind_of(config.tokenizer).make(config, context)


def build_tokenizer(config: TokenizerStage) -> TokenizerNetwork:
    """The untrained network; of a pretrained one, from the files that it is taken from."""
    return kind_of(config.tokenizer).build(config)


def load_tokenizer(
    artifact: Artifact,
    device: torch.device,
    *,
    compiled: bool = False,
    channels_last: bool | Literal["auto"] = "auto",
) -> TokenizerNetwork:
    """The network of an artifact, frozen and in evaluation mode, compiled if asked."""
    model = network_of(artifact)
    model.requires_grad_(False).eval().to(device)
    if compiled:
        model.compile_trunks()
    return model.to(memory_format=memory_format(device, channels_last))


def estimate(stage: Stage) -> Estimate:
    """The training, the networks of its loss included."""
    config: TokenizerStage = stage.config
    parameters, _ = _size(config)
    return Estimate(
        flops=training_flops(stage),
        disk_bytes=BYTES * parameters,
        parameters=parameters,
        images=kind_of(config.tokenizer).trained_images(config),
        state_bytes=ADAM_STATE * BYTES * parameters,
        activations=lambda: kind_of(config.tokenizer).activations(config),
    )


def training_flops(stage: Stage) -> float:
    """FLOPs of training a tokenizer here, the networks of its loss included."""
    config: TokenizerStage = stage.config
    kind = kind_of(config.tokenizer)
    if kind.trained_images(config) == 0:
        return 0.0
    return kind.training_flops(config, stage.inputs, flops_per_image(config))


def flops_per_image(config: TokenizerStage) -> float:
    """FLOPs of one image's way into the latent and back."""
    return _size(config)[1]


def encoding_flops_per_image(config: TokenizerStage) -> float:
    """FLOPs of one image's way into a tokenizer's latent."""
    return _size(config, back=False)[1]


def decoding_flops_per_image(config: TokenizerStage) -> float:
    """FLOPs of one latent's way back to an image."""
    return flops_per_image(config) - encoding_flops_per_image(config)


def _size(config: TokenizerStage, *, back: bool = True) -> tuple[int, float]:
    """Parameters, and FLOPs of one image's way through the tokenizer, or into its latent.

    Both are 0 where the files that a network is built from are not here: the plan names them as
    missing, or the stage fails and says why. So are they where a user's code does not run on the
    meta device; whatever it raises there, a cost that is not known is no reason not to run.
    """
    try:
        named = config if back else ["encoding", config]
        return count_forward(named, lambda: _forward(config, back=back))
    except Exception:
        if kind_of(config.tokenizer).built_from_files:
            return 0, 0.0
        raise


def _forward(config: TokenizerStage, *, back: bool = True) -> tuple[nn.Module, tuple[Any, ...]]:
    network = _RoundTrip(build_tokenizer(config), config, back=back)
    return network, empty_image(config.data.resolution, config.data.resolution)


class _RoundTrip(nn.Module):
    """Encode and, where `back`, decode: what one forward pass of an autoencoder means here."""

    def __init__(
        self, autoencoder: TokenizerNetwork, config: TokenizerStage, *, back: bool
    ) -> None:
        super().__init__()
        self.autoencoder, self.config, self.back = autoencoder, config.tokenizer, back

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        latent = self.autoencoder.encode(images).mode()
        _require("encode", latent, self.config.layout(images.shape[2]).shape)
        if not self.back:
            return latent
        decoded = self.autoencoder.decode(latent)
        if self.config.decodes == "images":
            _require("decode", decoded, images.shape[1:])
        return decoded


def _require(method: str, found: torch.Tensor, shape: tuple[int, ...]) -> None:
    if found.shape[1:] != shape:
        raise ValueError(
            f"`{method}` must return shape {[1, *shape]}, as `layout` and the images say, but "
            f"returned {[*found.shape]}; correct one of them"
        )


KIND = StageKind(
    version=1,
    run=run,
    estimate=estimate,
    check_given=lambda stage: kind_of(stage.config.tokenizer).check_given(stage.config),
    images=lambda config: None if config.tokenizer.is_given else config.data,
    missing=lambda config, path: kind_of(config.tokenizer).missing(config, path),
    convolves=True,
)
