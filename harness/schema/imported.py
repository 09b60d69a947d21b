"""Code of the user's own: imported where a file names it, and identified by its source in keys.

A sweep file names code in two ways: `plugins: [module]` imports modules that register kinds, and a
block of `kind: python` names one object, `package.module:name`. Nothing else is ever imported.
"""

import ast
import contextlib
import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.schema.keys import NO_KEY, PLAIN, fields_of
from harness.schema.reading import ConfigError, nearest

OWN = ("harness", "models", "analysis")
"""Top-level packages of this program; their numerics versions stand in keys, not their sources."""

ENTRY_POINTS = "latent_frontier.plugins"
"""Group of entry points by which an installed package registers kinds: `name = package.module`."""

_loaded: list[str] = []
_met: dict[str, None] = {}
MAX_SHIPPED_BYTES = 100 * 2**20
"""The largest package that is sent to a cluster; a larger one holds more than code."""


def plugins() -> tuple[str, ...]:
    """The modules that were imported as plug-ins, in that order."""
    return tuple(_loaded)


def search_also(folders: Iterable[Path]) -> None:
    """Let modules be found in further folders, after all others: a user's folder may hold a
    `models` or `analysis` of its own, and this program's must be found."""
    for folder in map(str, (folder.resolve() for folder in folders)):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()


def import_plugin(name: str) -> None:
    """Import a module that registers kinds, once."""
    if name not in _loaded:
        _import(name)
        _loaded.append(name)


def import_plugins(tree: Mapping[str, Any], folder: Path) -> None:
    """Import what a file names under `plugins` (looked for where Python looks, then in the working
    directory, then in `folder`), and what installed packages offer."""
    search_also([Path(), folder])
    points = metadata.entry_points(group=ENTRY_POINTS)
    wanted = [(f"entry point {point.name}", point.module) for point in points]
    names = tree.get("plugins", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"must be a list of module names, but got {names!r}; for example [my_package.kinds]",
            path="plugins",
        )
    wanted += [(f"plugins.{number}", name) for number, name in enumerate(names)]
    for path, name in wanted:
        try:
            import_plugin(name)
        except ConfigError as error:
            raise error.within(path=path) from error


@dataclass(frozen=True, kw_only=True)
class Target:
    """An object of the user's own code; what a block of `kind: python` names.

    The sources behind it, the installed version if there is one, `args` and the hash of `weights`
    enter keys: a change of any of these makes new artifacts.
    """

    target: str
    """What builds it: `package.module:name`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call."""
    weights: str | None = field(default=None, metadata=NO_KEY)
    """File that the call is given as `weights=PATH`. Its hash enters the key, its path does not."""

    def __post_init__(self) -> None:
        module, _, name = self.target.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise ValueError(
                f"`target` must be `package.module:name`, but got {self.target!r}; for example "
                "my_tokenizer:build"
            )

    @property
    def module(self) -> str:
        """The module that is imported."""
        return self.target.partition(":")[0]

    @property
    def call(self) -> str:
        """What builds it, and its arguments, for people."""
        arguments = ", ".join(f"{name}={value}" for name, value in self.args.items())
        return f"{self.target}({arguments})"

    def build(self, **further: Any) -> Any:
        """Import and call it."""
        try:
            module, name = _import(self.module), self.target.partition(":")[2]
        except ConfigError as error:
            raise error.within(path="target") from error
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                valid = [each for each in vars(found) if not each.startswith("_")]
                raise ConfigError(
                    f"{self.module} must have {name!r}, but has not{nearest(part, valid)}; correct "
                    f"the name, or that of the module, which is {getattr(module, '__file__', '')}",
                    path="target",
                )
            found = getattr(found, part)
        if not callable(found):
            raise ConfigError(
                f"must be callable, but {self.target} is {type(found).__name__}; name a class or "
                "a function",
                path="target",
            )
        given = {} if self.weights is None else {"weights": str(Path(self.weights).expanduser())}
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return found(**self.args, **further, **given)
        except (Exception, SystemExit) as error:
            # Whatever it is: the code is the user's, and so is the error.
            called_with = {**self.args, **further, **given}
            arguments = ", ".join(f"{name}={value!r}" for name, value in called_with.items())
            raise ConfigError(
                f"{self.target}({arguments}) failed: {type(error).__name__}: {error}; it must be "
                "callable with `args` (and `weights`, where a file is given)",
                path="target",
            ) from error


def code_of(value: Any) -> dict[str, str]:
    """Identity of the user's own code that a configuration uses; empty where it uses none.

    Returns:
        Module -> version and hash of its sources, and `weights of TARGET` -> hash of the file.

    Raises:
        ConfigError: A module is not found, or has no Python source; with the key path.
    """
    found: dict[str, str] = {}
    for path, part in _dataclasses_in(value):
        module = part.module if isinstance(part, Target) else type(part).__module__
        if module.partition(".")[0] not in OWN:
            try:
                found[module] = describe_module(module)
            except ConfigError as error:
                raise error.within(path=".".join([*path, "target"])) from error
        if isinstance(part, Target) and part.weights is not None:
            name, digest = f"weights of {part.target}", _file_hash(Path(part.weights).expanduser())
            # Two objects of one class differ in these alone.
            unlike = found.get(name, digest) != digest
            found[f"{name} ({'.'.join(path)})" if unlike else name] = digest
    return found


