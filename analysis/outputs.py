"""Where a report's files go, and which files there are a report's own to remove or overwrite."""

import hashlib
import json
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.table.atomic import write_text

PAGE = "report.html"
FIGURES_FOLDER = "figures"
MANIFEST = "written.json"
"""File beside the figures that lists what the last report wrote."""
TABLES = ("table.parquet", "table.csv")
MAX_NAME_BYTE = 200
"""Length of the name of a report's folder, bytes."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The folders of one report."""

    page: Path
    figures_dir: Path
    """Folder of figures, tables and words."""
    is_own: bool
    """Whether the folders belong to one sweep: files of a report's names there are a report's."""

    def make_room(self, names: Sequence[str]) -> None:
        """Removes what the last report wrote and notes what this one will.

        Raises:
            ValueError: If one of them, or the page, is there and no report wrote it; nothing is
                removed then.
            OSError: If the folders cannot be written.
        """
        earlier = self._list_written()
        self._refuse_foreign(names, earlier)
        self._require_writable()
        for name in earlier - {self._page_name}:
            (self.figures_dir / name).unlink(missing_ok=True)
        written = json.dumps(sorted([*names, self._page_name]), indent=1)
        write_text(self.figures_dir / MANIFEST, f"{written}\n")

    def _require_writable(self) -> None:
        for folder in (self.figures_dir, self.page.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise OSError(
                    f"a report must be written to {folder}, but {error.strerror or error};"
                    " choose another folder with --out FOLDER"
                ) from error

    @property
    def _page_name(self) -> str:
        return PAGE if self.page.parent == self.figures_dir else f"../{PAGE}"

    def _list_written(self) -> set[str]:
        """Files of the last report; a name that leads out of the folder is nobody's own."""
        file = self.figures_dir / MANIFEST
        if not file.is_file():
            return set()
        try:
            names = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{file} must list the files of the last report, but reading it gave: {error};"
                " delete it with the old figures, or choose another --out"
            ) from error
        known = names if isinstance(names, list) else []
        plain = {name for name in known if isinstance(name, str) and Path(name).name == name}
        return (plain - {"", "..", MANIFEST}) | ({self._page_name} & set(map(str, known)))

    def _refuse_foreign(self, names: Sequence[str], earlier: set[str]) -> None:
        if self.is_own:
            return
        foreign = [name for name in names if name not in earlier]
        files = [self.figures_dir / name for name in foreign]
        if self._page_name not in earlier:
            files.append(self.page)
        there = [file for file in files if file.exists()]
        if there:
            raise ValueError(
                "a report must overwrite no file that no report wrote, but it would"
                f" {there[0]}{f' and {len(there) - 1} more' if len(there) > 1 else ''};"
                " move it, or choose another --out"
            )


def name_folders(names: Sequence[str]) -> str:
    """One name for several folders: all of theirs, or the first ones where that is too long.

    A file system holds names of 255 bytes. The digits of what was left out keep the reports of
    other folders that begin alike apart.
    """
    whole = "+".join(names)
    if len(whole.encode()) <= MAX_NAME_BYTE:
        return whole
    digits = hashlib.sha256(whole.encode()).hexdigest()[:8]
    kept = whole.encode()[: MAX_NAME_BYTE // 2].decode(errors="ignore").rpartition("+")[0]
    shown = kept.count("+") + 1 if kept else 0
    return "+".join(filter(None, [kept, f"{len(names) - shown} more {digits}"]))


def choose_outputs(folders: Sequence[Path], out_dir: Path | str | None) -> Outputs:
    """Chooses where a report goes.

    Args:
        out_dir: Folder of all files; if None, the results folder itself, and for several one named
            after all of them beside the first ("a+b"), or after their parents where all have one
            name.

    Raises:
        ValueError: If the name chosen for several folders is that of a results folder.
    """
    if out_dir is not None:
        return Outputs(page=Path(out_dir) / PAGE, figures_dir=Path(out_dir), is_own=False)
    known = list(dict.fromkeys(folder.resolve() for folder in folders))
    if len(known) == 1:
        page = folders[0] / PAGE
        return Outputs(page=page, figures_dir=folders[0] / FIGURES_FOLDER, is_own=True)
    names = list(dict.fromkeys(folder.name for folder in known))
    if len(names) == 1:
        names = list(dict.fromkeys(folder.parent.name for folder in known))
    joined = known[0].parent / name_folders(names)
    if joined in known or any((joined / name).exists() for name in TABLES):
        raise ValueError(
            "a report of several folders must have a folder of its own, but the name chosen for"
            f" it, {joined}, is that of a results folder; say where it goes with --out"
        )
    return Outputs(page=joined / PAGE, figures_dir=joined / FIGURES_FOLDER, is_own=False)


def path_at(text: str) -> Path:
    """The value of an option that is a path; `~`, which a shell leaves in `--out=~/x`, is home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ArgumentTypeError(f"{error}; write the whole path, not {text!r}") from error
