"""What the numbers in the names of files tell of files that are not there."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

_OF_TOTAL = re.compile(
    r"(?P<head>(.*\D)?)(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<hash>-[0-9a-f]{16})?"
    r"(?P<tail>\.[^/]*)"
)
_NUMBERED = re.compile(r"(?P<head>(.*\D)?)(?P<number>\d+)(?P<tail>\.[^/]*)")
_MOST_ABSENT = 1000
"""More numbers than these between those of files are dates or the like, and call for no file."""


def missing_of_total(paths: Sequence[Path]) -> list[Path]:
    """Files named `...-NNNNN-of-MMMMM...` that are absent beside those that are there.

    Numbers begin at 0, or at 1 where the last of them is there. Some names end in 16 digits of a
    hash, which an absent file's name has as `*`.
    """
    series: dict[tuple[Path, str, str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        if found := _OF_TOTAL.fullmatch(path.name):
            end = ("-*" if found["hash"] else "") + found["tail"]
            one = (path.parent, found["head"], found["total"], end)
            series[one][int(found["number"])] = found["number"]
    return sorted(
        folder / f"{head}{number}-of-{total}{end}"
        for (folder, head, total, end), present in series.items()
        for number in _absent(present, _numbers(present, int(total)))
    )


def missing_between(paths: Sequence[Path]) -> list[Path]:
    """Files `...NNNN.<suffix>` that would come before the last that is there, counted from 0.

    A sign and no proof: some series begin at 1 or were never without holes.
    """
    series: dict[tuple[Path, str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        found = _NUMBERED.fullmatch(path.name)
        if found and not _OF_TOTAL.fullmatch(path.name):
            one = (path.parent, found["head"], found["tail"])
            series[one][int(found["number"])] = found["number"]
    return sorted(
        folder / f"{head}{number}{tail}"
        for (folder, head, tail), present in series.items()
        if _is_series(present)
        for number in _absent(present, range(max(present)))
    )


def absent_of_patterns(
    folder: Path, patterns: Sequence[str], find: Callable[[Sequence[Path]], list[Path]]
) -> list[Path]:
    """Files that are absent beside those of a pattern, and that the pattern would have found.

    Args:
        folder: Where the patterns are looked for.
        patterns: Names of files, which tell nothing, or patterns.
        find: Tells what is absent beside some files.
    """
    absent = [
        path
        for pattern in patterns
        if re.search(r"[*?[]", pattern)
        for path in find(sorted(folder.glob(pattern)))
        if path.match(pattern)
    ]
    return sorted(set(absent))


def _numbers(present: Collection[int], total: int) -> range:
    return range(1, total + 1) if total in present else range(total)


def _is_series(present: dict[int, str]) -> bool:
    """Whether numbers count files: several, or one that is padded with zeros, and close by."""
    padded = any(text.startswith("0") for text in present.values())
    return (len(present) > 1 or padded) and max(present) - len(present) < _MOST_ABSENT


def _absent(present: dict[int, str], expected: range) -> list[str]:
    width = min(len(text) for text in present.values())
    return [f"{number:0{width}d}" for number in expected if number not in present]
