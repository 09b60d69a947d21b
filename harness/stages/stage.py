"""A stage: one node of work with declared inputs and one artifact; and the kinds of stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.config.training import TrainingConfig
from harness.data.dataset import DatasetConfig
from harness.data.missing import MissingItem
from harness.schema.imported import code_of
from harness.schema.keys import content_hash
from harness.stages.running.context import StageContext


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected cost of one stage."""

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
    activations: "Callable[[], Activations | None]" = lambda: None
    """Counts what a training here holds beside that; None where it is not known."""

    def __post_init__(self) -> None:
        counts = (self.flops, self.disk_bytes, self.parameters, self.images, self.state_bytes)
        if not all(isinstance(count, int | float) for count in counts):
            raise TypeError(f"counts and sizes must be numbers, but its kind gives {self}")


@dataclass(frozen=True)
class Activations:
    """Device memory that the activations of a training need, in bytes an image in fp32."""

    training: TrainingConfig
    sliced: float
    """Of each image of a slice, while it is computed."""
    held: float = 0.0
    """Of each image of the batch, in however many slices it is computed."""
    unsliced: float = 0.0
    """Of each image besides, where the batch is computed at once."""
    recomputed: float | None = None
    """In place of `sliced`, where blocks are computed again; None: they cannot be."""

    def needed(self, slices: int, workers: int = 1) -> float:
        """Bytes on each worker."""
        own = -(-self.training.batch_size // workers)
        extra = own * self.unsliced if slices == 1 else 0.0
        # Norms keep fp32; as PyTorch's allocator had it on an emulated GPU, for a B.
        low = 0.65 if self.training.precision == "bf16" else 1.0
        return low * (own * self.held + -(-own // slices) * self.sliced + extra)


def nothing_missing(_config: Any, _path: str) -> list[MissingItem]:
    """For kinds that read artifacts only."""
    return []


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """All that the program knows of one kind of stage.

    A kind is one module under `harness.stages`, which also has a function that builds the kind's
    stage of a trial with its inputs, and one line in `harness.stages.registry`.
    """

    version: int
    """Numerics version, part of every key: raised by hand when the numbers of this kind change."""
    run: Callable[[Any, StageContext], Mapping[str, Any]]
    """Writes the payload of a configuration's stage and returns its numbers."""
    estimate: "Callable[[Stage], Estimate]"
    """Says beforehand what a stage costs, from configurations alone."""
    check_given: "Callable[[Stage], None]" = lambda _stage: None
    """Compares files that are given and at hand, by their headers, with what the stage needs of
    them; raises a ConfigError where they do not fit, with the key path."""
    images: Callable[[Any], DatasetConfig | None] = lambda config: getattr(config, "data", None)
    """The data set whose images a configuration's stage reads, if it does."""
    missing: Callable[[Any, str], list[MissingItem]] = nothing_missing
    """Lists what else a configuration needs and this machine lacks: weights, given latents. The
    second argument is the key path of the configuration in the trial, where a kind serves in
    several places."""
    shares_work: bool = True
    """Whether several workers share its work; of one that does not, each would do all of it."""
    compiles: bool = True
    """Whether `resources.<kind>.compile` compiles a network of it."""
    convolves: bool = False
    """Whether it is mostly convolutions, which cuDNN computes in TF32 where fp32 is asked for."""
    in_sweeps: bool = True
    """Whether sweeps have stages of this kind; resources can be given to those that they have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One node of work. Equal keys mean equal artifacts."""

    kind: str
    """Name of the kind, as in `harness.stages.registry`."""
    config: Any
    """The kind's configuration: what the stage reads, and nothing else."""
    inputs: Mapping[str, "Stage"]
    """Stages it depends on, by the name under which it reads their artifacts."""
    label: str
    """A few words for people; they enter no key."""
    whole: "Stage | None" = None
    """The longer training that it is the beginning of, in whose checkpoints it works."""
    code: Mapping[str, str] = field(init=False)
    """Identity of the user's own code and weights behind the configuration; mostly empty."""
    key: str = field(init=False)
    """sha256 of kind, numerics version, configuration, that code and the keys of the inputs."""

    def __post_init__(self) -> None:
        # The modules of the kinds build stages, so they are imported after this one.
        from harness.stages.registry import KINDS

        named = {
            "kind": self.kind,
            "version": KINDS[self.kind].version,
            "config": self.config,
            "inputs": {name: stage.key for name, stage in self.inputs.items()},
        }
        object.__setattr__(self, "code", code_of(self.config))
        object.__setattr__(
            self, "key", content_hash({**named, "code": self.code} if self.code else named)
        )

    @property
    def input_keys(self) -> tuple[str, ...]:
        """Keys of the stages it depends on."""
        return tuple(stage.key for stage in self.inputs.values())

    @property
    def work_key(self) -> str:
        """Key of the work folder that has its checkpoints; whoever runs it holds that lease."""
        return (self.whole or self).key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key
