"""Every option, setting and command that a message names exists, and is taken where it is named."""

import ast
import copy
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

from .config.test_bad_sweeps import FILES, changed

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


def resolves(hint: Any, parts: list[str]) -> bool:
    """Whether a key path leads somewhere below a class; `{}` stands for what is filled in."""
    inner = [*typing.get_args(hint)]
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Kinds):
            inner += [extra.config_of(kind) for kind in extra]
    if not parts or hint is Any:
        return True
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        named = parts[0].replace("{}", ".*")
        names = [
            field.name for field in dataclasses.fields(hint) if re.fullmatch(named, field.name)
        ]
        return any(resolves(hints[name], parts[1:]) for name in names)
    if typing.get_origin(hint) is dict:
        return resolves(inner[-1], parts[1:])
    skipped = parts[1:] if typing.get_origin(hint) is tuple and parts[0].isdigit() else parts
    return any(resolves(each, skipped) for each in inner)


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


def test_every_place_that_a_message_names_takes_a_setting():
    """Not only the parts: the whole path leads to a field of some kind that may stand there."""
    heads = [field.name for field in dataclasses.fields(Trial)]
    tops = {"trial": Trial, "resources": SweepFile, "search": TuneFile}
    file = r"pt|pth|py|npz|json|safetensors|yaml|md|parquet|csv|jsonl|png"
    pattern = rf"(?<![\w./-])(?:trial\.)?((?:{'|'.join([*heads, 'resources'])})(?:\.[\w{{}}]+)+)"
    named, wrong = dict[str, Path](), {}
    for path, texts in sources():
        for text in texts:
            found = re.findall(pattern, text)
            named |= dict.fromkeys((n for n in found if not re.search(rf"\.({file})$", n)), path)
    assert len(named) > 60
    for name, path in named.items():
        parts = name.split(".")
        if name == "evaluation.protocol":  # It is spelled out before the fields are read.
            continue
        if not resolves(tops.get(parts[0], Trial), parts):
            wrong[name] = str(path)
    assert not wrong


def remedies(said: str) -> Iterator[str]:
    """Settings with their values that a refusal says to give, where it says which."""
    for path, value in re.findall(r"set `?([a-z][\w.]+\.[\w.]+)`? to ([\w.-]*\w)", said):
        yield f"{path}={value}"
    place = re.search(r"yaml: (?:trial\.)?([\w.]+): (?:`(\w+)` )?.*; use ([\d.]+|[a-z]\w+)\b", said)
    if place and "(set by" not in said:
        path, name, value = place.groups()
        yield f"{path}.{name}={value}" if name else f"{path}={value}"


def test_a_value_that_a_refusal_says_to_give_is_taken(command, write, tree):
    tried = []
    for name, (changes, _) in FILES.items():
        asked = copy.deepcopy(tree)
        for path, value in changes.items():
            changed(asked, path, value)
        path = write(asked)
        said = command(path, "--dry-run").err
        for setting in remedies(said):
            again = command(path, "--dry-run", "--set", setting).err
            assert said != again, f"{name}: {setting}\n{said}"
            assert not re.search("unknown key|set by an axis|--set", again), f"{name}\n{again}"
            tried.append(setting)
    assert len(tried) > 10, tried


def test_a_path_that_a_message_says_to_set_is_taken(command, write, tree):
    """Everything that a trial can name is absent, some by a preset; each is given in turn."""
    reference = {"kind": "images", "images": {"kind": "folder", "path": "no-images"}}
    published = {"kind": "lpips", "head_weights": "no-heads.pth", "backbone_weights": "no-vgg.pth"}
    encoder = {"kind": "timm", "name": "vit_tiny_patch16_224", "weights": "no-encoder.pt"}
    tree["presets"]["alignment"]["vf"] = {"tokenizer.alignment": {"kind": "vf", "encoder": encoder}}
    tree["grid"] = {"alignment": ["vf"]}
    tree["trial"]["tokenizer"] |= {"initial_weights": "no-start.pt"}
    tree["trial"]["generator"] |= {"checkpoint": "no-generator.pt"}
    tree["trial"]["evaluation"] |= {
        "extractor": {"kind": "inception", "weights": "no-inception.pth"},
        "reference": reference, "perceptual": published,
    }  # fmt: skip
    path, there = write(tree), Path("there.pth")
    there.write_bytes(b"")
    Path("folder").mkdir()
    said = command(path, "--dry-run").err
    named = re.findall(r"must be at '(no-[\w.-]+)', .*set `([\w.]+)` to", said)
    assert {place for place, _ in named} == set(re.findall(r"no-[\w-]+(?:\.\w+)?", str(tree)))
    for place, setting in named:
        given = "folder" if setting.endswith("images.path") else there
        again = command(path, "--dry-run", "--set", f"{setting}={given}").err
        assert place not in again, f"{setting}: {again}"
        assert not re.search("unknown key|set by an axis|--set", again), again
