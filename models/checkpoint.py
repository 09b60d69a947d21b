"""Reading and writing checkpoints: the layouts of VA-VAE and LightningDiT, and those around them.

Everything that is read is data: safetensors, or torch files with `weights_only=True`. Loading is
strict, and a name or shape that does not fit is an error that lists it; a training may start from
what fits of a file.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.autoencoder import ConvolutionalAutoencoder
from models.repa import HEAD

TRAINING_ONLY_PREFIXES = ("loss.", "foundation_model.", "linear_proj.")
"""Tensors of a tokenizer checkpoint that inference does not need."""
PROJECTION_PREFIXES = ("projectors.", f"{HEAD}.")
"""Tensors of a generator checkpoint that only representation alignment needs."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that distributed training and compilation put before every name."""
TOKENIZER_PREFIX = "first_stage_model."
"""Prefix of the tokenizer in a file of a whole latent diffusion model, whose rest is another."""
ENTRIES = (
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema",
    "state_dict", "model_state_dict", "model", "params", "generator", "net",
)  # fmt: skip
"""Names under which files keep their weights beside other things, those that are averaged first."""
POINTER = b"version https://git-lfs"
"""How the text begins that Git LFS leaves in place of a file that it has not fetched."""
OFFICIAL_NAMES = {
    "t_embedder_sem.": "t_embedder.groups.0_semantic.",
    "t_embedder_tex.": "t_embedder.groups.1_texture.",
}
"""Semantic-First Diffusion's names of a generator's time embedders, in the order in which its
network concatenates them -> ours."""
PLACED = (
    " (attention lies elsewhere: where the file was trained at another image size, give that as "
    "`architecture.attention_placed_for`)"
)
MAX_LISTED = 20


class Weights(dict[str, Tensor]):
    """Name -> tensor of a file, and what the file said beside them."""

    entry: str = ""
    """The entry of the file that held them; empty where they were the whole file."""
    left_out: tuple[str, ...] = ()
    """Values of that entry that are no tensors, and tensors of other networks."""


def read_checkpoint(path: str | Path, *, headers: bool = False) -> dict[str, Any]:
    """Read a safetensors or torch file into a (possibly nested) dictionary, with `headers` names,
    shapes and types alone, on the device `meta`. ValueError where it is absent or damaged, or holds
    more than tensors and plain values."""
    path, device = Path(path), "meta" if headers else "cpu"
    if not path.is_file():
        raise ValueError(f"a checkpoint must be a file, but {path} is not; correct the path")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(
                f"a checkpoint must hold weights, but {path} is a pointer that Git LFS left in "
                "their place; run `git lfs pull` in that folder"
            )
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, headers=headers)
        # What programs of this field keep beside weights; it holds plain values.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location=device, weights_only=True)
    # A damaged file fails in the reader of its archive, its pickle or its tensors, each in its own
    # way; all that the caller must know is which file it was.
    except Exception as error:
        if found := re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error)):
            raise ValueError(
                f"a checkpoint must hold tensors and plain values only, but {path} holds other "
                f"objects ({found[1]}); extract its state dict and save that, as safetensors if "
                "possible"
            ) from error
        raise ValueError(
            f"a checkpoint must be a whole safetensors or torch file, but {path} could not be read "
            f"({type(error).__name__}: {_first_line(error)}); fetch or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"a checkpoint must be a dictionary, but {path} holds a {type(content).__name__}; "
            "save the state dict"
        )
    return content


def _read_safetensors(path: Path, *, headers: bool) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        if not headers:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta")
            for name in file.keys()  # noqa: SIM118
        }


def _first_line(error: Exception) -> str:
    # PyTorch goes on to say how its caller would run the code that a file holds.
    line = str(error).strip().partition("\n")[0].removeprefix("Weights only load failed. ")
    own = line.partition("In PyTorch")[0].partition("This file can still")[0][:200].rstrip(". ")
    return own or "it is cut short, or something else"


def read_tensors(path: str | Path, *, entry: str | None = None, headers: bool = False) -> Weights:
    """Read the weights of a file: a bare state dict, or one of its entries.

    Prefixes of wrappers are taken off the names, and values beside the tensors are left out.

    Args:
        entry: Which entry is taken; None: the first of `ENTRIES` that the file has.
        headers: Give names, shapes and types alone, on the device `meta`.

    ValueError where there is no such entry, or a tensor holds a value that is not finite.
    """
    content = read_checkpoint(path, headers=headers)
    entry, state = _entry(content, str(path), entry)
    left = [f"{entry}.{name}" if entry else name for name in _others(state)]
    named = {_without_wrappers(str(n)): v for n, v in state.items() if isinstance(v, Tensor)}
    inside = {n for n in named if n.startswith(TOKENIZER_PREFIX)}
    if inside:
        left += sorted(named.keys() - inside)
        named = {name.removeprefix(TOKENIZER_PREFIX): named[name] for name in inside}
    weights = Weights(named)
    weights.entry, weights.left_out = entry, tuple(left)
    if not headers:
        check_finite(weights, str(path))
    return weights


