"""`when`: under which values of the axes above it an axis is in force, in grids and searches."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from harness.config.axes import Values, identity
from harness.schema.reading import ConfigError, nearest

When = Mapping[str, Any]
"""Axis that stands above -> value or values of it under which what follows is in force."""


def holds(when: When, axes: Values) -> bool:
    """Whether a condition holds, given the axes above."""
    return all(
        axis in axes and identity(axes[axis]) in wanted_ones(wanted)
        for axis, wanted in when.items()
    )


def wanted_ones(wanted: Any) -> set[Hashable]:
    """Identities of the wanted value; of a list, also of all that it holds."""
    # An axis may have lists as values, so that a list may be one value or several.
    return {identity(wanted), *map(identity, wanted if isinstance(wanted, list) else [])}


def condition_words(when: When) -> str:
    """A condition in words; empty where it always holds."""
    parts = [
        f"{axis} {' or '.join(map(str, wanted if isinstance(wanted, list) else [wanted]))}"
        for axis, wanted in when.items()
    ]
    return ", ".join(parts)


def check_condition(when: When, above: Mapping[str, Sequence[Any]], path: str) -> None:
    """Refuse a condition that can never hold."""
    for axis, wanted in when.items():
        offered = above.get(axis)
        if not offered:
            raise ConfigError(
                f"must name an axis with choices that stands above, but got {axis!r}"
                f"{nearest(axis, list(above))} (there are: {', '.join(above) or 'none'})",
                path=path,
            )
        known = set(map(identity, offered))
        if identity(wanted) in known:
            continue
        for value in wanted if isinstance(wanted, list) else [wanted]:
            if identity(value) not in known:
                raise ConfigError(
                    f"must be among the choices {list(offered)}, but got {value!r}",
                    path=f"{path}.{axis}",
                )
