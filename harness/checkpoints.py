"""Checkpoints of a training stage: safetensors files, the last two kept, checked by their hash."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.store import file_sha256, write_json, write_tensors

KEPT = 2
"""Checkpoints kept of one stage."""


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write the state after `step` steps and drop all but the last two.

    Args:
        folder: The stage's checkpoint folder.
        step: Steps done.
        state: Nested mappings and lists of tensors and JSON scalars (state dicts of modules and
            optimisers).
    """
    tensors: dict[str, Tensor] = {}
    tree = _detach(state, "state", tensors)
    path = (folder / _seal_name(step)).with_suffix(".safetensors")
    temporary = path.with_suffix(".tmp")
    write_tensors(temporary, tensors)
    seal = {"step": step, "tree": tree, "sha256": file_sha256(temporary)}
    temporary.replace(path)
    write_json(path.with_suffix(".json"), seal)
    for old in _sealed(folder)[KEPT:]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path, step: int | None = None) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is whole: steps done and state; None where there is none.

    A truncated or altered file is passed over in favour of the one before.

    Args:
        folder: The stage's checkpoint folder.
        step: Take the one after this many steps, or none.
    """
    for seal_path in _sealed(folder):
        if step is not None and seal_path.name != _seal_name(step):
            continue
        tensor_path = seal_path.with_suffix(".safetensors")
        try:
            seal = json.loads(seal_path.read_text(encoding="utf-8"))
            if file_sha256(tensor_path) != seal["sha256"]:
                continue
            return int(seal["step"]), _attach(seal["tree"], load_file(tensor_path))
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    return None


def _seal_name(step: int) -> str:
    return f"step-{step:09d}.json"


def _sealed(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.json"), reverse=True)


def _detach(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by their names; keep the kind of keys that JSON would turn into text."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [[k, _detach(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        return {"mapping": items}
    if isinstance(value, list | tuple):
        return {"list": [_detach(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    return {"value": value}


def _attach(node: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "mapping":
        return {key: _attach(value, tensors) for key, value in content}
    if kind == "list":
        return [_attach(value, tensors) for value in content]
    return content
