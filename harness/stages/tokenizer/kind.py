"""The configuration of the stage `tokenizer`, and the contract of a kind of tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from harness.config.data import DataConfig
from harness.config.encoders import AlignmentEncoder
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.trial import Trial
from harness.data.missing import MissingItem
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.stages.encoder import EncoderStage
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact
from models.autoencoder import Autoencoder
from models.diffusers_autoencoder import DiffusersAutoencoder

AnyAutoencoder = Autoencoder | DiffusersAutoencoder
"""A network that encodes images and decodes latents."""


@dataclass(frozen=True, kw_only=True)
class TokenizerStage:
    """Configuration of the stage; its other input is the encoder that it is aligned with."""

    tokenizer: AnyTokenizerConfig
    data: DataConfig
    perceptual_weights: str
    """Hashes of the weights of LPIPS; empty without it."""
    checkpoint: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of the file of trained weights; empty where they are trained here."""


@dataclass(frozen=True, kw_only=True)
class TokenizerKind:
    """All that stages know of one kind of tokenizer; the arguments are its own configuration's."""

    stage: Callable[[Trial], TokenizerStage]
    """Says what the stage of a trial's tokenizer reads."""
    build: Callable[[TokenizerStage], AnyAutoencoder]
    """Builds the network with untrained weights."""
    make: Callable[[TokenizerStage, StageContext], Mapping[str, Any]]
    """Trains the network, or copies given weights, into the stage's payload."""
    load: Callable[[TokenizerStage, Artifact], AnyAutoencoder]
    """Builds the network with the weights that `make` has left."""
    missing: Callable[[TokenizerStage], list[MissingItem]]
    """Lists weights that this machine lacks."""
    trained_images: Callable[[TokenizerStage], int]
    """Counts the images that it is trained with here, 0 where its weights are given."""
    training_flops: Callable[[TokenizerStage, EncoderStage | None, float], float]
    """Estimates its training here; the last argument is the FLOPs of an image's way through it."""
    aligned_with: Callable[[Trial], AlignmentEncoder | None]
    """Names the frozen network that its training looks to."""
    built_from_files: bool = False
    """Whether the network cannot be built where the files of its weights are absent."""


def memory_format(
    device: torch.device, channels_last: bool | Literal["auto"] = "auto"
) -> torch.memory_format:
    """How images and convolutions lie in memory; moves rounding only. `auto`: last on CUDA."""
    wanted = device.type == "cuda" if channels_last == "auto" else channels_last
    return torch.channels_last if wanted else torch.contiguous_format
