"""The configuration of the stage `tokenizer`, and the contract of a kind of tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from harness.config.data import DataConfig
from harness.config.tokenizer import TOKENIZERS, AnyTokenizerConfig
from harness.config.trial import Trial
from harness.data.missing import MissingItem
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.schema.reading import ConfigError
from harness.stages.running.context import StageContext
from harness.stages.stage import Activations, Stage
from harness.storage.artifacts import Artifact
from models.tokenizer import TokenizerNetwork


@dataclass(frozen=True, kw_only=True)
class TokenizerStage:
    """Configuration of the stage; its inputs are what its kind needs."""

    tokenizer: AnyTokenizerConfig
    data: DataConfig
    perceptual_weights: str
    """Hashes of the weights of LPIPS; empty without it."""
    checkpoint: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of the weights that are given; empty where they are trained here."""
    initial_weights: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of the file that a training here starts from; empty without one."""


@dataclass(frozen=True, kw_only=True)
class TokenizerKind:
    """All that stages know of one kind of tokenizer; the arguments are its own configuration's."""

    stage: Callable[[Trial], TokenizerStage]
    """Says what the stage of a trial's tokenizer reads."""
    build: Callable[[TokenizerStage], TokenizerNetwork]
    """Builds the network with untrained weights."""
    make: Callable[[TokenizerStage, StageContext], Mapping[str, Any]]
    """Trains the network, or copies given weights, into the stage's payload. Its result has
    `parameters`, and `images`, those that it was trained with, None where nobody knows."""
    load: Callable[[TokenizerStage, Artifact], TokenizerNetwork]
    """Builds the network with the weights that `make` has left."""
    check_given: Callable[[TokenizerStage], None] = lambda _config: None
    """Refuses files of weights, by their headers, that the network does not fit."""
    missing: Callable[[TokenizerStage, str], list[MissingItem]] = lambda _config, _path: []
    """Lists weights that this machine lacks; the second argument is the tokenizer's key path."""
    needs: Callable[[Trial], Mapping[str, Stage]] = lambda _trial: {}
    """Names the stages whose artifacts `make` and `load` read: encoders, or other tokenizers."""
    trained_images: Callable[[TokenizerStage], int] = lambda _config: 0
    """Counts the images that it is trained with here, 0 where its weights are given."""
    training_flops: Callable[[TokenizerStage, Mapping[str, Stage], float], float] = (
        lambda _config, _inputs, _forward: 0.0
    )
    """Estimates its training here; the last argument is the FLOPs of an image's way through it."""
    activations: Callable[[TokenizerStage], Activations | None] = lambda _config: None
    """Estimates what its training here holds on the device beside its state."""
    measured: str = ""
    """Name of the input that decodes its latents, and whose reconstructions stand for its own;
    empty: it decodes them itself."""
    built_from_files: bool = False
    """Whether the network cannot be built where the files of its weights are absent."""


def kind_of(config: AnyTokenizerConfig) -> TokenizerKind:
    """Look up the kind of a configuration."""
    return TOKENIZERS.of(config, TokenizerKind)


def stage_of(trial: Trial) -> Stage:
    """The stage of a trial's tokenizer."""
    kind = kind_of(trial.tokenizer)
    config = kind.stage(trial)
    if not isinstance(config, TokenizerStage):
        raise ConfigError(
            f"`stage` of the kind {trial.tokenizer.kind!r} must return a TokenizerStage, but "
            f"returned {config!r}; correct it",
            path="trial.tokenizer",
        )
    return Stage(
        kind="tokenizer", config=config, inputs=kind.needs(trial), label=trial.tokenizer.label
    )


def measured_stage(tokenizer: Stage) -> Stage:
    """The stage whose reconstructions are those of a tokenizer: mostly its own."""
    name = kind_of(tokenizer.config.tokenizer).measured
    return tokenizer.inputs[name] if name else tokenizer


def config_of(artifact: Artifact) -> TokenizerStage:
    """The configuration of a tokenizer's artifact."""
    return TypeAdapter(TokenizerStage).validate_python(artifact.record["config"])


def network_of(artifact: Artifact) -> TokenizerNetwork:
    """The network of an artifact."""
    config = config_of(artifact)
    return kind_of(config.tokenizer).load(config, artifact)


def memory_format(
    device: torch.device, channels_last: bool | Literal["auto"] = "auto"
) -> torch.memory_format:
    """How images and convolutions lie in memory; moves rounding only. `auto`: last on CUDA."""
    wanted = device.type == "cuda" if channels_last == "auto" else channels_last
    return torch.channels_last if wanted else torch.contiguous_format
