"""A training that starts from the weights of a file, as far as they fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness.config.weights import check_file
from models.checkpoint import load_fitting


def start_from(
    model: nn.Module, tensors: Mapping[str, Tensor], path: Path, described: str
) -> dict[str, Any]:
    """Take what fits of a file's tensors; tells in the log what was left and why.

    Args:
        model: The network to be trained.
        tensors: The file's, under the network's own names.
        path: The file.
        described: What identified it when the training was planned.

    Returns:
        The part of the stage's result that says the same.

    Raises:
        ValueError: The file is another than planned with, or nothing of it fits.
    """
    check_file(str(path), described)
    left = load_fitting(model, tensors, source=str(path))
    num_loaded = sum(name not in left for name in tensors)
    print(f"initial weights: {num_loaded} tensors of {path} loaded, {len(left)} not")
    for name, why in left.items():
        print(f"  {name}: {why}")
    source = f"{path.name}, {described}"
    return {"initial_weights": {"file": source, "num_loaded": num_loaded, "left": left}}