@contextlib.contextmanager
def own_errors(path: str, value: Any) -> Iterator[None]:
    """Turn errors inside of the user's own code in the configuration at a key path into refusals;
    where none of its code is the user's, an error is ours and stays."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not code_of({path: value}):
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"your own code must give what the kinds here need, but at {at.filename}:{at.lineno} "
            f"came {type(error).__name__}: {error}; mend it",
            path=path,
        ) from error


def describe_module(name: str) -> str:
    """Version, if installed, and hash of a module's source and of what it imports beside it.

    What counts is read from the sources themselves: a module's imports, in turn, as far as they
    lie in the same package or outside installed packages. Installed ones stand by their version.

    Raises:
        ConfigError: There is no such module, or it has no Python source.
    """
    return _described(name, tuple(sys.path))


def own_code() -> list[Path]:
    """Files and package folders of the user's own code that plans of this process have met; not
    what is installed or holds more than code, which must be installed where it is needed."""
    found: dict[Path, None] = {}
    for name in (*_loaded, *_met):
        for module, path in source_files(name).items():
            if not _is_installed(path):
                depth = module.count(".") + (path.name == "__init__.py")
                found[path.resolve() if depth == 0 else path.resolve().parents[depth - 1]] = None
    sizes = {p: sum(f.stat().st_size for f in [p, *p.rglob("*")] if f.is_file()) for p in found}
    return [path for path, size in sizes.items() if size <= MAX_SHIPPED_BYTES]


def source_files(name: str) -> Mapping[str, Path]:
    """Module -> file, of a module and of what it imports beside it."""
    return _sources(name, tuple(sys.path))


# Kept: a module stays what it was when it was imported, whatever becomes of its file.
@lru_cache(maxsize=64)
def _described(name: str, search: tuple[str, ...]) -> str:
    _met[name] = None
    sources, digest = _sources(name, search), hashlib.sha256()
    for module in sorted(sources):
        digest.update(f"{module}\0".encode() + sources[module].read_bytes() + b"\0")
    version = _version(name.partition(".")[0])
    return " ".join(part for part in (version, f"sha256 {digest.hexdigest()}") if part)


def _import(name: str) -> Any:
    try:
        # What a module prints is not part of what a command prints, which programs may read.
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            if name.partition(".")[0] in OWN:
                raise ConfigError(
                    f"no module {name!r}: {name.partition('.')[0]!r} is a package of this program, "
                    "and a folder of that name cannot be imported beside it; rename yours"
                ) from error
            raise ConfigError(
                f"no module {name!r} is installed or lies in this folder or the sweep file's; "
                "install it (pip install -e FOLDER), or run from the folder that holds it"
            ) from error
        raise ConfigError(
            f"{name} cannot be imported: no module {missing!r}; install it"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{name} cannot be imported: {type(error).__name__}: {error}; see that "
            f"`python -c 'import {name}'` works"
        ) from error


def _dataclasses_in(whole: Any) -> Iterator[tuple[Sequence[str], Any]]:
    """Every dataclass in a configuration, with its key path."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), whole)]
    while waiting:
        path, value = waiting.pop()
        parts: Iterable[tuple[Any, Any]] = ()
        if (fields := fields_of(type(value))) is not None:
            yield path, value
            parts = [(name, getattr(value, name)) for name, *_ in fields]
        elif isinstance(value, list | tuple):
            parts = enumerate(value)
        elif isinstance(value, Mapping):
            parts = value.items()
        inner = [(name, part) for name, part in parts if type(part) not in PLAIN]
        waiting += [((*path, str(name)), part) for name, part in reversed(inner)]


def _file_hash(path: Path) -> str:
    try:
        return f"sha256 {_hash_at(path, path.stat().st_mtime_ns, path.stat().st_size)}"
    except OSError:
        return f"absent {path.name}"


@lru_cache(maxsize=64)
def _hash_at(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _sources(name: str, _search: tuple[str, ...]) -> Mapping[str, Path]:
    top = name.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        # A package's own file runs before any module in it.
        waiting += [module.rpartition(".")[0]] if "." in module else []
        spec = _spec(module)
        if module in found or spec is None or spec.origin is None or spec.origin[-3:] != ".py":
            continue
        path = Path(spec.origin)
        if module.partition(".")[0] != top and _is_installed(path):
            continue
        found[module] = path
        package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        waiting += _imports(path, package)
    if name not in found:
        _import(name)  # It says what is wrong, unless it finds what has no source.
        raise ConfigError(
            f"{name!r} must have Python source outside of Python's own library, to tell its "
            "versions apart, but has none; where yours has a name of Python's, rename it"
        )
    return found


def _spec(name: str) -> ModuleSpec | None:
    """Find a module without importing anything; None where there is none, or it is ours."""
    top, *parts = name.split(".")
    if top in (*OWN, *sys.stdlib_module_names):
        return None
    try:
        # Not only along the path: what is installed in place (pip install -e) may have a finder.
        spec = find_spec(top)
    except ValueError:  # A module that was made and not read.
        return None
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        where = [*spec.submodule_search_locations]
        spec = PathFinder.find_spec(f"{spec.name}.{part}", where)
    return spec


def _is_installed(path: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in path.parts)


def _imports(path: Path, package: str) -> Iterator[str]:
    """Every module that a source may import, wherever in it; names of objects fall out later."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ConfigError(
            f"{path} cannot be read as Python: {error.msg} (line {error.lineno}); correct it"
        ) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(
                [*(above if node.level else ()), *([node.module] if node.module else ())]
            )
            if base:
                yield base
                yield from (f"{base}.{each.name}" for each in node.names)


def _version(top: str) -> str:
    names = metadata.packages_distributions().get(top, ())
    return " ".join(f"{name} {metadata.version(name)}" for name in names)
