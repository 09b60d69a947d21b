"""What stages cost, estimated from their configuration alone.

FLOPs are counted on PyTorch's meta device, where networks have shapes but no memory: a multiply and
an add are two operations, matrix products and convolutions count, pointwise work does not. A
training step is taken as three forward passes of what is trained.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.config.diffusers import DiffusersTokenizerConfig
from harness.config.encoders import InDomainEncoder
from harness.config.training import TrainingConfig
from harness.plan.plan import Stage
from harness.schema.keys import canonical_json
from harness.stages.diagnostics import DiagnosticsStage
from harness.stages.encoder import EncoderStage, build_network
from harness.stages.generation import GenerationStage
from harness.stages.generator.stage import GeneratorStage
from harness.stages.given_pairs import GivenPairsStage
from harness.stages.given_samples import GivenSamplesStage
from harness.stages.latents import LatentsStage
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.reference import ReferenceStage
from harness.stages.tokenizer.stage import TokenizerStage
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.foundation import TimmEncoderConfig
from models.guidance import ClassifierFreeGuidance
from models.lightningdit import num_parameters
from models.perceptual import LPIPSConfig

FORWARDS_A_STEP = 3
"""Forward passes that one training step of a network is worth."""
ADAM_STATE = 4
"""Numbers that a trained parameter needs: itself, its gradient and Adam's two moments."""
BYTES = 4
"""Bytes of a stored number: weights and latents are kept in fp32."""
OF_TRAINING = ("seed", "training", "phases", "loss", "alignment", "ema", "snapshots")
"""Fields that say how a network is trained, and neither its size nor its operations."""
INCEPTION_FLOPS = 11.4e9
"""Inception-v3 at 299x299: 5.7e9 multiply-adds (Szegedy et al., arXiv 1512.00567)."""
INCEPTION_PARAMETERS = 23_900_000
INCEPTION_FEATURES = 2048


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one stage is expected to cost."""

    flops: float
    """Floating-point operations."""
    disk_bytes: float
    """Size of its artifact."""
    parameters: int = 0
    """Parameters of the network that it makes."""
    images: int = 0
    """Images that it works through, counted every time; 0 where they are not known beforehand."""
    state_bytes: float = 0.0
    """Device memory of weights, gradients, optimiser state and averages, without activations."""


def estimate(stage: Stage) -> Estimate:
    """Estimate one stage."""
    if stage.key not in _estimates:
        _estimates[stage.key] = _estimate(stage)
    return _estimates[stage.key]


_estimates: dict[str, Estimate] = {}


def _estimate(stage: Stage) -> Estimate:
    config, inputs = stage.config, stage.inputs
    if isinstance(config, EncoderStage):
        return _encoder(config)
    if isinstance(config, TokenizerStage):
        parameters, _ = _tokenizer_size(config)
        return Estimate(
            flops=tokenizer_training_flops(config, _encoder_of(stage, "encoder")),
            disk_bytes=BYTES * parameters,
            parameters=parameters,
            images=_tokenizer_images(config),
            state_bytes=ADAM_STATE * BYTES * parameters,
        )
    if isinstance(config, GeneratorStage):
        parameters, _ = _measured(config, lambda: _generator_forward(config))
        snapshots = len(config.generator.snapshot_steps)
        return Estimate(
            flops=generator_training_flops(config, _encoder_of(stage, "representation")),
            disk_bytes=BYTES * parameters * snapshots,
            parameters=parameters,
            images=0 if config.checkpoint else _training_images(config.generator.training),
            state_bytes=(ADAM_STATE + 1) * BYTES * parameters,
        )
    if isinstance(config, LatentsStage):
        return _latents(config, inputs["tokenizer"].config)
    if isinstance(config, ReconstructionStage):
        tokenizer, extractor = inputs["tokenizer"].config, inputs["extractor"].config
        per_image = _tokenizer_flops(tokenizer) + 2 * _encoder_flops(extractor)
        flops = config.num_images * per_image
        return Estimate(flops=flops, disk_bytes=1e5, images=config.num_images)
    if isinstance(config, ReferenceStage):
        extractor = inputs["extractor"].config
        dim = _feature_dim(extractor)
        # Moments of pooled and of spatial features, which are about as wide, in float64.
        disk = 2 * 8 * dim**2 + BYTES * dim * min(config.num_features, config.num_images)
        flops = config.num_images * _encoder_flops(extractor)
        return Estimate(flops=flops, disk_bytes=disk, images=config.num_images)
    if isinstance(config, DiagnosticsStage):
        # t-SNE and the probe are no networks; what they cost is seconds on a CPU.
        images = min(config.diagnostics.num_images, config.data.num_eval_images)
        flops = images * _tokenizer_flops(inputs["tokenizer"].config) / 2
        return Estimate(flops=flops, disk_bytes=1e4, images=images)
    if isinstance(config, GivenSamplesStage | GivenPairsStage):
        # Given images are not counted before they are read.
        return Estimate(flops=0.0, disk_bytes=8 * _feature_dim(inputs["extractor"].config) ** 2)
    assert isinstance(config, GenerationStage)
    return _generation(config, stage)


def estimated_flops(stage: Stage) -> float:
    """Floating-point operations of one stage."""
    return estimate(stage).flops


def critical_paths(
    stages: Sequence[Stage], length: Callable[[Stage], float] = estimated_flops
) -> dict[str, float]:
    """Key -> length from the start of that stage to the end of the longest chain behind it.

    Args:
        stages: Inputs first.
        length: Of one stage; its FLOPs unless given.
    """
    lengths: dict[str, float] = {}
    behind: dict[str, float] = {}
    for stage in reversed(stages):
        lengths[stage.key] = length(stage) + behind.get(stage.key, 0.0)
        for source in stage.inputs.values():
            behind[source.key] = max(behind.get(source.key, 0.0), lengths[stage.key])
    return lengths


def tokenizer_training_flops(config: TokenizerStage, encoder: EncoderStage | None) -> float:
    """FLOPs of training a tokenizer, its loss networks included.

    Per image: three forwards of the autoencoder, one of the alignment encoder, three of LPIPS'
    VGG16 (two images forward, one backward to the pixels) and eight of the discriminator (forward
    and backward to the pixels, then two images forward and backward to its weights).
    """
    if config.checkpoint or isinstance(config.tokenizer, DiffusersTokenizerConfig):
        return 0.0
    training, loss = config.tokenizer.training, config.tokenizer.loss
    per_image = FORWARDS_A_STEP * _tokenizer_flops(config)
    side = config.data.resolution
    if encoder is not None:
        cells = side // config.tokenizer.downsample
        per_image += _measured([encoder, cells], lambda: _encoder_forward(encoder, cells))[1]
    if isinstance(loss.perceptual, LPIPSConfig):
        per_image += 3 * _forward_flops(("vgg16", side), lambda: _vgg16_forward(side))
    if isinstance(loss.discriminator, DiscriminatorConfig):
        network = loss.discriminator
        per_image += 8 * _forward_flops(
            (network, side), lambda: (PatchDiscriminator(network), _image(side, side))
        )
    return training.steps * training.batch_size * per_image


def encoder_flops_per_image(config: EncoderStage) -> float:
    """FLOPs of one image through a feature network, at the network's own input size."""
    return _encoder_flops(config)


