"""The reference of generated images: the training split, a file of statistics, other images."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from harness.config.weights import describe_file
from harness.data.image_sets import ImageSetConfig, open_image_set
from harness.schema.keys import NO_KEY
from harness.schema.reading import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingSplit:
    """Generated images are held to the training split of the data set."""

    kind: Literal["training_split"] = "training_split"


@dataclass(frozen=True, kw_only=True)
class StatisticsFile:
    """Generated images are held to statistics that others made: ADM's or pytorch-fid's `.npz`,
    torch-fidelity's `.pt`, or `.safetensors` of this program."""

    kind: Literal["statistics_file"] = "statistics_file"
    path: str = field(metadata=NO_KEY)
    """The file; its hash enters the key, its path does not."""
    num_images: int | None = None
    """Images behind the statistics; needed where the file does not say (ADM's ImageNet reference:
    1,281,167)."""

    def __post_init__(self) -> None:
        if self.num_images is not None and self.num_images < 2:
            raise ValueError(
                f"`num_images` must be at least 2, but got {self.num_images}; give the number of "
                "images behind the statistics"
            )


@dataclass(frozen=True, kw_only=True)
class ReferenceImages:
    """Generated images are held to a set of images: a folder, an archive, or another split."""

    kind: Literal["images"] = "images"
    images: Annotated[ImageSetConfig, Field(discriminator="kind")]
    """Where they are."""


ReferenceSource = Annotated[
    TrainingSplit | StatisticsFile | ReferenceImages, Field(discriminator="kind")
]
"""Every kind of reference."""


def describe_source(source: ReferenceSource) -> str:
    """Hash or fingerprint of a reference; empty for the training split, `absent` if missing."""
    if isinstance(source, StatisticsFile):
        return describe_file(source.path)
    if isinstance(source, ReferenceImages):
        if source.images.missing():
            return "absent"
        try:
            return f"images {open_image_set(source.images).fingerprint()}"
        except ValueError as error:
            raise ConfigError(str(error), path="evaluation.reference.images") from error
    return ""
