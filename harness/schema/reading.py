"""Reads YAML, validates it against dataclasses, and words the errors for whoever wrote the file."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar, cast

import pydantic
import yaml

from harness.schema.kinds import num_added

T = TypeVar("T")

MAX_DEPTH = 64
"""Blocks and lists of a file, or parts of a path, within each other."""
MAX_NODES = 100_000
"""Keys and values of a file, those that aliases repeat included; PyYAML reads them in seconds."""
MAX_BYTES = 2**23
"""Length of a file."""
_TAG = "tag:yaml.org,2002:"
_NO_TEXT = re.compile("[\\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class ConfigError(ValueError):
    """A wrong request; the message names the file, the key path, what came and what is valid."""

    def __init__(self, message: str, *, path: str = "", source: str = "") -> None:
        self.message, self.path, self.source = message, path, source
        super().__init__(": ".join(part for part in (source, path, message) if part))

    def within(self, *, path: str = "", source: str = "") -> "ConfigError":
        """The same error with the file and the key path of the block that holds it in front."""
        joined = ".".join(part for part in (path, self.path) if part)
        return ConfigError(self.message, path=joined, source=source or self.source)


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2, text as keys, no key twice, and an end."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._composed = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, whose aliases count as what they stand for."""
        event = self.peek_event()
        self._depth, self._composed = self._depth + 1, self._composed + 1
        if self._depth > MAX_DEPTH:
            raise _not_yaml(event, f"must nest at most {MAX_DEPTH} blocks and lists deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and node not in self._sizes:
            raise _not_yaml(event, f"the anchor {event.anchor!r} must not hold itself")
        if node is not None and node not in self._sizes:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = inner if isinstance(node, yaml.SequenceNode) else [n for p in inner for n in p]
            self._sizes[node] = 1 + sum(self._sizes[part] for part in parts)
        if self._composed > MAX_NODES or self._sizes.get(cast(Any, node), 0) > MAX_NODES:
            raise _not_yaml(event, f"must be at most {MAX_NODES:,} keys and values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value; what Python says of a tag that does not fit becomes a refusal."""
        try:
            value = super().construct_object(node, deep=deep)
        except (ConfigError, yaml.YAMLError):
            raise
        except (ValueError, LookupError, AttributeError) as error:
            raise _not_yaml(node, f"{str(node.value)[:40]!r} is no {node.tag}") from error
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise _not_yaml(node, f"{value[:40]!r} has characters that no text has")
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping; its keys are names, also `1`, `true` and `~`."""
        if not isinstance(node, yaml.MappingNode):
            raise _not_yaml(node, f"{str(node.value)[:40]!r} is no mapping")
        seen: set[str] = set()
        for key in (key for key, _ in node.value if key.tag != _TAG + "merge"):
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"a key must be text, but is a block (line {line}); quote it")
            # PyYAML would keep the last of two equal keys and say nothing.
            if key.value in seen:
                raise ConfigError(f"the key {key.value!r} stands twice (line {line}); keep one")
            seen.add(key.value)
        self.flatten_mapping(node)
        node.value = [
            (yaml.ScalarNode(_TAG + "str", key.value, key.start_mark, key.end_mark), value)
            for key, value in node.value
        ]
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        return int(text, base)


def _not_yaml(place: yaml.Node | yaml.Event, reason: str) -> ConfigError:
    return ConfigError(f"not valid YAML: {reason} (line {place.start_mark.line + 1})")


# PyYAML follows YAML 1.1, where a value is another than it shows: `on` and `no` are booleans, 010
# is 8, 1:30 is 90, 2026-11-28 is a date, and `1e-4` is text because it has no dot.
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))
# Without what JSON cannot say: dates, sets, bytes.
_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "float", "str", "seq", "map")
}
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """Read YAML text; `1e-4` is a number and a repeated key an error."""
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError:
        raise
    # PyYAML lets through what Python says of `"\U00110000"`.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"must be at most {MAX_BYTES:,} bytes, but is longer")
        return parse_yaml(content.decode())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"cannot be read ({reason}); give a sweep file", source=str(path)
        ) from error
    except ConfigError as error:
        raise error.within(source=str(path)) from error


def validate(expected: type[T] | Any, tree: Any) -> T:
    """Build `expected` from a JSON-able tree, strictly: no unknown keys, no converted types. Raises
    ConfigError with the key path of the first thing that does not fit."""
    # Strict mode takes a list for a tuple only in JSON, so the tree goes through JSON text.
    try:
        text = json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError) as error:
        path, value = _first_not_json(tree)
        raise ConfigError(
            f"must be a JSON-like value, but got {value!r}; use text or a finite number",
            path=".".join(path),
        ) from error
    try:
        return cast(T, _adapter(expected, num_added()).validate_json(f"[{text}]", strict=True)[0])
    except pydantic.ValidationError as error:
        raise _from_pydantic(error, expected, tree) from error


@lru_cache(maxsize=64)
def _adapter(expected: Any, _kinds_added: int) -> Any:
    """The validator of a list of one `expected`, in which no dataclass takes unknown keys; kept,
    because building one takes longer than using it."""
    # pydantic hands a setting down to dataclasses inside of a type, not to the type itself.
    forbid = pydantic.ConfigDict(extra="forbid")
    one: Any = GenericAlias(tuple, (expected,))
    return pydantic.TypeAdapter(one, config=forbid)


def _first_not_json(tree: Any) -> tuple[list[str], Any]:
    """Path and value of the first thing in the tree that JSON cannot say."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, Mapping):
        parts = tree.items()
    elif isinstance(tree, list):
        parts = enumerate(tree)
    for key, value in parts:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            path, found = _first_not_json(value)
            return [str(key), *path], found
    return [], tree


def nearest(name: str, valid: Sequence[str]) -> str:
    """`"; did you mean 'x'?"`, or nothing where no valid name is close."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _from_pydantic(error: pydantic.ValidationError, expected: Any, tree: Any) -> ConfigError:
    errors = _of_members_meant([{**e, "loc": e["loc"][1:]} for e in error.errors()])
    # A misspelt key also leaves the right one missing; the misspelling is the error to show.
    first = min(errors, key=lambda e: e["type"] != "unexpected_keyword_argument")
    path, value = _locate(tree, first)
    where = ".".join(path)
    kind, context = first["type"], first.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        names = _valid_names(expected, first["loc"][:-1])
        valid = f"valid: {', '.join(sorted(names))}" if names else "no such key is valid here"
        hint = nearest(path[-1], sorted(names))
        return ConfigError(f"unknown key {path[-1]!r}{hint} ({valid})", path=where)
    if kind == "missing":
        return ConfigError("a value is required, but none came; add it", path=where)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        valid = context.get("expected_tags", "")
        tag = str(context.get("tag", "nothing"))
        names = re.findall(r"'([^']*)'", valid)
        message = f"`kind` must be one of {valid}, but got {tag!r}{nearest(tag, names)}"
        return ConfigError(message, path=f"{where}.kind" if where else "kind")
    if kind == "literal_error":
        same = [e for e in errors if e["type"] == kind and _locate(tree, e)[0] == path]
        texts = ", ".join(e.get("ctx", {}).get("expected", "") for e in same)
        names = re.findall(r"'([^']*)'", texts)
        message = (
            f"must be one of {', '.join(map(repr, names))}, but got {value!r}"
            f"{nearest(str(value), names)}"
        )
        return ConfigError(message, path=where)
    if kind == "value_error":
        return ConfigError(str(context.get("error", first["msg"])), path=where)
    messages = [e["msg"] for e in errors if _locate(tree, e)[0] == path]
    words = " or ".join(dict.fromkeys(message.removeprefix("Input ") for message in messages))
    words = words.replace("valid array", "list").replace("an object", "a mapping")
    is_listed = "a list" in words and isinstance(value, str | int | float | dict)
    hint = f"; write [{value if isinstance(value, str) else json.dumps(value)}]" * is_listed
    return ConfigError(f"{words}, but got {value!r}{hint}", path=where)


def _of_members_meant(errors: Sequence[Any]) -> list[Any]:
    """Leave out the members of a union that `kind` rules out, unless nothing else is wrong."""
    # pydantic reports for every member of a union what does not fit that member.
    others = [
        e["loc"][:-1] for e in errors if e["type"] == "literal_error" and e["loc"][-1] == "kind"
    ]
    meant = [e for e in errors if not any(e["loc"][: len(o)] == o for o in others)]
    wrong_kinds = [e for e in errors if e["type"] == "literal_error" and e["loc"][-1] == "kind"]
    return meant or wrong_kinds or list(errors)


def _locate(tree: Any, error: Any) -> tuple[list[str], Any]:
    """Follow pydantic's location through the tree; parts that name a union's member fall out."""
    path, value = [], tree
    location = error["loc"]
    for position, part in enumerate(location):
        absent = error["type"] == "missing" and position == len(location) - 1
        if isinstance(value, Mapping) and (part in value or absent):
            path.append(str(part))
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(str(part))
            value = value[part]
    return path, value


def _valid_names(expected: Any, location: Sequence[str | int]) -> set[str]:
    """Field names of the dataclass at `location`, read from the JSON schema of `expected`."""
    schema = pydantic.TypeAdapter(expected).json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        present = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
        return resolve(present[0]) if len(present) == 1 else node

    node = resolve(schema)
    for part in location:
        if "properties" in node and part in node["properties"]:
            node = resolve(node["properties"][part])
        elif part in node.get("discriminator", {}).get("mapping", {}):
            node = resolve({"$ref": node["discriminator"]["mapping"][part]})
        elif isinstance(part, int) and "items" in node:
            node = resolve(node["items"])
        elif isinstance(part, int) and "prefixItems" in node:
            node = resolve(node["prefixItems"][part])
        else:
            options = [resolve(o) for o in node.get("anyOf", node.get("oneOf", []))]
            named = [o for o in options if o.get("title") == part or _has_kind(o, part)]
            named = named or [o for o in options if part in o.get("properties", {})]
            if not named:
                return set()
            node = named[0]
            if part in node.get("properties", {}):
                node = resolve(node["properties"][part])
    return set(node.get("properties", {}))


def _has_kind(schema: Mapping[str, Any], name: str | int) -> bool:
    return schema.get("properties", {}).get("kind", {}).get("const") == name
