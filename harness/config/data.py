"""The images of a trial, and the crops that stages read them in."""

from typing import Literal

from harness.data import DataConfig
from harness.data.pipelines import Pipeline

__all__ = ["Crop", "DataConfig", "published"]

Crop = Pipeline | Literal["training"]
"""A published crop and resize, or the one that the data set names, without its randomness."""


def published(crop: Crop) -> Pipeline | None:
    """The published pipeline, or None for the data set's own."""
    return None if crop == "training" else crop
