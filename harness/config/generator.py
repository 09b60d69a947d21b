"""Every kind of generator that a trial can have: its configuration and training."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness.config.generator_settings import GeneratorBase, REPAWith
from harness.config.python_generator import PythonGeneratorConfig
from harness.config.training import TrainingConfig
from harness.config.weights import (
    Provenance,
    RowWeights,
    describe_file,
    file_of,
    missing_checkpoint,
    start_words,
)
from harness.data.missing import MissingItem
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from harness.schema.kinds import Kinds
from harness.schema.reading import ConfigError
from models.ema import EmaConfig
from models.latent import AnyLayout, LatentLayout
from models.lightningdit import LightningDiTConfig
from models.objectives.flow import FlowConfig
from models.repa import NoREPA


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(GeneratorBase):
    """What a trial says of a generator of any kind that is trained on latents; a kind is a frozen
    dataclass that adds a field `kind` and fields of its own."""

    ema: EmaConfig = field(default_factory=EmaConfig)
    """Moving average of the weights; samples are drawn from it."""
    training: TrainingConfig
    """Length and optimiser."""
    snapshots: tuple[int, ...] = ()
    """Steps at which the moving average is kept for evaluation, beside the last one."""
    validation_batches: int = field(default=0, metadata=KEY_UNLESS_DEFAULT)
    """Batches of latents that are held out of the training, spread evenly over the set; each point
    of its curve then has their loss too. 0: all are learnt from."""
    checkpoint: str | None = field(default=None, metadata=NO_KEY)
    """Official file to take the averaged weights from; nothing is trained then, and the other
    fields say how the file was. Its hash enters the key, its path does not."""
    checkpoint_entry: str | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """Entry of that file, or of `initial_weights`, that holds the weights, e.g. `ema`; absent: the
    first that is there of the names in use (`models.checkpoint.ENTRIES`)."""
    initial_weights: RowWeights | str | None = field(default=None, metadata=NO_KEY)
    """Weights that the training starts from, as far as names and shapes fit: an official file, a
    snapshot of a training here, or a row, `{results: results/frontier, row: ...}`. Their hash
    enters the key, their place does not."""

    def __post_init__(self) -> None:
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
        if self.checkpoint is not None and self.initial_weights is not None:
            raise ValueError(
                "`initial_weights` must be left out beside `checkpoint`, which is not trained, but "
                "both are given; keep `checkpoint` to take weights as they are, or "
                "`initial_weights` to train on from them"
            )

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """All evaluated steps, the last one included."""
        return (*self.snapshots, self.training.steps)

    @property
    def num_held_out(self) -> int:
        """Latents that are held out of the training."""
        return self.validation_batches * self.training.batch_size

    @property
    def is_given(self) -> bool:
        """Whether a file has its weights."""
        return self.checkpoint is not None

    @property
    def reads_latents(self) -> bool:
        """It is trained on them, or was on such."""
        return True

    def images_at(self, step: int) -> int:
        """Images that it has seen after a training step."""
        return step * self.training.batch_size

    @property
    def origin(self) -> str:
        """The files that it takes weights from."""
        if self.checkpoint is not None:
            return f"from {Path(self.checkpoint).name}"
        return "" if self.initial_weights is None else start_words(self.initial_weights)

    @property
    def identity(self) -> "GeneratorSettings":
        """The configuration with the file of a row that the training starts from."""
        return replace(self, initial_weights=self._start)

    @property
    def _start(self) -> str | None:
        return file_of(self.initial_weights, "generator")

    @property
    def provenance(self) -> Provenance:
        """Where its weights and its recipe come from."""
        return "reproduced" if self.checkpoint is None else "published"

    def describe(self) -> Mapping[str, str]:
        """Hashes of the files that it takes from elsewhere, for keys; without those not given."""
        files = {"checkpoint": self.checkpoint, "initial_weights": self._start}
        return {name: describe_file(path) for name, path in files.items() if path is not None}

    def missing(self, path: str = "generator") -> list[MissingItem]:
        """The files of its weights."""
        what, start = "the generator's weights", "the weights that the generator starts from"
        return [
            *missing_checkpoint(what, self.checkpoint, f"{path}.checkpoint"),
            *missing_checkpoint(start, self._start, f"{path}.initial_weights"),
        ]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(LightningDiTConfig, GeneratorSettings):
    """A LightningDiT and its training by flow matching."""

    samplers: ClassVar[tuple[str, ...]] = ("euler", "heun", "dopri5", "ab2", "dpmpp_2m")
    guidances: ClassVar[tuple[str, ...]] = ("none", "cfg", "autoguidance")

    flow: FlowConfig = field(default_factory=FlowConfig)
    """Path, time density and loss."""
    repa: Annotated[NoREPA | REPAWith, Field(discriminator="kind")] = field(
        default=NoREPA(), metadata=KEY_UNLESS_DEFAULT
    )
    """Alignment of its tokens with a foundation model."""

    def __post_init__(self) -> None:
        LightningDiTConfig.__post_init__(self)
        GeneratorSettings.__post_init__(self)
        if isinstance(self.repa, REPAWith) and self.repa.block > self.shape.depth:
            raise ValueError(
                f"`repa.block` must be at most the depth {self.shape.depth}, but got "
                f"{self.repa.block}; tap an earlier block"
            )

    def embedded_groups(self, layout: LatentLayout) -> tuple[int, ...]:
        """The groups that have a time embedder, in the order of the embedders."""
        names = [group.name for group in layout.groups]
        if self.time_groups == "by_offset" and self.flow.offset and self.flow.leading in names:
            lead = names.index(self.flow.leading)
            return lead, *(index for index in range(len(names)) if index != lead)
        return super().embedded_groups(layout)

    def check_weak(self, weak: "GeneratorConfig", layout: AnyLayout) -> None:
        """Refuse a weak model that was trained by another clock: both see the same times."""
        assert isinstance(layout, LatentLayout)
        if weak.flow.clock(layout) != self.flow.clock(layout):
            raise ConfigError(
                f"must be the guided generator's, {self.flow.offset} of {self.flow.leading}, but "
                f"is {weak.flow.offset} of {weak.flow.leading}; leave it out of `weak`",
                path="generator.flow.offset",
            )

    @property
    def size_name(self) -> str:
        """Name of the size, or depth x width x heads of a shape of one's own."""
        if isinstance(self.size, str):
            return self.size
        return f"{self.size.depth}x{self.size.width}x{self.size.num_heads}"

    @property
    def label(self) -> str:
        """Size and patch, and the lead of a group where one has it: `XL/1`, `B/1 offset 0.3`."""
        lead = f" offset {self.flow.offset:g}" if self.flow.offset else ""
        return f"{self.size_name}/{self.patch_size}{lead}"

    @property
    def columns(self) -> Mapping[str, Any]:
        """Kind, size and patch."""
        return {
            "generator": self.kind,
            "generator_size": self.size_name,
            "patch_size": self.patch_size,
        }

    @property
    def token_alignment(self) -> REPAWith | None:
        """REPA, where it is on."""
        return self.repa if isinstance(self.repa, REPAWith) else None

    def check(self, layout: LatentLayout) -> None:
        """Refuse a grid that patches don't tile, and times that the latent's groups don't have."""
        patch, sides = self.patch_size, (layout.height, layout.width)
        if any(side % patch for side in sides):
            fitting = (p for p in range(1, min(*sides, patch) + 1) if not any(s % p for s in sides))
            raise ConfigError(
                f"must divide the latent side {layout.height} (data.resolution / the tokenizer's "
                f"downsampling), but got {patch}; use {max(fitting)}",
                path="patch_size",
            )
        flow, names = self.flow, [group.name for group in layout.groups]
        asked = {
            "flow.group_times": flow.group_times == "independent",
            "flow.offset": flow.offset != 0,
            "time_groups": self.time_groups not in ("each", "by_offset"),
        }
        for path, changed in asked.items():
            if changed and layout.num_groups == 1:
                raise ConfigError(
                    f"must be left out where the tokenizer's latent has one channel group "
                    f"({layout.groups[0].name}), which has one time, but is set; it is for "
                    "tokenizers with several",
                    path=path,
                )
        named = {"flow.group_weights": flow.group_weights or {}}
        named |= {"flow.leading": [flow.leading]} if flow.offset else {}
        for path, asked_names in named.items():
            if strangers := [name for name in asked_names if name not in names]:
                raise ConfigError(
                    f"must name channel groups of the latent ({', '.join(names)}), but got "
                    f"{', '.join(strangers)}; use one of them, or a tokenizer that has it",
                    path=path,
                )
        try:
            embedders = len(self.embedded_groups(layout))
        except ValueError as error:
            raise ConfigError(str(error), path="time_groups") from error
        if flow.own_times and embedders == 1:
            value = getattr(flow, flow.own_times)
            raise ConfigError(
                "must be left out where one embedder sees the time of all groups "
                f"(generator.time_groups: {self.time_groups}), but is {value}; leave that out, so "
                "that each group has one",
                path=f"flow.{flow.own_times}",
            )
        if self.shape.width % embedders:
            raise ConfigError(
                f"must have a width that is a multiple of its {embedders} time embedders, one for "
                f"each channel group of the latent, but is {self.shape.width} wide; use another "
                "size, or generator.time_groups: shared",
                path="size",
            )


GENERATORS: Kinds[Any] = Kinds("generator", GeneratorBase, default="lightningdit")
"""Every kind of generator; a block that names none is a LightningDiT. `harness.stages.generator`
says how each is trained and drawn from."""
GENERATORS.add("lightningdit", GeneratorConfig)
GENERATORS.add("python", PythonGeneratorConfig)

AnyGeneratorConfig = Annotated[GeneratorBase, GENERATORS]
"""A generator of any kind."""
