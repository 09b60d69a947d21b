"""A trial's generator: its configuration, training and representation alignment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from harness.config.encoders import AlignmentEncoder
from harness.config.training import TrainingConfig
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from models.ema import EmaConfig
from models.flow import FlowConfig
from models.lightningdit import LightningDiTConfig
from models.repa import NoREPA, REPAConfig


@dataclass(frozen=True, kw_only=True)
class REPAWith(REPAConfig):
    """Representation alignment of a generator (arXiv 2410.06940) and the network it looks to."""

    encoder: AlignmentEncoder
    """The frozen feature network; it sees the very images behind the latents."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(LightningDiTConfig):
    """A LightningDiT and its training."""

    flow: FlowConfig = field(default_factory=FlowConfig)
    """Path, time density and loss."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """Moving average of the weights; samples are drawn from it."""
    training: TrainingConfig
    """Length and optimiser."""
    snapshots: tuple[int, ...] = ()
    """Steps at which the moving average is kept for evaluation, beside the last one."""
    repa: Annotated[NoREPA | REPAWith, Field(discriminator="kind")] = field(
        default=NoREPA(), metadata=KEY_UNLESS_DEFAULT
    )
    """Alignment of its tokens with a foundation model."""
    checkpoint: str | None = field(default=None, metadata=NO_KEY)
    """Official file to take the averaged weights from; nothing is trained then, and the other
    fields say how the file was. Its hash enters the key, its path does not."""
    seed: int | None = None
    """Seed of weights and batches; absent: the trial's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bad = [step for step in self.snapshots if not 0 < step < self.training.steps]
        if bad or list(self.snapshots) != sorted(set(self.snapshots)):
            raise ValueError(
                f"`snapshots` must be rising steps between 0 and training.steps = "
                f"{self.training.steps}, but got {list(self.snapshots)}; the last is always kept"
            )
        if self.checkpoint is not None and self.snapshots:
            raise ValueError(
                f"a `checkpoint` holds one snapshot, but `snapshots` asks for "
                f"{list(self.snapshots)} too; remove them"
            )
        if isinstance(self.repa, REPAWith) and self.repa.block > self.shape.depth:
            raise ValueError(
                f"`repa.block` must be at most the depth {self.shape.depth}, but got "
                f"{self.repa.block}; tap an earlier block"
            )

    @property
    def size_name(self) -> str:
        """Name of the size, or depth x width x heads of a shape of one's own."""
        if isinstance(self.size, str):
            return self.size
        return f"{self.size.depth}x{self.size.width}x{self.size.num_heads}"

    @property
    def encoders(self) -> Mapping[str, AlignmentEncoder]:
        """The network that its tokens are aligned with."""
        return {"repa.encoder": self.repa.encoder} if isinstance(self.repa, REPAWith) else {}

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """All evaluated steps, the last one included."""
        return (*self.snapshots, self.training.steps)
