"""The artifact store: one immutable folder a stage, named by its content key.

    <root>/<kind>/<key>/            artifact.json and payload files; whole or absent
    <root>/<kind>/<key>.partial/    work in progress: payload/, checkpoints/, progress.json
    <root>/<kind>/<key>.lease       who is working on it; touched while alive
    <root>/<kind>/<key>.damaged-*/  an artifact that was found damaged and set aside

Work is published by renaming `payload/` to its final name, so a reader never sees half of it. What
is read is held to the hashes that were recorded when it was published.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.schema.reading import ConfigError
from harness.storage.costs import note_cost
from harness.storage.durable import (
    StorageError,
    difference,
    file_sha256,
    flush_file,
    flush_folder,
    is_temporary,
    make_folder,
    read_object,
    replacing,
    storage_errors,
    write_json,
    write_text,
)
from harness.storage.lease import Lease, StageBusy, hold
from harness.storage.leftovers import discard
from harness.storage.stage_log import is_log

# PyTorch takes seconds to import, and whoever reads records alone needs none of it.
if TYPE_CHECKING:
    from torch import Tensor

RECORD = "artifact.json"
"""The file of an artifact that says what it is; written last."""
HOLDER = "holder"
"""The file of a work folder that says which holder of the lease it belongs to."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished stage."""

    path: Path
    record: Mapping[str, Any]
    """`artifact.json`: kind, key, config, inputs, result, cost, environment, files."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The numbers that the stage reported; one that is missing is damage."""
        return _Result(self.path, self.record["result"])

    @property
    def digest(self) -> str:
        """One hash for the content of all payload files: that of their hashes."""
        return _hash_json(self.record["files"])

    def file(self, name: str) -> Path:
        """Path of a payload file, held to its recorded hash when a process first asks for it;
        DamagedArtifact where it is gone or has other bytes than when it was published."""
        # A payload is hashed when it is used and not when it is found: files nobody reads cost
        # nothing, and nothing is trained on bytes that a disk has altered.
        path = self.path / name
        if wrong := difference(path, self.sha256(name)):
            raise DamagedArtifact(self.path, f"its file {name} {wrong}")
        return path

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """All tensors of a safetensors payload."""
        from safetensors.torch import load_file

        return load_file(self.file(name))

    def tensor(self, name: str, key: str) -> "Tensor":
        """One tensor of a safetensors payload."""
        from safetensors import safe_open

        with safe_open(self.file(name), framework="pt") as file:
            return file.get_tensor(key)

    def sha256(self, name: str) -> str:
        """Content hash of a payload file, as recorded when it was published; DamagedArtifact where
        it was published without this file."""
        if name not in self.record["files"]:
            raise DamagedArtifact(self.path, f"it has no file {name}")
        return self.record["files"][name]["sha256"]


def store_of(results: Path, given: Path | str | None = None) -> Path:
    """Folder of the artifacts behind a results folder: one that is named, or the last run's."""
    if given is not None:
        return Path(given).expanduser()
    recorded = str(read_object(results / "manifest.json").get("store", "artifacts"))
    # A run without --results was started two folders above its own.
    beside = results.resolve().parent.parent / recorded
    return beside if beside.is_dir() else Path(recorded)


