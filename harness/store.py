"""`python -m harness.store`: what lies in a store, which results need it, and what none needs."""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis.outputs import path_at
from harness.commands.exit_codes import EXIT_DONE, exit_code
from harness.reporting.words import byte_count, columns
from harness.schema.reading import ConfigError
from harness.storage.artifacts import HOLDER, RECORD
from harness.storage.durable import read_object
from harness.storage.lease import hold, is_held
from harness.storage.leftovers import discard

_KEY = re.compile("[0-9a-f]{64}")
_HELP = {
    "--results": "folder with the results of all who use the store; may be given several times "
    "(default: results)",
    "--remove": "remove what no results need",
    "--dry-run": "say what --remove would remove",
    "--json": "print for machines",
}


class _Entry(NamedTuple):
    """A folder of the store: an artifact, unfinished work, or what was found damaged."""

    path: Path
    key: str
    num_bytes: int
    inputs: set[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 where the request is wrong."""
    parser = argparse.ArgumentParser(prog="python -m harness.store", description=__doc__)
    parser.add_argument("--store", type=path_at, default=Path("artifacts"), metavar="DIR")
    results, *flags = _HELP
    parser.add_argument(results, type=path_at, action="append", metavar="DIR", help=_HELP[results])
    for flag in flags:
        parser.add_argument(flag, action="store_true", help=_HELP[flag])
    options = parser.parse_args(arguments)
    return exit_code(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    entries = _entries(options.store)
    needs = sorted(_needs(options.results or [Path("results")], entries).items())
    needed = set[str]().union(*(keys for _, keys in needs))
    # What was set aside is made anew, whoever needs its stage.
    idle = [e for e in entries if e.key not in needed or ".damaged-" in e.path.name]
    removes = options.remove and not options.dry_run
    if options.remove and not needs:
        raise ConfigError("must hold results, but has none: all would be removed", path="--results")
    if removes:
        _remove(options.store, idle)
    groups = {f"in {options.store}": entries}
    for kind in dict.fromkeys(entry.path.parent.name for entry in entries):
        groups[kind] = [e for e in entries if e.path.parent.name == kind]
    groups |= {f"needed by {name}": [e for e in entries if e.key in keys] for name, keys in needs}
    groups["removed" if removes else "needed by no results"] = idle
    if options.json:
        told = {name: {str(e.path): e.num_bytes for e in each} for name, each in groups.items()}
        print(json.dumps(told, indent=1))
        return EXIT_DONE
    sizes = [(name, len(each), sum(e.num_bytes for e in each)) for name, each in groups.items()]
    lines = [(name, str(count), byte_count(size)) for name, count, size in sizes]
    lines += [(f"  {e.path}", "", byte_count(e.num_bytes)) for e in idle]
    print("\n".join(columns([("", "folders", "size"), *lines])))
    return EXIT_DONE


def _remove(store: Path, entries: Sequence[_Entry]) -> None:
    # What runs may need, for results that are not here, more than it holds.
    if held := [lease for lease in store.glob("*/*.lease") if is_held(lease)]:
        raise ConfigError(f"{held[0]} is held: something runs; wait until it has ended")
    for entry in entries:
        with hold(entry.path.with_name(f"{entry.key}.lease")):
            discard(entry.path)


def _entries(store: Path) -> list[_Entry]:
    """What this program made below a store; links lead to what is another's."""
    if not store.is_dir():
        raise ConfigError(f"must be a store, but {store} is no folder", path="--store")
    found = []
    for path in sorted(store.glob("*/*")):
        key, is_linked = _KEY.match(path.name), path.is_symlink() or path.parent.is_symlink()
        if key and not is_linked and any((path / name).is_file() for name in (RECORD, HOLDER)):
            size = sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())
            inputs = set(_KEY.findall(json.dumps(read_object(path / RECORD))))
            found.append(_Entry(path, key[0], size, inputs))
    return found


def _needs(roots: Sequence[Path], entries: Sequence[_Entry]) -> dict[Path, set[str]]:
    """Folder of results -> keys that stand in its files, and those of the inputs behind them."""
    found, inputs = defaultdict[Path, set[str]](set), defaultdict[str, set[str]](set)
    for entry in entries:
        inputs[entry.key] |= entry.inputs
    for root in roots:
        # Rows, plans and events: a sweep that runs has its plan there from the start.
        for file in root.rglob("*.json*"):
            first, *more = file.relative_to(root).parts
            text = file.read_text("utf-8", "replace")
            found[root / first if more else root] |= set(_KEY.findall(text))
    for known in found.values():
        waiting = set(known)
        while waiting:
            behind = inputs[waiting.pop()] - known
            known |= behind
            waiting |= behind
    return found


if __name__ == "__main__":
    sys.exit(main())
