"""Content keys: the same configuration and inputs give the same name, in every process.

A key is the sha256 of a canonical JSON text. Dataclasses are written with their type names, so
that two configurations that happen to have the same fields don't share a key. A field declared
with `field(metadata={"key": False})` (a path, say) does not move numbers and is left out. One with
`{"key": "unless_default"}` came later than stored artifacts did; at its default, which stands for
what they did, it is left out too, so that a further option makes nothing run again.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

NO_KEY = {"key": False}
"""Metadata of a dataclass field that does not enter the content key."""
KEY_UNLESS_DEFAULT = {"key": "unless_default"}
"""Metadata of a dataclass field that enters the content key where it differs from its default."""


PLAIN = frozenset({str, bool, int, float, type(None)})
"""Types of most values of a configuration, of which a plan has thousands: asked for first."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_plain(value: Any, *, typed: bool = False, for_key: bool = False) -> Any:
    """Turn a configuration into values that JSON can hold: `typed` with each dataclass's name under
    `"type"`, `for_key` without fields that are declared not to enter the key."""
    if type(value) in PLAIN or isinstance(value, str | int | float):
        # JSON has no NaN or infinity, and NaN is not even equal to itself.
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"a configuration holds finite numbers, but got {value!r}; remove it")
        return value
    if (fields := fields_of(type(value))) is not None:
        plain: dict[str, Any] = {"type": type(value).__name__} if typed else {}
        for name, rule, default in fields:
            part = getattr(value, name)
            if for_key and rule is not None and (rule is False or part == default):
                continue
            is_final = type(part) in PLAIN and type(part) is not float
            plain[name] = part if is_final else to_plain(part, typed=typed, for_key=for_key)
        return plain
    if isinstance(value, list | tuple):
        return [to_plain(v, typed=typed, for_key=for_key) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, typed=typed, for_key=for_key) for k, v in value.items()}
    raise ValueError(
        f"a configuration holds JSON values, but got {type(value).__name__}: {value!r}"
    )


@cache
def fields_of(kind: type) -> tuple[tuple[str, Any, Any], ...] | None:
    """Name, rule of the key and default of a dataclass's fields; None of another class."""
    if not dataclasses.is_dataclass(kind):
        return None
    # The default is empty where a factory makes it: such a field always enters.
    return tuple((f.name, f.metadata.get("key"), f.default) for f in dataclasses.fields(kind))


def canonical_json(value: Any) -> str:
    """Write a configuration as JSON: sorted keys, type names, no spaces."""
    # Text and not a pickle or Python's hash(): those differ between versions and processes.
    # Renaming a class or a field changes every key that holds it; moving a module changes none.
    plain = to_plain(value, typed=True, for_key=True)
    return _ENCODER.encode(plain)


def content_hash(value: Any) -> str:
    """The key of a configuration: sha256 of its canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
