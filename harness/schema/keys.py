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
from typing import Any

NO_KEY = {"key": False}
"""Metadata of a dataclass field that does not enter the content key."""
KEY_UNLESS_DEFAULT = {"key": "unless_default"}
"""Metadata of a dataclass field that enters the content key where it differs from its default."""


def to_plain(value: Any, *, typed: bool = False, for_key: bool = False) -> Any:
    """Turn a configuration into values that JSON can hold.

    Args:
        typed: Write each dataclass's type name under `"type"`.
        for_key: Leave out fields that are declared not to enter the key.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: to_plain(getattr(value, f.name), typed=typed, for_key=for_key)
            for f in dataclasses.fields(value)
            if not (for_key and _left_out(value, f))
        }
        return {"type": type(value).__name__, **fields} if typed else fields
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, typed=typed, for_key=for_key) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, typed=typed, for_key=for_key) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        # JSON has no NaN or infinity, and NaN is not even equal to itself.
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"a configuration holds finite numbers, but got {value!r}; remove it")
        return value
    raise ValueError(
        f"a configuration holds JSON values, but got {type(value).__name__}: {value!r}"
    )


def _left_out(value: Any, field: "dataclasses.Field[Any]") -> bool:
    rule = field.metadata.get("key")
    # `field.default` is empty where a factory makes the default: such a field always enters.
    at_default = getattr(value, field.name) == field.default
    return rule is False or (rule == "unless_default" and at_default)


def canonical_json(value: Any) -> str:
    """Write a configuration as JSON: sorted keys, type names, no spaces."""
    # Text and not a pickle or Python's hash(): those differ between versions and processes.
    # Renaming a class or a field changes every key that holds it; moving a module changes none.
    plain = to_plain(value, typed=True, for_key=True)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """The key of a configuration: sha256 of its canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
