"""Bad and odd requests at random, derived from the configuration classes.

A new field or kind is met without a line here.
"""

import copy
import dataclasses
import itertools
import random
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml

from harness.config.sweep import SweepFile
from harness.config.trial import Trial
from harness.schema.kinds import Kinds
from harness.tuning.tune_file import TuneFile

Tree = dict[str, Any]

# fmt: off
WHOLE = [
    0, 1, -1, 2, 3, 5, 7, 16, 255, 999, 10**5, 10**6, 10**9, 10**12, 2**31, 2**63, 2**64, -(2**63),
]
NUMBERS = [
    0.0, -0.0, 0.5, 1.0, 1.5, -1e-9, 5e-324, 1e-30, 1e9, 1e300, -1e308, float("inf"), float("nan"),
]
TEXTS = [
    "", " ", "x", "none", "auto", "null", "1", "1e3", "ä", "日本", "\u202egnp", "a\u0301", "../x",
    "/", "~", "~nobody-here/x", "a b", "a.b", "$(touch x)", "`touch x`", "=1+1", "{0..99999999}",
    "{a,b", "**", "**x", "hf://datasets/../..", "hf://x", "hf-hub:a/b", "https://a.invalid/x",
    "file:///etc/passwd", "x:y", "x:y.z", "os:system", "a" * 5000, "/dev/zero", "/proc/self/mem",
    "\ud800", "a\0b", "\x1b[2J", "%s", "{x}",
]
BLOCKS: list[Any] = [
    None, True, False, [], {}, [[]], [{}], [None], {"kind": None}, {"kind": "x"}, {"kind": ["x"]},
    {"": 1}, {"x": {"y": 1}}, [1, "a", None], list(range(1000)), {str(n): n for n in range(300)},
]
YAML = [
    "&a [*a]", "*nothing", "!!python/object/apply:os.system [ls]", "!!int x", "!!float ''",
    "!!binary x", "!!set {a}", "!!timestamp x", "010", "1:30", "0x1F", "0o17", "1_000", "+1", ".5",
    "1e5", ".inf", "-.Inf", ".NaN", "~", "on", "2026-11-29", "9" * 5000, "[" * 500, "{" * 500,
    "{<<: 3}", "{<<: [1]}", "{a: 1, a: 2}", "{1: 2}", "{~: 2}", "? [a]\n: 1", "'", '"\\x00"',
    '"\\ud800"', "@x", "%x", "\t- x", "- - - x", "|\n  x\n", "a: b: c", "#",
]
# fmt: on


Command = Literal["run", "tune", "evaluate"]


@dataclass(frozen=True)
class Request:
    """One command line and its file."""

    command: Command
    text: str
    settings: tuple[str, ...]


