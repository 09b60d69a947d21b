"""Finds files that are absent by the names of the others: `...-NNNNN-of-MMMMM...` counts them.

Declared counts alone would not do. They are held to the files when these are opened, hours after a
dry run, and whoever declares what is found would train on a part without knowing.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

_OF_TOTAL = re.compile(
    r"(?P<head>(.*\D)?)(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<hash>-[0-9a-f]{16})?"
    r"(?P<tail>\.[^/]*)"
)


def missing_of_total(paths: Sequence[Path]) -> list[Path]:
    """Files named `...-NNNNN-of-MMMMM...` that are absent beside those that are there.

    Numbers begin at 0, or at 1 where the last of them is there. Some names end in 16 digits of a
    hash, which an absent file's name has as `*`.
    """
    # Files of several series may lie in one folder: each is told apart by the rest of its name.
    series: dict[tuple[Path, str, str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        if found := _OF_TOTAL.fullmatch(path.name):
            end = ("-*" if found["hash"] else "") + found["tail"]
            one = (path.parent, found["head"], found["total"], end)
            series[one][int(found["number"])] = found["number"]
    absent = []
    for (folder, head, total, end), present in series.items():
        width = min(len(text) for text in present.values())
        for number in _numbers(present, int(total)):
            if number not in present:
                absent.append(folder / f"{head}{number:0{width}d}-of-{total}{end}")
    return sorted(absent)


def absent_of_patterns(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files that are absent beside those that a pattern finds, and that it would have found too.

    Args:
        patterns: Patterns, or names of files. A name calls for itself alone, so who wants a part of
            a data set lists its files.
    """
    absent = [
        path
        for pattern in patterns
        if re.search(r"[*?[]", pattern)
        for path in missing_of_total(find_files(folder, pattern))
        if path.match(pattern)
    ]
    return sorted(set(absent))


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Files that a pattern finds below a folder, by name; an absolute one is not below it."""
    place = Path(pattern).expanduser()
    if place.is_absolute():
        folder, pattern = Path(place.anchor), str(place.relative_to(place.anchor))
    if not re.search(r"[*?[]", pattern):
        return [folder / pattern] if (folder / pattern).exists() else []
    return sorted(folder.glob(pattern))


def _numbers(present: Collection[int], total: int) -> range:
    return range(1, total + 1) if total in present else range(total)
