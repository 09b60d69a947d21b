"""A generator of the user's own, trained already: a function from labels to latents or images."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.config.generator_settings import GeneratorBase
from harness.config.weights import missing_checkpoint
from harness.data.missing import MissingItem
from harness.schema.imported import Target


@dataclass(frozen=True, kw_only=True)
class PythonGeneratorConfig(Target, GeneratorBase):
    """A function that draws samples; nothing is trained.

    `target` builds it. It is called with labels [b] and a `torch.Generator`, its only source of
    random numbers, both on the device, and returns what `output` says. Steps, guidance and the
    like are its own: they are `args`. An `nn.Module` is moved to the device and put into evaluation
    mode.
    """

    kind: Literal["python"] = "python"
    output: Literal["latents", "images"] = "latents"
    """`latents`: [b, c, h, w] as the trial's tokenizer decodes them, not normalised. `images`:
    [b, 3, h, w] in `image_range`; the tokenizer then has no part in the samples."""
    image_range: tuple[float, float] = (-1.0, 1.0)
    """Values of black and white in images that it returns: [-1, 1], [0, 1], [0, 255]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.image_range
        if not low < high:
            raise ValueError(
                f"`image_range` must rise, but got {list(self.image_range)}; use that of the "
                "generator, [-1, 1] for instance"
            )

    @property
    def draws(self) -> Literal["latents", "images"]:
        """As declared."""
        return self.output

    @property
    def label(self) -> str:
        """What builds it, and its arguments."""
        return self.call

    @property
    def columns(self) -> Mapping[str, Any]:
        """Its kind; in place of a size what builds it, and its arguments."""
        return {"generator": self.kind, "generator_size": self.call}

    @property
    def identity(self) -> "PythonGeneratorConfig":
        """The configuration without the seed: noise is the evaluation's."""
        return dataclasses.replace(self, seed=None)

    def missing(self, path: str = "generator") -> list[MissingItem]:
        """The file of weights."""
        return missing_checkpoint("the generator's weights", self.weights, f"{path}.weights")