class Requests:
    """Requests, one after the other, that a seed tells apart."""

    def __init__(self, seed: int, sweep: Tree, search: Tree) -> None:
        """Args:
        seed: Of all that is drawn.
        sweep: A small valid sweep; its values stay where none is drawn.
        search: A small valid search.
        """
        self.random = random.Random(seed)
        self.files: dict[Command, Tree] = {"run": sweep, "tune": search, "evaluate": sweep}
        self.classes: dict[str, Any] = {"run": SweepFile, "tune": TuneFile, "evaluate": SweepFile}

    def __iter__(self) -> Iterator[Request]:
        while True:
            command = self.random.choices(get_args(Command), [6, 3, 1])[0]
            tree, settings = copy.deepcopy(self.files[command]), []
            for _ in range(self.random.choice([1, 1, 1, 2, 3])):
                settings += self._spoil(command, tree)
            text = yaml.dump(tree, sort_keys=False, allow_unicode=self._chance(0.5))
            yield Request(command, self._spoilt_text(text), tuple(settings))

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _spoil(self, command: str, tree: Tree) -> list[str]:
        """Put one drawn value into a file; or return a setting that does."""
        way = self.random.random()
        path, value = self._place(Trial, "")
        if way < 0.15:
            text = self.random.choice(YAML) if self._chance(0.5) else yaml.dump(value)
            return [f"{path}={text}"]
        if way < 0.6:
            _put(tree, f"trial.{path}", value)
        elif way < 0.75:
            axis = path if self._chance(0.8) else self.random.choice(TEXTS)
            self._vary(command, tree, axis, value)
        elif way < 0.85:
            name = self.random.choice(["a", *TEXTS, 1, True, None])
            preset = {path: value} if self._chance(0.8) else self._anything()
            _put(tree, "presets.drawn", {name: preset})
            self._vary(command, tree, "drawn", name)
        else:
            place, found = self._place(self.classes[command], "")
            _put(tree, place, found)
        return []

    def _vary(self, command: str, tree: Tree, axis: str, value: Any) -> None:
        if command == "tune":
            low, high = self.random.sample([*WHOLE, *NUMBERS], 2)
            domain = self.random.choice(["log", "uniform", "integer", "choices"])
            ends = [low, high] if domain != "choices" else [value, self._anything()]
            search = tree["search"] if isinstance(tree.get("search"), dict) else {}
            drawn = {domain: ends} if self._chance(0.9) else self._anything()
            tree["search"] = {**search, axis: drawn}
            return
        values = [value, self._anything()] if self._chance(0.5) else [value]
        if self._chance(0.1):
            values = list(range(self.random.choice([0, 300, 10_001, 25_000])))
        when = {"choices": values, "when": {"seed": value}}
        grid = {axis: values if self._chance(0.9) else when}
        tree["grid"] = {**grid, "seed": [0, 1]} if self._chance(0.8) else [grid, self._anything()]
        if self._chance(0.1):
            tree["zip"] = [[axis, "seed"]]
        if self._chance(0.1):
            tree["exclude"] = [{axis: value}]

    def _place(self, hint: Any, path: str) -> tuple[str, Any]:
        """A field somewhere below a class, and a value for it."""
        inner = [each for each in _members(hint) if dataclasses.is_dataclass(each)]
        if not inner or (path and self._chance(0.15)):
            return path or "trial", self._value(hint)
        chosen: Any = self.random.choice(inner)
        hints = typing.get_type_hints(chosen, include_extras=True)
        if path and len(inner) > 1 and self._chance(0.4):
            return path, self._block(chosen)
        names = [field.name for field in dataclasses.fields(chosen)]
        name = self.random.choice([*names, "no_such_field"] if self._chance(0.1) else names)
        return self._place(hints.get(name, int), f"{path}.{name}".lstrip("."))

    def _block(self, kind: Any, depth: int = 0) -> Any:
        """A block of a class, with some of its fields; most of what is needed is there."""
        hints, block = typing.get_type_hints(kind, include_extras=True), {}
        for field in dataclasses.fields(kind):
            needed = field.default is field.default_factory is dataclasses.MISSING
            if field.name == "kind" or (needed and self._chance(0.97)) or self._chance(0.1):
                good = field.name == "kind" or self._chance(0.8)
                hint = hints[field.name]
                block[field.name] = self._good(hint, depth) if good else self._value(hint)
        return block

    def _good(self, hint: Any, depth: int) -> Any:
        """A value of the right type."""
        members = list(_members(hint)) or [str]
        member: Any = self.random.choice(members)
        if typing.get_origin(member) is Literal:
            return self.random.choice(typing.get_args(member))
        if dataclasses.is_dataclass(member):
            return self._block(member, depth + 1) if depth < 4 else {}
        if typing.get_origin(member) in (tuple, list):
            args = [a for a in typing.get_args(member) if a is not Ellipsis]
            return [self._good(a, depth + 1) for a in args]
        plain = {int: [1, 2, 4, 8, 16, 100], float: [0.1, 0.5, 1.0], bool: [True, False]}
        return self.random.choice(plain.get(member, [None] if member is type(None) else ["x", "a"]))

    def _value(self, hint: Any) -> Any:
        """A value for a field: mostly of its type and extreme, else anything."""
        if self._chance(0.2):
            return self._anything()
        member: Any = self.random.choice(list(_members(hint)) or [str])
        if typing.get_origin(member) in (tuple, list):
            args = [a for a in typing.get_args(member) if a is not Ellipsis] or [int]
            return [
                self._value(self.random.choice(args))
                for _ in range(self.random.choice([0, 1, 2, 9, 200]))
            ]
        if typing.get_origin(member) is Literal:
            return self.random.choice([*typing.get_args(member), *TEXTS])
        if dataclasses.is_dataclass(member):
            return self._block(member)
        pool: list[Any] = {
            int: WHOLE,
            float: [*NUMBERS, *WHOLE],
            bool: [True, False, 1, "yes"],
        }.get(member, TEXTS)
        return self.random.choice(pool)

    def _anything(self) -> Any:
        return self.random.choice(self.random.choice([WHOLE, NUMBERS, TEXTS, BLOCKS]))

    def _spoilt_text(self, text: str) -> str:
        """The file, now and then with a line that is drawn, cut, or with another letter."""
        way, at = self.random.random(), self.random.randrange(len(text))
        if way < 0.1:
            lines = text.splitlines()
            number = self.random.randrange(len(lines))
            key = lines[number].partition(":")[0]
            lines[number] = f"{key}: {self.random.choice(YAML)}"
            return "\n".join(lines)
        if way < 0.13:
            return text[:at] + self.random.choice("\t{[&*!|>'\"%@`:-,\u2028\x07é") + text[at + 1 :]
        return text[:at] if way < 0.14 else text


def _members(hint: Any) -> Iterator[Any]:
    """The types that a hint stands for: members of unions, and kinds."""
    kinds = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Kinds)]
    if kinds:
        yield from (kinds[0].config_of(kind) for kind in kinds[0])
    elif hasattr(hint, "__metadata__"):
        yield from _members(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        yield from itertools.chain.from_iterable(map(_members, typing.get_args(hint)))
    else:
        yield hint


def _put(tree: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value
