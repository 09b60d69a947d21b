"""Objects of the user's own, of any part: their weights in an artifact, and what they return."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.schema.imported import Target, code_of
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Artifact

T = TypeVar("T", bound=Target)

TOLERANCE = 0.5
"""How far a value of an image may lie outside the declared range, as a share of it."""


def keep_weights(settings: Target, payload: Path) -> None:
    """Copy the file of weights, where there is one: it cannot change under the results then."""
    if settings.weights is not None:
        given = Path(settings.weights).expanduser()
        shutil.copyfile(given, payload / f"weights{given.suffix}")


def with_kept_weights(settings: T, artifact: Artifact) -> T:
    """The settings with the weights that `keep_weights` has copied."""
    copied = [name for name in artifact.record["files"] if name.startswith("weights")]
    return replace(settings, weights=str(artifact.file(copied[0]))) if copied else settings


def origin_of(settings: Target) -> str:
    """What builds it, and what identifies its code and weights."""
    told = ", ".join(f"{name} {described}" for name, described in code_of(settings).items())
    return f"{settings.target}, {told}"


def require_floats(found: Any, said: str, device: torch.device, what: str = "a") -> None:
    """Refuse what is no tensor of floating-point numbers, or lies on another device."""
    if not isinstance(found, Tensor) or not found.is_floating_point():
        came = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"{said} {what} floating-point tensor, but returned {came}; convert it", path="target"
        )
    if found.device != device:
        raise ConfigError(
            f"{said} {what} tensor on {device}, where its input is, but returned one on "
            f"{found.device}; keep it there",
            path="target",
        )


def require_range(images: Tensor, image_range: tuple[float, float], who: str) -> None:
    """Refuse images that lie far outside their declared range."""
    if float(images.abs().max()) > 1.0 + 2.0 * TOLERANCE:
        low, high = image_range
        scale = (high - low) / 2.0
        lowest, highest = (float(each + 1.0) * scale + low for each in images.aminmax())
        raise ConfigError(
            f"{who} must return images in [{low:g}, {high:g}], but returned values in "
            f"[{lowest:g}, {highest:g}]; correct `image_range`",
            path="image_range",
        )