def encoding_flops_per_image(config: TokenizerStage) -> float:
    """FLOPs of one image's way into a tokenizer's latent."""
    return _measured(["encoding", config], lambda: _encoding_forward(config))[1]


def decoding_flops_per_image(config: TokenizerStage) -> float:
    """FLOPs of one latent's way back to an image."""
    return _tokenizer_flops(config) - encoding_flops_per_image(config)


def generator_flops_per_image(config: GeneratorStage) -> float:
    """FLOPs of one evaluation of a generator's velocity for one image, without guidance."""
    return _measured(config, lambda: _generator_forward(config))[1]


def generator_training_flops(config: GeneratorStage, encoder: EncoderStage | None) -> float:
    """FLOPs of training a generator, the encoder that its tokens are aligned with included."""
    training = config.generator.training
    if config.checkpoint:
        return 0.0
    per_image = FORWARDS_A_STEP * _measured(config, lambda: _generator_forward(config))[1]
    if encoder is not None:
        cells = config.layout.height // config.generator.patch_size
        per_image += _measured([encoder, cells], lambda: _encoder_forward(encoder, cells))[1]
    return training.steps * training.batch_size * per_image


def _encoder_of(stage: Stage, name: str) -> EncoderStage | None:
    """The frozen network that a training looks to, or None."""
    return stage.inputs[name].config if name in stage.inputs else None


