"""The artifact store: one immutable folder a stage, named by its content key.

    <root>/<kind>/<key>/            artifact.json and payload files; whole or absent
    <root>/<kind>/<key>.partial/    work in progress: payload/, checkpoints/, progress.json
    <root>/<kind>/<key>.lease       who is working on it; touched while alive

Work is published by renaming `payload/` to its final name, so a reader never sees half of it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.configuration import ConfigError
from harness.lease import Lease, hold
from harness.stage_log import is_log


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished stage."""

    path: Path
    record: Mapping[str, Any]
    """`artifact.json`: kind, key, config, inputs, result, cost, environment, files."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The numbers that the stage reported."""
        return self.record["result"]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """All tensors of a safetensors payload."""
        return load_file(self.path / name)

    def tensor(self, name: str, key: str) -> Tensor:
        """One tensor of a safetensors payload."""
        with safe_open(self.path / name, framework="pt") as file:
            return file.get_tensor(key)

    def sha256(self, name: str) -> str:
        """Content hash of a payload file, as recorded when it was published."""
        return self.record["files"][name]["sha256"]


class Store:
    """Artifacts below one folder, which may lie on a file system that several machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where the artifact lies once it is whole."""
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None where it is not there yet.

        Raises:
            ConfigError: Its record cannot be read.
        """
        path = self.folder(kind, key)
        try:
            record = json.loads((path / "artifact.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ConfigError(
                f"{path / 'artifact.json'} must be JSON, but cannot be read ({error}); remove the "
                f"folder {path} to have the stage run again"
            ) from error
        return Artifact(path=path, record=record)

    def get(self, kind: str, key: str) -> Artifact:
        """The artifact of a stage that has run.

        Raises:
            ValueError: It is not in the store.
        """
        artifact = self.find(kind, key)
        if artifact is None:
            raise ValueError(
                f"{kind} {key} must be in the store {self.root}, but is not; run the sweep again"
            )
        return artifact

    @contextlib.contextmanager
    def work(self, kind: str, key: str) -> Iterator["Work"]:
        """Hold the lease of a stage and its work folder.

        Raises:
            StageBusy: Another living process works on it.
        """
        folder = self.folder(kind, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold(folder.with_name(f"{key}.lease")) as lease:
            yield Work(folder=folder, lease=lease)

    @contextlib.contextmanager
    def scratch(self, kind: str, key: str) -> Iterator["Work"]:
        """The work folder of a stage for a worker that does not hold its lease.

        What it writes is dropped, but for files that it puts into `Work.shared` on purpose.
        """
        with tempfile.TemporaryDirectory(prefix="frontier-") as folder:
            yield Work(folder=self.folder(kind, key), lease=None, scratch=Path(folder))

    def progress(self, kind: str, key: str) -> dict[str, Any]:
        """What a running stage last said of itself; empty where it has said nothing."""
        return _read_report(self.folder(kind, key).with_name(f"{key}.partial"))


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work folder of one running stage."""

    folder: Path
    """The final folder; the work lies in its `.partial` sibling."""
    lease: Lease | None
    """The right to work on it; None for the other workers of a stage than the first."""
    scratch: Path | None = None
    """Where a worker without the lease writes instead; dropped when it ends."""

    @property
    def shared(self) -> Path:
        """Everything that is not published yet, one folder for all workers of the stage."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def shared_payload(self) -> Path:
        """Files that any worker writes here become the artifact."""
        path = self.shared / "payload"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def partial(self) -> Path:
        """The same for the worker with the lease; the others have a folder of their own."""
        return self.scratch or self.shared

    @property
    def payload(self) -> Path:
        """Files written here become the artifact."""
        path = self.partial / "payload"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def checkpoints(self) -> Path:
        """Checkpoints live here until the artifact is published."""
        path = self.partial / "checkpoints"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def report(self, progress: Mapping[str, Any]) -> None:
        """Replace `progress.json`; a display must not end a training, so failure is let go."""
        with contextlib.suppress(OSError):
            self.partial.mkdir(parents=True, exist_ok=True)
            write_json(self.partial / "progress.json", progress, durable=False)

    def last_report(self) -> dict[str, Any]:
        """The last report, also of an attempt before this one; empty where there is none."""
        return _read_report(self.partial)

    def publish(self, record: Mapping[str, Any]) -> Artifact:
        """Make the payload the artifact; the loser of a race gets the winner's."""
        assert self.lease is not None, "the first worker publishes"
        payload = self.payload
        files = {}
        for path in sorted(p for p in payload.rglob("*") if p.is_file()):
            name = path.relative_to(payload).as_posix()
            if name == "artifact.json" or name.startswith("tensorboard/") or is_log(name):
                # Logs hold times: two runs of one stage never write the same.
                continue
            _flush(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        whole = {**record, "files": files}
        write_json(payload / "artifact.json", whole)
        for log in filter(lambda path: is_log(path.name), self.shared.iterdir()):
            log.rename(payload / log.name)
        try:
            payload.rename(self.folder)
        except OSError:
            if not self.folder.exists():
                raise
            whole = json.loads((self.folder / "artifact.json").read_text(encoding="utf-8"))
        shutil.rmtree(self.partial, ignore_errors=True)
        return Artifact(path=self.folder, record=whole)


def _read_report(partial: Path) -> dict[str, Any]:
    try:
        report = json.loads((partial / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a JSON file that is whole or absent.

    Args:
        path: Where it comes to lie.
        value: JSON-able; NaN and infinity are refused.
        durable: Flush to the disk before the rename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if durable:
        _flush(temporary)
    temporary.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file from tensors on any device."""
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
