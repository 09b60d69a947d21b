"""What a run left: its table, its artifacts, and whether anything was lost or done twice."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.results.columns import COLUMNS

TIMED = {
    "tokenizer_s",
    "generator_s",
    "generation_s",
    "sample_images_per_s",
    "sample_tokens_per_s",
    "created",
    "git_revision",
    "device",
}
"""Columns that tell times and machines; no two runs have the same."""


def table(folder: Path) -> pd.DataFrame:
    """The results table without times and machines."""
    frame = pd.read_parquet(next((folder / "results").glob("*/table.parquet")))
    return frame[[column for column in COLUMNS if column not in TIMED]]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Key -> record of every artifact."""
    paths = (folder / "artifacts").glob("*/*/artifact.json")
    found = [(path.parent, json.loads(path.read_text())) for path in paths]
    return {path.name: record for path, record in found if "." not in path.name}


def assert_same_results(ours: Path, undisturbed: Path) -> None:
    """Bit for bit: the table, and every file of every artifact."""
    pd.testing.assert_frame_equal(table(ours), table(undisturbed), check_exact=True)
    mine, theirs = records(ours), records(undisturbed)
    assert mine.keys() == theirs.keys()
    for key, record in theirs.items():
        assert mine[key]["files"] == record["files"], f"{record['kind']} {record['label']}"
        assert mine[key]["result"] == record["result"]


@dataclass
class Watch:
    """Looks at a run's folder while it runs, and notes what must never happen."""

    folder: Path
    repeated: set[str] = field(default_factory=set)
    """Stages that were published twice or begun again after they were finished."""
    lost: set[str] = field(default_factory=set)
    """Finished artifacts and rows that were there and are no more."""
    _inodes: dict[Path, int] = field(default_factory=dict)
    _rows: set[Path] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look_once()

    def look_once(self) -> None:
        """Compare what is there with what was."""
        for path in self._artifacts():
            inode = path.stat().st_ino
            if self._inodes.setdefault(path, inode) != inode:
                self.repeated.add(path.parent.name)
        self.lost |= {str(path) for path in self._inodes if not path.exists()}
        self.lost |= {str(path) for path in self._rows if not path.exists()}
        self._rows |= set((self.folder / "results").glob("*/rows/*.json"))
        for path in (self.folder / "artifacts").glob("*/*.partial/history.jsonl"):
            self._check_not_begun_again(path)

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            # A folder that is removed between two steps of a search ends the search; the next look
            # sees all that this one would have.
            with contextlib.suppress(FileNotFoundError):
                self.look_once()

    def _artifacts(self) -> Iterator[Path]:
        for path in (self.folder / "artifacts").glob("*/*/artifact.json"):
            if "." not in path.parent.name:
                yield path

    def _check_not_begun_again(self, history: Path) -> None:
        """A kill right after publishing leaves a work folder; nobody may begin in it again."""
        record = history.parent.with_suffix("") / "artifact.json"
        if not record.exists():
            return
        published = len(json.loads(record.read_text())["history"])
        try:
            lines = [line for line in history.read_text().splitlines() if line.startswith("{")]
        except FileNotFoundError:
            return
        if len(lines) > published:
            self.repeated.add(record.parent.name)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a run has survived."""

    kills: int
    attempts: int
    resumes: int
    stages: int
    repeated: int
    lost: int

    @classmethod
    def of(cls, folder: Path, kills: int, watch: Watch) -> "Counts":
        """Count over the histories of all artifacts."""
        lines = [line["what"] for r in records(folder).values() for line in r["history"]]
        return cls(
            kills=kills,
            attempts=lines.count("started"),
            resumes=lines.count("resumed"),
            stages=len(records(folder)),
            repeated=len(watch.repeated),
            lost=len(watch.lost),
        )

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.stages} stages in {self.attempts} attempts, {self.resumes} "
            f"resumed from a checkpoint, {self.repeated} repeated after they were finished, "
            f"{self.lost} artifacts or rows lost"
        )