def _encoder(config: EncoderStage) -> Estimate:
    if not isinstance(config.encoder, InDomainEncoder | TimmEncoderConfig):
        size = BYTES * INCEPTION_PARAMETERS
        return Estimate(flops=0.0, disk_bytes=size, parameters=INCEPTION_PARAMETERS)
    parameters, per_image = _measured(config, lambda: _encoder_forward(config))
    flops = 0.0
    images, states = 0, 1
    if isinstance(config.encoder, InDomainEncoder):
        images, states = _training_images(config.encoder.training), ADAM_STATE
        flops = images * FORWARDS_A_STEP * per_image
    return Estimate(
        flops=flops,
        disk_bytes=BYTES * parameters,
        parameters=parameters,
        images=images,
        state_bytes=states * BYTES * parameters,
    )


def _latents(config: LatentsStage, tokenizer: TokenizerStage) -> Estimate:
    if config.content:
        # A folder's shards are linked, not copied.
        return Estimate(flops=0.0, disk_bytes=1e4)
    images = config.latents.num_images or config.data.num_train_images
    channels, height, width = config.layout.shape
    # The encoder is the smaller half of the autoencoder.
    encoded = images * len(config.views)
    flops = encoded * _tokenizer_flops(tokenizer) / 2
    numbers = images * len(config.tensors) * channels * height * width
    return Estimate(flops=flops, disk_bytes=BYTES * numbers, images=encoded)


def _generation(config: GenerationStage, stage: Stage) -> Estimate:
    generator, tokenizer = stage.inputs["generator"].config, stage.inputs["tokenizer"].config
    # An adaptive solver chooses its own number of evaluations; published runs need about 100.
    evaluations = config.sampler.num_function_evaluations or 100
    _, per_evaluation = _measured(generator, lambda: _generator_forward(generator))
    if isinstance(config.guidance, ClassifierFreeGuidance):
        per_evaluation *= 2
    if "weak" in stage.inputs:
        weak = stage.inputs["weak"].config
        per_evaluation += _measured(weak, lambda: _generator_forward(weak))[1]
    per_image = evaluations * per_evaluation + _tokenizer_flops(tokenizer) / 2
    per_image += _encoder_flops(stage.inputs["extractor"].config)
    samples = 3 * tokenizer.data.resolution**2 * config.num_images if config.keep_samples else 0
    disk = 8 * _feature_dim(stage.inputs["extractor"].config) ** 2 + samples + 5e5
    flops = config.num_images * per_image
    return Estimate(flops=flops, disk_bytes=disk, images=config.num_images)


def _training_images(training: TrainingConfig) -> int:
    return training.steps * training.batch_size


def _tokenizer_images(config: TokenizerStage) -> int:
    """Images that a tokenizer is trained with here."""
    if config.checkpoint or isinstance(config.tokenizer, DiffusersTokenizerConfig):
        return 0
    return _training_images(config.tokenizer.training)


def _tokenizer_flops(config: TokenizerStage) -> float:
    return _tokenizer_size(config)[1]


