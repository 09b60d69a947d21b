"""Checkpoints of a training stage: safetensors files, the last two kept, checked by their hash.

A checkpoint is one safetensors file, whose header also holds the state's structure and numbers, and
a seal beside it, written last, with the file's sha256. It covers what the stage has put into its
payload so far: a checkpoint whose payload files are gone or altered is no better than a torn one.
The same goes for what the stage keeps in the folder `BESIDE` until its end.

A `CheckpointWriter` writes beside the training, from a copy of the state.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.storage.artifacts import content_files, write_tensors
from harness.storage.durable import (
    difference,
    file_sha256,
    flush_file,
    flush_folder,
    known_sha256,
    write_json,
)

KEPT = 2
"""Checkpoints kept of one stage: where the newest is damaged, the one before it serves."""
BESIDE = "beside"
"""Subfolder of files too large to be written anew at every checkpoint."""
FORMAT = 2
"""Raised when the layout of these files changes; others are passed over."""


class _Unusable(ValueError):
    """A checkpoint that cannot be resumed from; the message says why."""


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], payload: Path | None = None
) -> None:
    """Write the state after `step` steps and drop all but the last two.

    Args:
        state: Nested mappings and lists of tensors and JSON scalars (state dicts of modules and
            optimisers).
        payload: The stage's payload folder, whose present files a resumed stage does not write
            again, as those in `BESIDE`.

    Raises:
        StorageError: The file system refuses; the checkpoints before are as they were.
    """
    _prepare(folder, step, state, payload)()


@final
class CheckpointWriter:
    """Writes checkpoints in a thread of its own, one at a time, while the training goes on."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, folder: Path, step: int, state: Mapping[str, Any], payload: Path) -> None:
        """Begin to do as `save_checkpoint`; the caller may change the state and add files at once;
        StorageError where the checkpoint before this one could not be written."""
        # One in flight: the host holds one copy of the state, and none overtakes another.
        self.wait()
        self._writing = self._pool.submit(_prepare(folder, step, state, payload))

    def wait(self) -> None:
        """Wait until the last checkpoint is whole; raises what its writing met."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self, warn: Callable[[str], None]) -> None:
        """Wait in the same way and end the thread; an error that nobody waited for is told."""
        self._pool.shutdown()
        if self._writing is not None and (error := self._writing.exception()):
            warn(f"the last checkpoint was not written: {error}")


def _prepare(
    folder: Path, step: int, state: Mapping[str, Any], payload: Path | None
) -> Callable[[], None]:
    """What writes the state as it is now, and covers the files that are there now."""
    tensors: dict[str, Tensor] = {}
    tree = _detach(state, "state", tensors)
    if torch.cuda.is_initialized():
        # Copies to page-locked memory are on their way until here.
        torch.cuda.current_stream().synchronize()
    files = {"payload": _files(payload), BESIDE: _files(folder / BESIDE)}
    return partial(_write, folder, step, tree, tensors, files)


def _write(
    folder: Path,
    step: int,
    tree: Any,
    tensors: dict[str, Tensor],
    files: Mapping[str, Mapping[str, Path]],
) -> None:
    path = folder / f"step-{step:09d}.safetensors"
    covered = {name: _cover(present) for name, present in files.items()}
    # Structure and numbers go into the header of the same file, so that one hash covers all.
    content = {"format": FORMAT, "step": step, "tree": tree, **covered}
    write_tensors(path, tensors, {"checkpoint": json.dumps(content)})
    # The seal is written last: a kill before this line leaves a file that counts for nothing.
    write_json(path.with_suffix(".json"), {"step": step, "sha256": file_sha256(path)})
    # Only now may an older one go.
    for old in _sealed(folder)[KEPT:]:
        _remove(old)


def load_checkpoint(
    folder: Path,
    step: int | None = None,
    *,
    payload: Path | None = None,
    most: int | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, Any]] | None:
    """Load the newest whole checkpoint: steps done and state; None where there is none.

    A truncated or altered one is removed, so that the two kept are two good ones.

    Args:
        step: Take the one after this many steps, or none, and remove nothing: for a worker that
            follows what another one chose.
        payload: The stage's payload folder; None leaves all that the checkpoint covers unchecked.
        most: Leave alone what is after more steps than this.
        warn: Told of every checkpoint that is passed over, and where none is left.

    Raises:
        OSError: A file is there but cannot be read now.
    """
    # A worker that chose for itself might resume from another step than the first one did.
    if step is not None:
        with contextlib.suppress(_Unusable):
            return _read(folder / f"step-{step:09d}.json", payload)
        return None
    warn = warn or (lambda text: None)
    sealed = [s for s in _sealed(folder) if most is None or s.stem <= f"step-{most:09d}"]
    for seal in sealed:
        try:
            return _read(seal, payload)
        except _Unusable as error:
            warn(f"checkpoint {seal.with_suffix('.safetensors')} is passed over: {error}")
            _remove(seal)
    if sealed:
        warn(f"no checkpoint of {folder} can be used: the stage starts anew")
    return None


def _read(seal: Path, payload: Path | None) -> tuple[int, dict[str, Any]]:
    path = seal.with_suffix(".safetensors")
    try:
        recorded = json.loads(seal.read_text(encoding="utf-8"))["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Unusable(f"its seal {seal.name} cannot be read") from error
    try:
        found = file_sha256(path)
    except FileNotFoundError as error:
        raise _Unusable("the file is gone") from error
    if found != recorded:
        raise _Unusable(f"its sha256 must be {recorded}, but is {found}")
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise _Unusable("another version of this program wrote it") from error
    if content["format"] != FORMAT:
        raise _Unusable(f"its format must be {FORMAT}, but is {content['format']}")
    if payload is not None:
        _check_covered(content["payload"], payload)
        _check_covered(content.get(BESIDE, {}), path.parent / BESIDE)
    return int(content["step"]), _attach(content["tree"], tensors)


def _files(folder: Path | None) -> dict[str, Path]:
    return content_files(folder) if folder is not None and folder.exists() else {}


def _cover(files: Mapping[str, Path]) -> dict[str, str]:
    """File -> hash; each file is flushed to the disk before the checkpoint that relies on it."""
    covered = {}
    for name, path in files.items():
        flush_file(path)
        covered[name] = known_sha256(path)
    for folder in {path.parent for path in files.values()}:
        flush_folder(folder)
    return covered


def _check_covered(covered: Mapping[str, str], folder: Path) -> None:
    for name, recorded in covered.items():
        if wrong := difference(folder / name, recorded):
            raise _Unusable(f"the {folder.name} file {name} {wrong}")


def _remove(seal: Path) -> None:
    """Remove a checkpoint, its seal first: a kill in between leaves a file without one."""
    seal.unlink(missing_ok=True)
    seal.with_suffix(".safetensors").unlink(missing_ok=True)


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, by its seal's name alone; -1 where none can be seen."""
    with contextlib.suppress(OSError):
        names = [re.fullmatch(r"step-(\d+)", seal.stem) for seal in folder.glob("step-*.json")]
        return max((int(name[1]) for name in names if name), default=-1)
    return -1


