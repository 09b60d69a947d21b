"""Moments of features from files: those that others made, and this project's own.

| file                | made by        | holds                                                     |
|---------------------|----------------|-----------------------------------------------------------|
| `.npz`              | ADM            | `mu`, `sigma`, `mu_s`, `sigma_s` (sFID), `arr_0` (images) |
| `.npz`              | pytorch-fid    | `mu`, `sigma`                                             |
| `*-stat-fid-*.pt`   | torch-fidelity | `mu` float32, `sigma` float64; its extractor in the name  |
| `.safetensors`      | this project   | count, mean and scatter; extractor and weights hash       |

Nothing is unpickled but plain arrays. The foreign files don't say how many images they come from.
"""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.data.image_sets import NpzImages
from harness.metrics.extractors import INCEPTION_NAME, INCEPTION_SHA256
from harness.metrics.frechet import FeatureStatistics
from harness.storage.durable import replacing

_SPATIAL = "spatial."
_EXTRACTOR = "extractor"
_ASYMMETRY = 1e-5
_NEGATIVE = 1e-6
"""Of the largest eigenvalue: how far below 0 round-off may bring the least one."""
_TORCH_FIDELITY = re.compile(
    r".+?-(?P<extractor>inception-v3-compat|vgg16|clip-(?:rn|vit)[\w-]+?|dinov2-vit-[slbg]-14)"
    r"-stat-fid-.+"
)


@final
@dataclass(frozen=True, kw_only=True)
class ImportedStatistics:
    """Mean and covariance of the features of a set of images, checked."""

    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]
    num_samples: int | None = None
    """Images behind them; absent: the file does not say."""
    spatial_mean: Float64[Tensor, " s"] | None = None
    """Mean of the spatial features (sFID); absent: the file has none."""
    spatial_covariance: Float64[Tensor, "s s"] | None = None
    images: NpzImages | None = None
    """Images that came along (ADM: 10,000 for precision and recall), to be opened when needed."""
    source: str
    extractor: str | None = None
    """Name of the feature network; absent: the file does not say."""
    extractor_identity: str | None = None
    """Identity of the network's weights, a hash for instance; absent: the file does not say."""

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.mean.shape[0]

    def require_extractor(self, *, name: str, identity: str, feature_dim: int) -> None:
        """Refuse statistics of another feature network.

        Files that don't tell their weights (ADM's, pytorch-fid's, torch-fidelity's) are taken for
        statistics of torch-fidelity's Inception, whose features those programs share.
        """
        for what, expected, found in (
            ("feature width", feature_dim, self.dim),
            ("network", name, self.extractor),
            ("weights", identity, self.extractor_identity),
        ):
            if found is not None and found != expected:
                raise ValueError(
                    f"statistics must be of the extractor in use ({name!r}: {what} {expected}), "
                    f"but {self.source!r} has statistics of another extractor ({what} {found}); "
                    "give a file made with this one, or set `extractor` to that of the file"
                )
        published = name == INCEPTION_NAME and identity.startswith(INCEPTION_SHA256)
        if self.extractor_identity is None and not published:
            raise ValueError(
                f"statistics that don't name their weights, as those of {self.source!r}, must be "
                f"of {INCEPTION_NAME} with torch-fidelity's weights (sha256 {INCEPTION_SHA256}...),"
                f" but the extractor in use is {name!r} with weights {identity}; give statistics "
                "made with this one, or images as the reference"
            )

    def fingerprint(self) -> str:
        """sha256 of the moments, 64 hexadecimal digits; the same whatever file holds them."""
        digest = hashlib.sha256()
        for moment in (self.mean, self.covariance, self.spatial_mean, self.spatial_covariance):
            if moment is not None:
                digest.update(moment.contiguous().numpy().astype("<f8").tobytes())
        return digest.hexdigest()


def read_statistics(path: Path) -> ImportedStatistics:
    """Read the statistics of a reference set; the module's docstring lists the kinds of file."""
    if not path.is_file():
        raise ValueError(
            f"feature statistics must be at {str(path)!r}, but nothing is there; give the path of "
            "an .npz, .pt or .safetensors file"
        )
    readers = {".npz": _read_npz, ".pt": _read_torch_fidelity, ".safetensors": _read_own}
    if path.suffix not in readers:
        raise ValueError(
            f"feature statistics must be an .npz, .pt or .safetensors file, but got {str(path)!r}; "
            "convert it"
        )
    return readers[path.suffix](path)