def _tokenizer_size(config: TokenizerStage) -> tuple[int, float]:
    """Parameters, and FLOPs of one image's way through the tokenizer.

    Both are 0 for a pretrained one that cannot be built here: the plan names its files as missing,
    or its stage fails and says why.
    """
    try:
        return _measured(config, lambda: _tokenizer_forward(config))
    except (ValueError, RuntimeError):
        if isinstance(config.tokenizer, DiffusersTokenizerConfig):
            return 0, 0.0
        raise


def _encoder_flops(config: EncoderStage) -> float:
    if not isinstance(config.encoder, InDomainEncoder | TimmEncoderConfig):
        return INCEPTION_FLOPS
    return _measured(config, lambda: _encoder_forward(config))[1]


def _feature_dim(config: EncoderStage) -> int:
    if not isinstance(config.encoder, InDomainEncoder | TimmEncoderConfig):
        return INCEPTION_FEATURES
    key = _network_key(config)
    if key not in _feature_dims:
        with torch.device("meta"):
            _feature_dims[key] = build_network(config).feature_dim
    return _feature_dims[key]


_feature_dims: dict[str, int] = {}

Forward = Callable[[], tuple[nn.Module, tuple[Any, ...]]]


def _tokenizer_forward(config: TokenizerStage) -> tuple[nn.Module, tuple[Any, ...]]:
    return _RoundTrip(config), _image(config.data.resolution, config.data.resolution)


def _encoding_forward(config: TokenizerStage) -> tuple[nn.Module, tuple[Any, ...]]:
    return _RoundTrip(config, back=False), _image(config.data.resolution, config.data.resolution)


def _generator_forward(config: GeneratorStage) -> tuple[nn.Module, tuple[Any, ...]]:
    layout = config.layout
    latent = torch.empty(1, *layout.shape, device="meta")
    time = torch.empty(1, layout.num_groups, device="meta")
    return config.build(), (latent, time, torch.empty(1, dtype=torch.int64, device="meta"))


def _encoder_forward(
    config: EncoderStage, cells: int | None = None
) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network on an image of its own size, or of the size that gives a grid of `cells`."""
    network = build_network(config)
    size = network.input_size if cells is None else (cells * network.stride,) * 2
    return network.model, _image(*size)


def _vgg16_forward(side: int) -> tuple[nn.Module, tuple[Any, ...]]:
    from torchvision.models import vgg16  # Importing torchvision takes seconds.

    return vgg16().features, _image(side, side)


class _RoundTrip(nn.Module):
    """Encode and, where `back`, decode: what one forward pass of an autoencoder means here."""

    def __init__(self, config: TokenizerStage, *, back: bool = True) -> None:
        super().__init__()
        self.autoencoder, self.back = config.build(), back

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        latent = self.autoencoder.encode(images).mode()
        return self.autoencoder.decode(latent) if self.back else latent


def _image(height: int, width: int) -> tuple[torch.Tensor]:
    return (torch.empty(1, 3, height, width, device="meta"),)


_cache: dict[str, tuple[int, float]] = {}


def _measured(config: Any, forward: Forward) -> tuple[int, float]:
    """Parameters, and FLOPs of one image's forward pass, of a network built on the meta device."""
    key = _network_key(config)
    if key not in _cache:
        with torch.device("meta"):
            network, arguments = forward()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network.eval()(*arguments)
        _cache[key] = num_parameters(network), float(counter.get_total_flops())
    return _cache[key]


def _network_key(config: Any) -> str:
    """What stands for a network's shape: its configuration without how it is trained.

    A sweep over seeds has one network in many stages, and building it takes a second.
    """
    return json.dumps(_shape_of(json.loads(canonical_json(config))), sort_keys=True)


def _shape_of(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_shape_of(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: _shape_of(value) for name, value in tree.items() if name not in OF_TRAINING}


def _forward_flops(key: Any, forward: Forward) -> float:
    return _measured(key, forward)[1]