def _entry(
    content: Mapping[str, Any], source: str, asked: str | None
) -> tuple[str, Mapping[str, Any]]:
    """The entry of a file that holds the weights, and its name; empty where that is the file."""
    held = {
        name: value
        for name, value in content.items()
        if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values())
    }
    if asked is None and not held and len(_others(content)) < len(content):
        return "", content
    usual = next((name for name in ENTRIES if name in held), None)
    name = usual if asked is None else asked
    if name not in held:
        raise ValueError(
            f"{source} must hold {'weights' if asked is None else f'weights under `{asked}`'}, but "
            f"its entries with tensors are {_listed(list(held))}; name one of them as "
            "`checkpoint_entry`, or give another file"
        )
    return name, held[name]


def _others(state: Mapping[str, Any]) -> list[str]:
    return [str(name) for name, value in state.items() if not isinstance(value, Tensor)]


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not finite, by their names."""
    bad = [
        f"{name} ({int((~value.isfinite()).sum())} of {value.numel()})"
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if bad:
        raise ValueError(
            f"weights must be finite, but {source} has values that are not in {_listed(bad)}; its "
            "training diverged or the file is damaged: take another one"
        )


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module whose names and shapes they must match exactly; ValueError lists
    what is missing, foreign or of another shape."""
    expected = module.state_dict()
    tensors = _unwrapped(tensors, expected)
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
            + (PLACED if any(_is_placed(name) for name in (*missing, *foreign)) else "")
        )
    module.load_state_dict(dict(tensors))


def _unwrapped(tensors: Mapping[str, Tensor], expected: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The tensors without a prefix that all have, as the attribute of a wrapper gives, `model.`."""
    first, ours = (next(iter(names), "") for names in (tensors, expected))
    ends = [first.removesuffix(name) for name in expected if first.endswith(f".{name}")]
    prefix = min(ends, key=len, default="")
    if not prefix or ours in tensors or not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _is_placed(name: str) -> bool:
    return name.startswith(("encoder.", "decoder.")) and ".attn." in name


def load_fitting(
    module: nn.Module, tensors: Mapping[str, Tensor], *, source: str
) -> dict[str, str]:
    """Copy the tensors into a module that have a name and shape of it, at least one; the rest stays
    as it is. Gives the name of each that was not copied, of the module or of the file -> why."""
    expected, left = module.state_dict(), {}
    tensors = _unwrapped(tensors, expected)
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


def read_tokenizer(path: str | Path, *, entry: str | None = None, headers: bool = False) -> Weights:
    """Read the file of a tokenizer; entries that only its training needs are left out."""
    return _without(read_tensors(path, entry=entry, headers=headers), TRAINING_ONLY_PREFIXES)


def export_tokenizer(autoencoder: ConvolutionalAutoencoder, path: str | Path) -> None:
    """Write a tokenizer: safetensors by that suffix, else a torch file with `state_dict`."""
    tensors = _owned(autoencoder.state_dict())
    if Path(path).suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors}, path)


def read_generator(path: str | Path, *, entry: str | None = None, headers: bool = False) -> Weights:
    """Read the file of a generator; heads that only its training needs are left out."""
    read = _without(read_tensors(path, entry=entry, headers=headers), PROJECTION_PREFIXES)
    renamed = Weights(_renamed(read, OFFICIAL_NAMES))
    renamed.entry, renamed.left_out = read.entry, read.left_out
    return renamed


def read_head(
    path: str | Path, *, entry: str | None = None, headers: bool = False
) -> dict[str, Tensor]:
    """Read the projection of representation alignment that the file of a generator holds."""
    tensors = read_tensors(path, entry=entry, headers=headers)
    return {name: value for name, value in tensors.items() if name.startswith(f"{HEAD}.")}


def _without(weights: Weights, prefixes: tuple[str, ...]) -> Weights:
    kept = Weights({n: value for n, value in weights.items() if not n.startswith(prefixes)})
    kept.entry = weights.entry
    kept.left_out = (*weights.left_out, *(name for name in weights if name not in kept))
    return kept


def export_generator(model: nn.Module, path: str | Path, *, ema: nn.Module | None = None) -> None:
    """Write a generator in the official layout.

    A torch file holds `model`, whose names carry the prefix `module.`, and `ema` (the model itself
    where no average is given). A safetensors file holds the bare names of the average.
    """
    official = {own: name for name, own in OFFICIAL_NAMES.items()}
    current = _renamed(_owned(model.state_dict()), official)
    averaged = current if ema is None else _renamed(_owned(ema.state_dict()), official)
    if Path(path).suffix == ".safetensors":
        save_file(averaged, path)
    else:
        prefixed = {f"module.{name}": value for name, value in current.items()}
        torch.save({"model": prefixed, "ema": averaged}, path)


def _owned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _renamed(tensors: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes[old] + name.removeprefix(old) if old else name] = value
    return renamed


def _without_wrappers(name: str) -> str:
    while name.startswith(WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name