class DamagedArtifact(ConfigError):
    """An artifact is not what was published: bytes changed, a file is gone, its inputs are others.
    It is never used; `Store.set_aside` makes room for the stage to run again."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder, self.reason = folder, reason
        self.inode = _inode(folder)
        """Tells this folder from one that takes its place."""
        super().__init__(
            f"{folder} must be as it was published, but {reason}; run the command again, which "
            "sets the folder aside and runs the stage anew, or put a good copy in its place"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is pickled with its message alone.
        return type(self), (self.folder, self.reason)


BELOW = "below.txt"
"""File of a store with the folders of others, a line each, that are read and never written."""


class _Result(dict[str, Any]):
    """What a stage reported; a number that is not there is damage of its artifact."""

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.folder = folder

    def __missing__(self, name: str) -> Any:
        raise DamagedArtifact(self.folder, f"its result has no {name!r}")


class Store:
    """Artifacts below one folder, which may lie on a file system that several machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.below = _stores_below(root / BELOW)

    def folder(self, kind: str, key: str) -> Path:
        """Where the artifact lies once it is whole."""
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None where it is not there yet or its record is damaged."""
        try:
            return self.examine(kind, key)
        except DamagedArtifact:
            return None

    def examine(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None where it is not there yet; DamagedArtifact where its record is not
        the one that was published."""
        found = _examine(self.folder(kind, key))
        for root in self.below:
            # What is damaged there is made anew here.
            with contextlib.suppress(DamagedArtifact):
                found = found or _examine(root / kind / key)
        return found

    def get(self, kind: str, key: str) -> Artifact:
        """The artifact of a stage that has run; ValueError where it is not in the store,
        DamagedArtifact where its record is not the one that was published."""
        artifact = self.examine(kind, key)
        if artifact is None:
            raise ValueError(
                f"{kind} {key} must be in the store {self.root}, but is not; run the sweep again"
            )
        return artifact

    @contextlib.contextmanager
    def work(self, kind: str, key: str, whole: str = "") -> Iterator["Work"]:
        """Hold the lease of a stage and its work folder, and that of the stage `whole` where the
        checkpoints are those of that one."""
        folder = self.folder(kind, key)
        with storage_errors(folder):
            make_folder(folder.parent)
        # Only the holder of the lease touches the work folder.
        with contextlib.ExitStack() as held:
            lease = held.enter_context(hold(self.lease(kind, key)))
            if whole not in ("", key):
                lease = held.enter_context(hold(self.lease(kind, whole)))
            kept = self.checkpoints(kind, whole or key)
            work = Work(folder=folder, lease=lease, shared_checkpoints=kept)
            with storage_errors(folder):
                work.begin()
            work.clear_temporary()
            yield work

    @contextlib.contextmanager
    def scratch(self, kind: str, key: str, whole: str = "") -> Iterator["Work"]:
        """The work folder of a stage for a worker that does not hold its lease; what it writes is
        dropped, but for files that it puts into `Work.shared` on purpose."""
        with tempfile.TemporaryDirectory(prefix="frontier-") as folder:
            yield Work(
                folder=self.folder(kind, key),
                lease=None,
                shared_checkpoints=self.checkpoints(kind, whole or key),
                scratch=Path(folder),
            )

    def progress(self, kind: str, key: str) -> dict[str, Any]:
        """The last progress report of a running stage; empty where there is none."""
        return read_object(self.folder(kind, key).with_name(f"{key}.partial") / "progress.json")

    def lease(self, kind: str, key: str) -> Path:
        """The lease of a stage, which is there while a process works on it."""
        return self.folder(kind, key).with_name(f"{key}.lease")

    def checkpoints(self, kind: str, key: str) -> Path:
        """Where the checkpoints of a stage that is not published lie, if it has any."""
        return self.folder(kind, key).with_name(f"{key}.partial") / "checkpoints"

    def set_aside(self, error: DamagedArtifact) -> str:
        """Rename a damaged artifact, so that its stage runs again; says what was done. One that a
        quicker process has put in its place is left alone."""
        # Renamed and not deleted: it may be the only copy of weeks of training, and whoever looks
        # for the cause of the damage needs it.
        folder = error.folder
        if any(root in folder.parents for root in self.below):
            raise StorageError(errno.EROFS, f"{folder} lies in a store below, which is only read")
        try:
            with hold(folder.with_name(f"{folder.name}.lease")):
                if _inode(folder) != error.inode:
                    return f"{folder} was set aside by another process"
                # Checkpoints that led to it were half removed, if they are there at all.
                discard(folder.with_name(f"{folder.name}.partial"))
                return _set_aside(folder, error.reason)
        except StageBusy:
            return f"{folder} is being made anew by another process"


def _stores_below(file: Path) -> list[Path]:
    """The folders that a file names; without one of them all in it would be made again."""
    folders: list[Path] = []
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        folders = [file.parent / Path(line).expanduser() for line in lines if line]
        wrong = [f"{folder} is no folder" for folder in folders if not folder.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, RuntimeError) as error:
        wrong = [str(error)]
    if wrong:
        raise ConfigError(
            f"{file} must name folders of stores, a line each, or be absent, but {wrong[0][:200]}; "
            "correct it, or mount what is not there"
        )
    return folders


