"""The configuration of the stage `generator`, and the contract of a kind of generator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from harness.config.data import Crop, DataConfig
from harness.config.generator import AnyGeneratorConfig
from harness.data.latents.training_set import LatentSet, Precision
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.stages.running.context import StageContext
from harness.storage.artifacts import Artifact
from models.checkpoint import Weights, read_tensors
from models.compilation import compile_in_place
from models.latent import AnyLayout
from models.objectives.objective import Objective


@dataclass(frozen=True, kw_only=True)
class GeneratorStage:
    """Configuration of the stage; its other input is the latents."""

    generator: AnyGeneratorConfig
    layout: AnyLayout
    num_classes: int
    data: DataConfig | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """Images behind the latents, where tokens are aligned with their features."""
    crop: Crop = field(default="training", metadata=KEY_UNLESS_DEFAULT)
    """Crop and resize of these images."""
    checkpoint: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of the file of trained weights; empty where they are trained here."""
    initial_weights: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """Hash of the file of weights that a training starts from; empty where it starts anew."""
    latent_precision: Precision = field(default="fp32", metadata=KEY_UNLESS_DEFAULT)
    """Precision to which latents are rounded before the generator reads them."""
    resolution: int = field(default=0, metadata=KEY_UNLESS_DEFAULT)
    """Side of the images of a generator that draws images, in pixels; 0 for latents."""
    until: int = field(default=0, metadata=KEY_UNLESS_DEFAULT)
    """Step after which the training is left, for a longer one to go on from; 0: its last."""

    @property
    def steps(self) -> int:
        """Step of its last weights."""
        return self.until or self.generator.snapshot_steps[-1]

    @property
    def learns_representations(self) -> bool:
        """Whether training here aligns tokens with an encoder's features."""
        return self.generator.token_alignment is not None and not self.checkpoint


@runtime_checkable
class Draw(Protocol):
    """Draws normalised latents, or indices, with a trained generator."""

    def __call__(
        self,
        model: Any,
        labels: Int64[Tensor, " b"],
        random: torch.Generator,
        sampler: Any,
        guidance: Any,
        weak: Any | None = None,
        slices: int = 1,
    ) -> Tensor:
        """Draw one latent for each label, or one image in [-1, 1] where its settings say so.

        Args:
            model: What `build` gives, with trained weights and in evaluation mode.
            labels: Classes asked for, on the device of `random`.
            random: The only source of randomness.
            sampler: Of a kind that its settings list under `samplers`.
            guidance: Of a kind that its settings list under `guidances`.
            weak: The weaker model, of the same kind, under AutoGuidance.
            slices: Parts in which networks see the batch, where memory is short.
        """
        ...


def list_blocks(network: Any) -> Sequence[nn.Module]:
    """The blocks of a network that has them under this name."""
    return list(network.blocks)


def not_trained(config: GeneratorStage) -> Objective:
    """The objective of a kind that has none."""
    raise AssertionError(f"a generator of kind {config.generator.kind!r} is not trained")


@dataclass(frozen=True, kw_only=True)
class GeneratorKind:
    """All that stages and benchmarks know of one kind of generator.

    What a sweep file needs of it without its network (checks, label, columns, provenance, which
    samplers and guidance it takes) is said by its settings, `harness.config.generator`.
    """

    name: str
    """What people call it."""
    build: Callable[[GeneratorStage], nn.Module]
    """Builds the network with untrained weights, for a latent and a number of classes."""
    draw: Draw
    evaluations: Callable[[GeneratorStage, Any, Any], float | None]
    """Network evaluations a sample, those that guidance adds included and those of a weaker model
    not, in units of the network at its full size; None where a solver chooses its steps."""
    size: Callable[[GeneratorStage], tuple[int, float]]
    """Counts parameters, and FLOPs of one evaluation of one image at full size, on meta."""
    kept: Callable[[GeneratorStage], tuple[float, float]] | None = None
    """Bytes that a training in fp32 keeps of one image for its backward pass, and those where its
    blocks are computed again; None: not known."""
    blocks: Callable[[Any], Sequence[nn.Module]] | None = None
    """Its layers of one size, which a training may compute again for its backward pass, or
    keep in shards."""
    objective: Callable[[GeneratorStage], Objective] = not_trained
    """What it is trained by, step by step along a gradient; absent where `make` does it all."""
    measure: Callable[[Any, LatentSet], Any] = lambda objective, _latents: objective
    """Gives the objective what it must know of the latents before the first step."""
    training_share: Callable[[GeneratorStage], float] = lambda _config: 1.0
    """FLOPs of a training step's forward pass in units of one evaluation, on average."""
    make: Callable[[GeneratorStage, StageContext], Mapping[str, Any]] | None = None
    """Makes its payload in place of that training, and the stage's result."""
    load: Callable[[GeneratorStage, Artifact], nn.Module] | None = None
    """Builds the network with what `make` has left."""
    check: Callable[[GeneratorStage], Any] = lambda _config: None
    """Refuses what its network does not keep to, at planning, with the key path below
    `generator`."""
    read_checkpoint: Callable[..., Weights] = read_tensors
    """Reads the (averaged) weights of an official file, under the network's own names; takes a
    path, `entry` and `headers` as `models.checkpoint.read_tensors` does."""
    complete: Callable[[GeneratorStage, Weights], None] = lambda _config, _weights: None
    """Adds to such weights what the network has and the file's lacks, since nothing uses it."""
    compile: Callable[[Any], None] = compile_in_place
    token_side: Callable[[GeneratorStage], int] | None = None
    """Side of the token grid that features are brought to, of a kind whose tokens can be aligned
    with them. Such a network has `grid`, `token_width` and `forward_with_tap`."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Name -> settings of that size, which benchmarks measure, small ones first."""
    smallest: Any = None
    """Settings of a size that stands for any in benchmarks where only its place in the chain
    matters; None: no other than the trial's."""
    resized: Callable[[Any, Any], Any] = lambda settings, like: settings
    """Gives settings the size of others."""

    def __post_init__(self) -> None:
        if self.objective is not_trained and (self.make is None or self.load is None):
            raise ValueError(
                f"the generator kind of {self.name} must have an `objective`, or `make` and "
                "`load`, but has neither; say how it is trained, or made"
            )
