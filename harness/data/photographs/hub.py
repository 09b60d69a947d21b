"""Data sets named on the Hugging Face hub, read from the hub's local cache.

`hf://datasets/<owner>/<name>[@<revision>][/<folder>]`, as the hub's own tools write it; a slash in
a revision is written `%2F`. Nothing is fetched unless `fetch` is called.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import final
from urllib.parse import unquote

_ADDRESS = re.compile(
    r"hf://datasets/(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^/]+))?(/(?P<folder>.+))?"
)
_SCHEME = "hf://"


@final
@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A repository of data on the hub."""

    repository: str
    """Owner and name."""
    revision: str
    """Branch, tag or commit."""
    folder: str
    """Folder below the repository; empty: all of it."""

    @classmethod
    def parse(cls, root: str) -> "HubDataset | None":
        """The repository that an address names; None for a path."""
        if not root.startswith(_SCHEME):
            return None
        found = _ADDRESS.fullmatch(root)
        if found is None:
            raise ValueError(
                "`root` on the hub must be hf://datasets/OWNER/NAME@REVISION or a folder below "
                f"that, but got {root!r}; name a repository of data"
            )
        return cls(
            repository=found["repository"],
            revision=unquote(found["revision"] or "main"),
            folder=(found["folder"] or "").strip("/"),
        )

    def cached(self) -> Path:
        """The folder of the revision's files in the hub's cache, or where it would be."""
        name = "datasets--" + self.repository.replace("/", "--")
        # An optional dependency, imported where it is used.
        if find_spec("huggingface_hub") is None:
            return Path("~/.cache/huggingface/hub").expanduser() / name
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            # Local files only: no network is needed unless `--download` asks for it.
            found = snapshot_download(
                self.repository, repo_type="dataset", revision=self.revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            found = Path(constants.HF_HUB_CACHE, name, "snapshots", self.revision)
        return Path(str(found)) / self.folder

    def command(self, patterns: Sequence[str]) -> str:
        """The shell command that fetches files into the cache."""
        words = ["hf", "download", self.repository, "--repo-type", "dataset"]
        words += [] if self.revision == "main" else ["--revision", self.revision]
        words += [word for each in self._below(patterns) for word in ("--include", each)]
        return shlex.join(words)

    def fetch(self, patterns: Sequence[str]) -> None:
        """Download files into the cache. Raises OSError where the hub cannot be reached or has no
        such repository or revision, RuntimeError where huggingface_hub is not installed."""
        if find_spec("huggingface_hub") is None:
            raise RuntimeError("huggingface_hub must be installed to fetch; pip install it")
        from huggingface_hub import snapshot_download

        snapshot_download(
            self.repository,
            repo_type="dataset",
            revision=self.revision,
            allow_patterns=self._below(patterns),
        )

    def _below(self, patterns: Sequence[str]) -> list[str]:
        return [f"{self.folder}/{pattern}" if self.folder else pattern for pattern in patterns]