def _examine(path: Path) -> Artifact | None:
    """What `Store.examine` finds at one place."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise DamagedArtifact(path, f"its {RECORD} cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise DamagedArtifact(path, f"its {RECORD} is no mapping")
    for name in ("result", "files"):
        if not isinstance(record.get(name), dict):
            raise DamagedArtifact(path, f"its {RECORD} has no mapping {name!r}")
    try:
        found = _record_hash(record)
    except ValueError as error:
        raise DamagedArtifact(path, f"its {RECORD} holds a number that is none") from error
    # Records of earlier versions have no hash of their own.
    if record.get("record_sha256", found) != found:
        raise DamagedArtifact(path, f"its {RECORD} was altered")
    return Artifact(path=path, record=record)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work folder of one running stage."""

    folder: Path
    """The final folder; the work lies in its `.partial` sibling."""
    lease: Lease | None
    """The right to work on it; None for the other workers of a stage than the first."""
    shared_checkpoints: Path
    """Folder of its checkpoints, which a training's beginning shares with the whole."""
    scratch: Path | None = None
    """Where a worker without the lease writes instead; dropped when it ends."""

    @property
    def shared(self) -> Path:
        """Folder of all that is not published yet, the same for all workers of the stage."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def shared_payload(self) -> Path:
        """Files that any worker writes here become the artifact."""
        return _made(self.shared / "payload")

    @property
    def partial(self) -> Path:
        """`shared` for the worker with the lease, a folder of their own for others. Raises
        StageBusy where the lease was taken over, StorageError where the work folder was removed."""
        if self.scratch is not None:
            return self.scratch
        self.require_lease()
        return self.shared

    @property
    def payload(self) -> Path:
        """Files written here become the artifact."""
        return _made(self.partial / "payload")

    @property
    def checkpoints(self) -> Path:
        """Checkpoints live here until the artifact is published."""
        partial = self.partial
        return _made(partial / "checkpoints" if self.scratch else self.shared_checkpoints)

    @property
    def curve(self) -> Path:
        """Where a training stage appends its curve until it is published."""
        return self.checkpoints / "curve.jsonl"

    def report(self, progress: Mapping[str, Any]) -> None:
        """Replace `progress.json`. Failure is ignored: a display must not end a training."""
        with contextlib.suppress(OSError):
            self.partial.mkdir(parents=True, exist_ok=True)
            # Not flushed: the next report follows within a second.
            write_json(self.partial / "progress.json", progress, durable=False)

    def last_report(self) -> dict[str, Any]:
        """The last report, also of an attempt before this one; empty where there is none."""
        return read_object(self.partial / "progress.json")

    def begin(self) -> None:
        """Write down whose work folder this is; a folder that takes its place does not say it."""
        assert self.lease is not None, "the first worker writes into the store"
        if self.shared.is_symlink():
            # Work would be written, and cleared away, wherever it leads.
            self.shared.unlink()
        _made(self.shared)
        write_text(self.shared / HOLDER, self.lease.token, durable=False)

    def require_lease(self) -> None:
        """Refuse to write what matters unless this process still holds the stage."""
        assert self.lease is not None, "the first worker writes into the store"
        self.lease.require()
        if not (self.shared / HOLDER).exists():
            # What lies there now was written since, and is less than the stage promises.
            discard(self.shared)
            raise StorageError(
                errno.ENOENT,
                f"{self.shared} was removed while its stage ran, and with it a part of what the "
                "stage had made; run the same command again, which starts it anew",
            )

    def require_files(self, names: Iterable[str]) -> None:
        """Refuse to go on without files that the payload was given."""
        if lost := [name for name in names if not (self.payload / name).is_file()]:
            raise StorageError(
                errno.ENOENT,
                f"{self.payload / lost[0]} was removed while its stage ran; run the same command "
                "again, which makes it anew",
            )

    def note(self, what: str, **details: Any) -> None:
        """Add a line to the stage's history, which goes into the artifact's record: an attempt, a
        resumption, a damaged checkpoint. Failure to write it is let go."""
        line = {"what": what, "at": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
        with contextlib.suppress(OSError):
            self.partial.mkdir(parents=True, exist_ok=True)
            with (self.partial / "history.jsonl").open("a", encoding="utf-8") as file:
                # The line before may have been torn by a kill.
                file.write("\n" + json.dumps({**line, **details}) + "\n")

    def warn(self, text: str) -> None:
        """Tell of something that went wrong and was mended, on stderr and in the history."""
        print(f"warning: {text}", file=sys.stderr, flush=True)
        self.note("warning", text=text)

    def clear_temporary(self) -> None:
        """Remove files that an earlier attempt had not finished writing when it was killed."""
        for path in self.partial.rglob("*"):
            if is_temporary(path) and path.is_file():
                path.unlink(missing_ok=True)

    def publish(self, record: Mapping[str, Any]) -> Artifact:
        """Make the payload the artifact, or return a quicker process's. Raises StageBusy where the
        lease was taken over, StorageError where the disk refuses, which loses nothing."""
        payload = self.payload
        with storage_errors(self.folder):
            files = _describe_files(payload)
            whole = _json_round({**record, "history": read_history(self.partial), "files": files})
            write_json(payload / RECORD, {**whole, "record_sha256": _record_hash(whole)})
            # Asked as late as possible: a holder that was suspended must not publish over another.
            self.require_lease()
            # Moved and not copied: this process still writes to its log through an open handle.
            for log in filter(lambda path: is_log(path.name), self.shared.iterdir()):
                log.rename(payload / log.name)
            artifact = _move_into_place(payload, self.folder)
        note_cost(self.folder.parent.parent, whole)
        discard(self.shared)
        return artifact


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or absent, from tensors on any device."""
    from safetensors.torch import save_file

    # Never pickled objects: loading one runs code, and safetensors can be read in part.
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, None if metadata is None else dict(metadata))


