"""Pretrained autoencoders of the diffusers library, behind the interface of `Autoencoder`.

diffusers is an optional dependency, imported on first use. Everything is read from folders at hand
in the layout of its `save_pretrained`; nothing is ever fetched.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from models.checkpoint import check_finite, read_checkpoint
from models.compilation import compile_in_place
from models.posterior import PointPosterior, Posterior
from models.tokenizer import TokenizerNetwork

LATENT_FIELDS = {
    "AutoencoderKL": "latent_dist",
    "AsymmetricAutoencoderKL": "latent_dist",
    "AutoencoderDC": "latent",
    "AutoencoderTiny": "latents",
    "VQModel": "latents",
}
"""Class of diffusers -> field of its encoder's output that holds the latents. VQModel's are those
before quantisation, which is the first step of its decoder."""
CONFIG_FILE = "config.json"
WEIGHTS = "diffusion_pytorch_model"
"""Stem of the files with weights: one safetensors or torch file, or shards with an index."""
PROBE_SIDE = 256
"""Side of the image, in pixels, whose latent shows channels and downsampling."""


class DiffusersAutoencoder(TokenizerNetwork):
    """Encoder and decoder of a diffusers autoencoder.

    Args:
        network: an instance of one of the classes in `LATENT_FIELDS`.
    """

    def __init__(self, network: Any, *, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    @property
    def network_config(self) -> dict[str, Any]:
        """Configuration for `build_diffusers_autoencoder`, defaults filled in."""
        config = json.loads(self.network.to_json_string())
        return {name: value for name, value in config.items() if name != "_name_or_path"}

    def compile_trunks(self) -> None:
        """Compile encoder and decoder; the last convolutions are not left out as in training."""
        for part in (self.network.encoder, self.network.decoder):
            compile_in_place(part)

    def encode(self, x: Float[Tensor, "b 3 h_in w_in"]) -> Posterior | PointPosterior:
        """Encode images in [-1, 1]; the latents are not scaled."""
        field = LATENT_FIELDS[type(self.network).__name__]
        with self._autocast(x.device):
            encoded = getattr(self.network.encode(x), field)
        if field == "latent_dist":
            return Posterior(mean=encoded.mean.float(), log_variance=encoded.logvar.float())
        return PointPosterior(mean=encoded.float())

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h_out w_out"]:
        """Decode latents that are not scaled to images around [-1, 1]."""
        with self._autocast(z.device):
            return self.network.decode(z).sample.float()

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        # The meta device has shapes and no arithmetic, and refuses to autocast.
        if self.precision == "fp32" or device.type == "meta":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


def weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The weights in a folder: safetensors before torch files, whole before shards with an index.

    Empty where there are none, where a shard that the index names is absent, or where the index
    names none.

    Args:
        variant: the word that diffusers puts into their names, `fp16` for instance.
    """
    word = "" if variant is None else f".{variant}"
    for suffix in ("safetensors", "bin"):
        whole, index = folder / f"{WEIGHTS}{word}.{suffix}", folder / f"{WEIGHTS}.{suffix}"
        index = folder / f"{index.name}.index{word}.json"
        if whole.is_file():
            return (whole,)
        if index.is_file():
            shards = _shards(index)
            return (index, *shards) if shards and all(s.is_file() for s in shards) else ()
    return ()


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / name for name in sorted(names)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def read_network_config(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """Read `config.json`; ValueError where it describes another class than `class_name`, which
    None leaves to the file, or none."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON file, but cannot be read ({error}); fetch it again"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path} must hold a JSON object, but holds a {type(config).__name__}; fetch it again"
        )
    written = config.get("_class_name") or class_name
    if written is None or class_name not in (None, written):
        raise ValueError(
            f"`class_name` must be the class that {path} describes, but got {class_name} for "
            f"{written}; correct it, or leave it out where the file names one"
        )
    return {**config, "_class_name": written}


def build_diffusers_autoencoder(
    config: Mapping[str, Any], *, precision: Literal["fp32", "bf16"] = "fp32"
) -> DiffusersAutoencoder:
    """Build the network of a `config.json`, with random weights; ValueError where diffusers is
    absent, or the class is not supported or cannot be built so."""
    network_class = _network_class(config["_class_name"])
    try:
        network = network_class.from_config(dict(config))
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{CONFIG_FILE} must describe an {config['_class_name']}, but it cannot be built "
            f"({error}); take the file that belongs to the weights"
        ) from error
    return DiffusersAutoencoder(network, precision=precision)


def load_diffusers_autoencoder(
    folder: Path,
    *,
    class_name: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    variant: str | None = None,
) -> DiffusersAutoencoder:
    """Load a folder as `save_pretrained` writes it, strictly, in fp32; ValueError where the class
    is not supported or the weights do not fit it exactly. diffusers itself reads the files, because
    it knows the names that earlier versions wrote."""
    network_class = _network_class(read_network_config(folder, class_name)["_class_name"])
    try:
        network, report = network_class.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=any("safetensors" in f.name for f in weight_files(folder, variant)),
            variant=variant,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    # A file that is cut, or the pointer that Git LFS leaves in its place, fails in its own reader.
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise _misfit(folder, f"{type(error).__name__}: {error}") from error
    wrong = {name: sorted(names) for name, names in report.items() if names}
    if wrong:
        raise _misfit(folder, str(wrong))
    check_finite(network.state_dict(), str(folder))
    return DiffusersAutoencoder(network, precision=precision)


def check_headers(model: DiffusersAutoencoder, folder: Path, variant: str | None) -> None:
    """Refuse files that cannot be read or whose names and shapes are another network's; names of
    attention are left to diffusers, which knows those that earlier versions wrote."""
    files = [path for path in weight_files(folder, variant) if path.suffix != ".json"]
    held = {n: t.shape for path in files for n, t in read_checkpoint(path, headers=True).items()}
    wanted = {name: tensor.shape for name, tensor in model.network.state_dict().items()}
    odd = {n for n in held | wanted if held.get(n) != wanted.get(n) and "attentions." not in n}
    if odd:
        raise _misfit(folder, f"differ in {', '.join(sorted(odd)[:5])}")


def own_scaling(
    model: DiffusersAutoencoder, latent_dim: int
) -> tuple[list[float], list[float]] | None:
    """Per-channel mean and deviation that stand for the scaling in the file.

    diffusers normalises latents as (z - shift_factor) scaling_factor, or, where the file has
    `latents_mean` and `latents_std`, as (z - latents_mean) scaling_factor / latents_std. Values
    that a file leaves out are the class's defaults.

    Returns:
        Means, and positive deviations; None where neither file nor class has a scaling.
    """
    config = model.network_config
    factor = config.get("scaling_factor")
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        if factor is None:
            return None
        mean, std = [config.get("shift_factor") or 0.0] * latent_dim, [1.0] * latent_dim
    factor = 1.0 if factor is None else factor
    # Some files hold them with the axes of the latent around them.
    mean, std = (np.asarray(values, dtype=object).ravel().tolist() for values in (mean, std))
    is_numbers = all(isinstance(value, int | float) for value in (factor, *mean, *std))
    if not is_numbers or factor <= 0 or min(std) <= 0 or not len(mean) == len(std) == latent_dim:
        raise ValueError(
            f"`scaling_factor` and `latents_std` must be positive, and `latents_mean` and "
            f"`latents_std` one a channel ({latent_dim}), but got {factor}, {mean} and {std}; "
            f"correct {CONFIG_FILE}, or set scaling: statistics"
        )
    return [float(value) for value in mean], [float(value) / factor for value in std]


def check_geometry(model: DiffusersAutoencoder, *, latent_dim: int, downsample: int) -> None:
    """Refuse a network of other images than RGB or another latent than declared, by its shapes."""
    config = model.network_config
    if config["in_channels"] != 3:
        raise ValueError(
            f"a pretrained autoencoder must take images of 3 channels, but this one takes "
            f"{config['in_channels']}; use another"
        )
    with torch.device("meta"), torch.no_grad():
        empty = build_diffusers_autoencoder(config)
        _, channels, height, _ = empty.encode(torch.empty(1, 3, PROBE_SIDE, PROBE_SIDE)).mean.shape
    for name, declared, found in (
        ("latent_dim", latent_dim, channels),
        ("downsample", downsample, PROBE_SIDE // height),
    ):
        if declared != found:
            raise ValueError(
                f"`{name}` must be that of the pretrained autoencoder, {found}, but got "
                f"{declared}; set {name}: {found}"
            )


def _network_class(name: str) -> Any:
    if name not in LATENT_FIELDS:
        raise ValueError(
            f"a pretrained autoencoder must be one of {', '.join(LATENT_FIELDS)}, but got {name}; "
            "use one of them"
        )
    try:
        import diffusers  # Optional, and takes seconds to import.
    except ImportError as error:
        raise ValueError(
            f"a pretrained autoencoder needs the package diffusers, but it cannot be imported "
            f"({error}); install it: pip install diffusers"
        ) from error
    return getattr(diffusers, name)


def _misfit(folder: Path, found: str) -> ValueError:
    return ValueError(
        f"the weights in {folder} must fit its {CONFIG_FILE} exactly, but {found}; take both from "
        "one place"
    )