def _sealed(folder: Path) -> list[Path]:
    """Seals, newest first; files that a kill left without one are removed."""
    seals = sorted(folder.glob("step-*.json"), reverse=True)
    for path in folder.glob("step-*.safetensors"):
        if path.with_suffix(".json") not in seals:
            path.unlink(missing_ok=True)
    return seals


def _detach(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by their names, and collect copies of them under these names."""
    if isinstance(value, torch.Tensor):
        tensors[name] = _copy_to_host(value.detach())
        return {"tensor": name}
    if isinstance(value, Mapping):
        # Pairs and not a JSON object, whose keys are text: optimisers number their parameters.
        items = [[k, _detach(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        return {"mapping": items}
    if isinstance(value, list | tuple):
        return {"list": [_detach(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    return {"value": value}


def _copy_to_host(tensor: Tensor) -> Tensor:
    copy = {"size": tensor.shape, "dtype": tensor.dtype}
    if tensor.device.type == "cuda":
        # From page-locked memory the device's own engine writes, several times as fast. A host may
        # refuse to lock as much.
        with contextlib.suppress(RuntimeError):
            return torch.empty(**copy, pin_memory=True).copy_(tensor, non_blocking=True)
    return torch.empty(**copy).copy_(tensor)


def _attach(node: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "mapping":
        return {key: _attach(value, tensors) for key, value in content}
    if kind == "list":
        return [_attach(value, tensors) for value in content]
    return content
