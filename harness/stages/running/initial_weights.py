"""Networks whose weights come from a file, and trainings that start from one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config.weights import check_file
from harness.schema.reading import ConfigError
from models.checkpoint import Weights, load_fitting, load_strictly


def compare_headers(
    settings: Any, part: str, build: Callable[[], nn.Module], read: Callable[..., Weights]
) -> None:
    """Refuse given files at hand that cannot be read, or whose names and shapes are not the
    network's.

    Args:
        settings: May have `checkpoint`, `initial_weights` and `checkpoint_entry`.
        read: Reads a file as `models.checkpoint.read_tensors` does.
    """
    for field, load in (("checkpoint", load_strictly), ("initial_weights", load_fitting)):
        path = Path(getattr(settings, field, None) or "").expanduser()
        # A file that is absent is named among what is missing.
        if not path.is_file():
            continue
        try:
            headers = read(path, entry=getattr(settings, "checkpoint_entry", None), headers=True)
            with torch.device("meta"):
                load(build(), headers, source=str(path))
        except ValueError as error:
            raise ConfigError(str(error), path=f"trial.{part}.{field}") from error


def described(weights: Weights, path: Path) -> str:
    """A line for the log: what was read of a file and what was left out."""
    entry = f"entry `{weights.entry}` of " if weights.entry else ""
    left = f", without {', '.join(weights.left_out)}" if weights.left_out else ""
    return f"weights: {len(weights)} tensors, {entry}{path}{left}"


def start_from(
    model: nn.Module, tensors: Mapping[str, Tensor], path: Path, described: str
) -> dict[str, Any]:
    """Take what fits of a file's tensors; the log and the part of the stage's result that is given
    tell what was left out and why."""
    check_file(str(path), described)
    left = load_fitting(model, tensors, source=str(path))
    num_loaded = sum(name not in left for name in model.state_dict())
    print(f"initial weights: {num_loaded} tensors of {path} loaded, {len(left)} not")
    for name, why in left.items():
        print(f"  {name}: {why}")
    source = f"{path.name}, {described}"
    return {"initial_weights": {"file": source, "num_loaded": num_loaded, "left": left}}
