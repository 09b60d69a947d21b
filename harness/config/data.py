"""The images of a trial, and the crops that stages read them in."""

from typing import Annotated, Literal

from pydantic import Field

from harness.data import DatasetConfig
from harness.data.pipelines import Pipeline

DataConfig = Annotated[DatasetConfig, Field(discriminator="kind")]
"""Every kind of data set."""

Crop = Pipeline | Literal["training"]
"""A published crop and resize, or the one that the data set names, without its randomness."""


def published(crop: Crop) -> Pipeline | None:
    """The published pipeline, or None for the data set's own."""
    return None if crop == "training" else crop
