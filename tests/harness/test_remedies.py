"""Every option, setting and command that a message names exists: remedies work when typed."""

import ast
import dataclasses
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from harness.__main__ import COMMANDS
from harness.config.sweep import SweepFile
from harness.config.trial import Trial
from harness.schema.kinds import Kinds
from harness.tuning.space import Domain
from harness.tuning.tune_file import TuneFile

ROOT = Path(__file__).parents[2]
OF_OTHERS = {"--shm-size", "--head", "--untracked-files"}
"""Options of commands that are not ours."""


@cache
def sources() -> list[tuple[Path, list[str]]]:
    """Files of the program with their texts."""
    return [
        (path.relative_to(ROOT), list(messages(ast.parse(path.read_text(encoding="utf-8")))))
        for package in ("harness", "models", "analysis")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def messages(tree: ast.Module) -> Iterator[str]:
    """All text but docstrings; `{}` stands for what is filled in."""
    hidden = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            hidden |= {id(part) for part in node.values}
            parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in hidden:
            yield str(node.value)


def fields_of(hint: Any, seen: set[type]) -> Iterator[str]:
    """Names of all fields below a class, those of kinds included."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Kinds):
            for kind in extra:
                yield from fields_of(extra.config_of(kind), seen)
    for inner in typing.get_args(hint):
        yield from fields_of(inner, seen)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in seen:
        seen.add(hint)
        hints = typing.get_type_hints(hint, include_extras=True)
        for field in dataclasses.fields(hint):
            yield field.name
            yield from fields_of(hints[field.name], seen)


def test_every_option_that_a_message_names_exists():
    declared, named = set(OF_OTHERS), dict[str, Path]()
    for path, texts in sources():
        for text in texts:
            if re.fullmatch(r"--[a-z][a-z-]*", text):
                # The first argument of `add_argument`, also where a loop gives it.
                declared.add(text)
            named |= dict.fromkeys(re.findall(r"(?<![\w!-])--[a-z][a-z-]*[a-z]", text), path)
    assert len(named) > 30
    assert not {option: str(path) for option, path in named.items() if option not in declared}


def test_every_command_that_a_message_names_exists():
    modules = {"harness", *(module for module, _ in COMMANDS.values())}
    for path, texts in sources():
        for text in texts:
            for module in re.findall(r"python -m ((?:harness|analysis)[.\w]*)", text):
                assert module in modules, f"{path}: {text}"


def test_every_setting_that_a_message_names_exists():
    seen = set[type]()
    known = {name for top in (SweepFile, TuneFile, Trial, Domain) for name in fields_of(top, seen)}
    named = dict[str, Path]()
    for path, texts in sources():
        for text in texts:
            found = re.findall(r"(?:set|remove|raise|lower|change) `([a-z_.]+)`", text)
            named |= dict.fromkeys(found, path)
    assert len(named) > 10
    unknown = [name for name in named if not set(name.strip(".").split(".")) <= known]
    assert not {name: str(named[name]) for name in unknown}
