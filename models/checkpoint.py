"""Reading and writing checkpoints in the official layouts of VA-VAE and LightningDiT.

Everything that is read is data: safetensors, or torch files with `weights_only=True`. Loading is
strict, and a name or shape that does not fit is an error that lists it; a training may start from
what fits of a file.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.autoencoder import Autoencoder

TRAINING_ONLY_PREFIXES = ("loss.", "foundation_model.", "linear_proj.")
"""Entries of a tokenizer checkpoint that inference does not need."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that distributed training and compilation put before every name."""
MAX_LISTED = 20


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a safetensors or torch file into a (possibly nested) dictionary on the CPU.

    Raises:
        ValueError: if the file is absent or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"a checkpoint must be a file, but {path} is not; correct the path")
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"a checkpoint must hold tensors and plain values only, but {path} holds other "
            f"objects ({error}); extract its state dict and save that, as safetensors if possible"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"a checkpoint must be a dictionary, but {path} holds a {type(content).__name__}; "
            "save the state dict"
        )
    return content


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a bare state dict, or the one under the key `state_dict`."""
    content = read_checkpoint(path)
    return _only_tensors(content.get("state_dict", content), str(path))


def _only_tensors(state: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    strangers = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(
            f"a state dict must hold tensors only, but {source} also holds {_listed(strangers)}; "
            "give the state dict itself"
        )
    return dict(state)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module whose names and shapes they must match exactly.

    Raises:
        ValueError: if a name is missing or foreign or a shape differs; all are listed.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    foreign = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if missing or foreign or misshapen:
        raise ValueError(
            f"names and shapes in {source} must match the {type(module).__name__}, but "
            f"missing: {_listed(missing)}; foreign: {_listed(foreign)}; of another shape: "
            f"{_listed(misshapen)}; change the configuration to the checkpoint's"
        )
    module.load_state_dict(dict(tensors))


def load_fitting(
    module: nn.Module, tensors: Mapping[str, Tensor], *, source: str
) -> dict[str, str]:
    """Copy the tensors into a module that have a name and shape of it; the rest stays as it is.

    Returns:
        Name of each tensor that was not copied, of the module or of the file -> why.

    Raises:
        ValueError: if not one fits.
    """
    expected, left = module.state_dict(), {}
    for name, own in expected.items():
        if name not in tensors:
            left[name] = "not in the file"
        elif tensors[name].shape != own.shape:
            left[name] = f"{tuple(tensors[name].shape)} in the file, {tuple(own.shape)} here"
    left |= {name: "not in the network" for name in tensors if name not in expected}
    fitting = {name: tensors[name] for name in expected if name not in left}
    if not fitting:
        raise ValueError(
            f"{source} must hold tensors that fit the {type(module).__name__}, but none does: "
            f"{_listed([f'{name} ({why})' for name, why in left.items()])}; give the weights of "
            "such a network"
        )
    module.load_state_dict(fitting, strict=False)
    return left


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED]) or "none"
    return shown + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def load_tokenizer(autoencoder: Autoencoder, path: str | Path) -> None:
    """Load an official or Lightning-style tokenizer file.

    Raises:
        ValueError: if its tensors do not fit the autoencoder exactly.
    """
    load_strictly(autoencoder, read_tokenizer(path), source=str(path))


def read_tokenizer(path: str | Path) -> dict[str, Tensor]:
    """Read an official or Lightning-style tokenizer file; training-only entries are dropped."""
    return {
        name: value
        for name, value in read_tensors(path).items()
        if not name.startswith(TRAINING_ONLY_PREFIXES)
    }


def export_tokenizer(autoencoder: Autoencoder, path: str | Path) -> None:
    """Write a tokenizer: safetensors by that suffix, else a torch file with `state_dict`."""
    tensors = _owned(autoencoder.state_dict())
    if Path(path).suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors}, path)


def read_generator(
    path: str | Path, *, weights: Literal["ema", "model"] = "ema"
) -> dict[str, Tensor]:
    """Read an official generator checkpoint, or a bare state dict.

    Args:
        path: file to read.
        weights: which entry is taken of a checkpoint that has both.

    Raises:
        ValueError: if the entry is absent.
    """
    content = read_checkpoint(path)
    if any(isinstance(content.get(entry), dict) for entry in ("ema", "model")):
        if not isinstance(content.get(weights), dict):
            raise ValueError(
                f"{path} must hold the entry `{weights}`, but it holds {_listed(list(content))}; "
                "load the other entry"
            )
        content = content[weights]
    tensors = _only_tensors(content, str(path))
    return {_without_wrappers(name): value for name, value in tensors.items()}


def export_generator(model: nn.Module, path: str | Path, *, ema: nn.Module | None = None) -> None:
    """Write a generator in the official layout.

    A torch file holds `model`, whose names carry the prefix `module.`, and `ema` (the model itself
    where no average is given). A safetensors file holds the bare names of the average.
    """
    current = _owned(model.state_dict())
    averaged = current if ema is None else _owned(ema.state_dict())
    if Path(path).suffix == ".safetensors":
        save_file(averaged, path)
    else:
        prefixed = {f"module.{name}": value for name, value in current.items()}
        torch.save({"model": prefixed, "ema": averaged}, path)


def _owned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _without_wrappers(name: str) -> str:
    while name.startswith(WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name