def write_statistics(
    path: Path,
    statistics: FeatureStatistics,
    *,
    extractor: str,
    extractor_identity: str,
    spatial: FeatureStatistics | None = None,
) -> None:
    """Write statistics as `.safetensors`, whole or not at all; `read_statistics` reads them."""
    tensors = statistics.to_tensors()
    if spatial is not None:
        tensors |= {f"{_SPATIAL}{name}": tensor for name, tensor in spatial.to_tensors().items()}
    # One entry: the order of several is not the same in every process, and so are the bytes.
    told = {"name": extractor, "identity": extractor_identity}
    metadata = {_EXTRACTOR: json.dumps(told, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as temporary:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)


def _read_npz(path: Path) -> ImportedStatistics:
    if not _is_zip(path):
        raise ValueError(_unreadable(path, "no zip archive, or cut off"))
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            found = {n: archive[n] for n in ("mu", "sigma", "mu_s", "sigma_s") if n in names}
    # Reading runs into whatever the damage makes of the file.
    except Exception as error:
        raise ValueError(_unreadable(path, error)) from error
    _require_moments(path, names)
    held = [name for name in ("mu_s", "sigma_s") if name in found]
    if len(held) == 1:
        raise ValueError(
            f"{str(path)!r} must hold both `mu_s` and `sigma_s` or neither, but holds `{held[0]}` "
            "alone; get the file again, or leave that out"
        )
    return ImportedStatistics(
        **_check_moments(path, found, ("mu", "sigma")),
        **(_check_moments(path, found, ("mu_s", "sigma_s"), "spatial_") if held else {}),
        images=NpzImages(path=str(path)) if "arr_0" in names else None,
        source=str(path),
    )


def _read_torch_fidelity(path: Path) -> ImportedStatistics:
    if not _is_zip(path):
        raise ValueError(_unreadable(path, "no file of torch.save, or cut off"))
    # The arrays of NumPy inside need these names; nothing else is let in.
    rebuild = np.zeros(1).__reduce__()[0]
    allowed: list[Any] = [
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float32", "float64")),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            moments = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_unreadable(path, "it holds other objects")) from error
    # Reading runs into whatever the damage makes of the file.
    except Exception as error:
        raise ValueError(_unreadable(path, error)) from error
    if not isinstance(moments, dict):
        raise ValueError(
            f"{str(path)!r} must hold `mu` and `sigma`, but holds one {type(moments).__name__}; "
            "give the file with -stat-fid- in its name"
        )
    _require_moments(path, list(moments))
    named = _TORCH_FIDELITY.fullmatch(path.stem)
    return ImportedStatistics(
        **_check_moments(path, moments, ("mu", "sigma")),
        source=str(path),
        extractor=named["extractor"] if named else None,
    )


def _is_zip(path: Path) -> bool:
    """Whether a file is a whole zip archive; damaged ends raise in the library's own test."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _read_own(path: Path) -> ImportedStatistics:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(_unreadable(path, error)) from error
    moments = _own_moments(path, tensors)
    spatial = {n.removeprefix(_SPATIAL): t for n, t in tensors.items() if n.startswith(_SPATIAL)}
    told = _told_extractor(path, metadata)
    return ImportedStatistics(
        **moments,
        **(_own_moments(path, spatial, "spatial_") if spatial else {}),
        num_samples=int(tensors["num_samples"]),
        source=str(path),
        extractor=told.get("name"),
        extractor_identity=told.get("identity"),
    )


def _told_extractor(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """Name and identity of the extractor; empty where the file does not tell."""
    if _EXTRACTOR not in metadata:
        return {}
    try:
        told = json.loads(metadata[_EXTRACTOR])
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or {type(v) for v in told.values()} != {str}:
        raise ValueError(
            f"`{_EXTRACTOR}` in the header of {str(path)!r} must hold its name and identity, but "
            f"holds {metadata[_EXTRACTOR]!r}; write the statistics again"
        )
    return told


def _own_moments(path: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    try:
        mean, covariance = FeatureStatistics.from_tensors(tensors).compute()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    moments = {"mean": mean, "scatter": covariance}
    return _check_moments(path, moments, ("mean", "scatter"), prefix)


def _require_moments(path: Path, names: list[str]) -> None:
    if absent := [name for name in ("mu", "sigma") if name not in names]:
        raise ValueError(
            f"{str(path)!r} must hold `mu` and `sigma`, but {' and '.join(absent)} came not "
            f"(found: {', '.join(map(str, names)) or 'nothing'}); give statistics, or score the "
            "images themselves if it holds samples"
        )


def _check_moments(
    path: Path, found: Mapping[str, Any], names: tuple[str, str], prefix: str = ""
) -> dict[str, Any]:
    """The moments in float64 as fields of `ImportedStatistics`, the covariance symmetric."""
    first, second = (_as_float64(path, name, found[name]) for name in names)
    mean_name, covariance_name = names
    if first.ndim != 1 or second.shape != (len(first), len(first)):
        raise ValueError(
            f"`{mean_name}` and `{covariance_name}` of {str(path)!r} must be a vector and a square "
            f"matrix of its width, but got shapes {tuple(first.shape)} and "
            f"{tuple(second.shape)}; compute the statistics again"
        )
    for name, moment in zip(names, (first, second), strict=True):
        if not torch.isfinite(moment).all():
            raise ValueError(
                f"`{name}` of {str(path)!r} must be finite, but holds NaN or infinity; compute the "
                "statistics again"
            )
    scale = second.abs().max()
    asymmetry = float((second - second.T).abs().max() / scale) if scale > 0 else 0.0
    if asymmetry > _ASYMMETRY or bool((second.diagonal() < 0).any()):
        raise ValueError(
            f"`{covariance_name}` of {str(path)!r} must be a covariance, but its halves differ by "
            f"{asymmetry:.2g} of its largest value and its least variance is "
            f"{float(second.diagonal().min()):.2g}; compute the statistics again"
        )
    second = 0.5 * (second + second.T)
    eigenvalues = torch.linalg.eigvalsh(second)
    least, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if least < -_NEGATIVE * largest:
        raise ValueError(
            f"`{covariance_name}` of {str(path)!r} must be a covariance, whose eigenvalues are not "
            f"negative, but they reach from {least:.2g} to {largest:.2g}; compute the statistics "
            "again"
        )
    return {f"{prefix}mean": first, f"{prefix}covariance": second}


def _as_float64(path: Path, name: str, values: Any) -> Tensor:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return torch.from_numpy(np.asarray(values, dtype=np.float64))
    if isinstance(values, Tensor) and values.is_floating_point():
        return values.to(torch.float64)
    held = getattr(values, "dtype", type(values).__name__)
    raise ValueError(
        f"`{name}` of {str(path)!r} must be an array of floating-point numbers, but is {held}; "
        "compute the statistics again"
    )


def _unreadable(path: Path, reason: object) -> str:
    return (
        f"{str(path)!r} must hold arrays and nothing else, but cannot be read ({reason}); get it "
        "again"
    )