KEPT = ("kind", "key", "config", "inputs", "result", "files")
"""Entries of a record that are the same whenever a stage is run."""


def embed(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact into the payload of another, whose readers then need not find it."""
    for name in artifact.record["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as temporary:
            shutil.copyfile(artifact.file(name), temporary)
    write_json(folder / RECORD, {name: artifact.record[name] for name in KEPT})


def embedded(artifact: Artifact, name: str) -> Artifact:
    """The artifact that was copied into a folder of another."""
    record = json.loads(artifact.file(f"{name}/{RECORD}").read_text(encoding="utf-8"))
    return Artifact(path=artifact.path / name, record=record)


def read_history(partial: Path) -> list[dict[str, Any]]:
    """All lines that `Work.note` wrote in all attempts; torn ones are left out."""
    try:
        content = (partial / "history.jsonl").read_text(encoding="utf-8", errors="replace")
        lines = content.splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def _describe_files(payload: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every payload file, each brought to the disk with its folder."""
    files = {}
    for name, path in content_files(payload).items():
        flush_file(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    for path in (payload, *payload.rglob("*")):
        if path.is_dir():
            flush_folder(path)
    return files


def content_files(payload: Path) -> dict[str, Path]:
    """Name -> path of the files that are an artifact's content, by name.

    Logs and event files of TensorBoard are not: they hold times, so that two runs of a stage never
    write the same.
    """
    names = {path.relative_to(payload).as_posix(): path for path in payload.rglob("*")}
    return {
        name: path
        for name, path in sorted(names.items())
        if path.is_file()
        and not is_temporary(path)
        and name != RECORD
        and not name.startswith("tensorboard/")
        and not is_log(name)
    }


def _made(folder: Path) -> Path:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _move_into_place(payload: Path, folder: Path) -> Artifact:
    # The rename is the moment of publication. It fails where a folder with files is there already.
    try:
        payload.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        if not (folder / RECORD).is_file():
            # Somebody left a folder of this name that is no artifact.
            _set_aside(folder, f"it has no {RECORD}")
            payload.rename(folder)
    flush_folder(folder.parent)
    record = folder / RECORD
    return Artifact(path=folder, record=json.loads(record.read_text(encoding="utf-8")))


def _set_aside(folder: Path, reason: str) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = folder.with_name(f"{folder.name}.damaged-{stamp}-{secrets.token_hex(2)}")
    with storage_errors(folder):
        folder.rename(target)
        flush_folder(folder.parent)
    text = f"{folder} was damaged ({reason}); set aside as {target.name}, its stage runs again"
    print(f"warning: {text}", file=sys.stderr, flush=True)
    return text


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _record_hash(record: Mapping[str, Any]) -> str:
    return _hash_json({name: v for name, v in record.items() if name != "record_sha256"})


def _hash_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _json_round(value: Any) -> Any:
    """A value as a reader of the file gets it, such as lists for tuples; that is what is hashed."""
    return json.loads(json.dumps(value, allow_nan=False))
