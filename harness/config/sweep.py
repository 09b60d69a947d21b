"""The sweep file: a base trial, a grid of axes over any of its fields, and named presets."""

import copy
import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.config.axes import Axis, describe_axes, same, write_value
from harness.config.checks import check_trial
from harness.config.evaluation import AutoGuidanceWith
from harness.config.grid import (
    Exclusions,
    Grid,
    all_combinations,
    axes_of,
    listed_values,
    read_grids,
)
from harness.config.protocol_presets import apply_presets
from harness.config.reference import describe_source
from harness.config.resources import Resources, merge_default
from harness.config.trial import Trial
from harness.schema.imported import code_of, import_plugins, own_errors
from harness.schema.keys import content_hash, to_plain
from harness.schema.reading import ConfigError, nearest, parse_yaml, read_yaml, validate

F = TypeVar("F")
BASE = "(base)"
"""Value of an axis where the base trial has something that none of its values is."""
_ABSENT = object()


def check_name(name: str) -> None:
    """Refuse a name that cannot name a folder of results."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            f"`name` must be letters, digits, '.', '_' and '-' and start with a letter or "
            f"digit, but got {name!r}; it names a folder"
        )


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """A sweep as written: validated in its outline, its trials still unexpanded."""

    name: str
    """Folder of the results: letters, digits, `.`, `_` and `-`."""
    description: str = ""
    """Purpose of the sweep; shown in the results."""
    trial: dict[str, Any]
    """The base trial."""
    presets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Axis name -> value name -> dotted paths of the trial and their values."""
    grid: dict[str, Any] | list[dict[str, Any]] = field(default_factory=dict)
    """Axis (a preset's name or a dotted path of the trial) -> values, or `choices` and `when`; or
    a list of such grids. See `harness.config.grid`."""
    zip: list[list[str]] = field(default_factory=list)
    """Lists of axes that move together: the first value of each is one combination."""
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Combinations left out: axis -> value or list of values."""
    compare: dict[str, Any] = field(default_factory=dict)
    """Axis -> the value that its others are compared with; elsewhere the first of the axis."""
    resources: dict[str, Resources] = field(default_factory=dict)
    """Stage kind -> what it holds; `default` for the kinds not named."""
    plugins: list[str] = field(default_factory=list)
    """Modules of the user's own that register further kinds, imported before the file is read."""

    def __post_init__(self) -> None:
        check_name(self.name)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination of the grid and the trial it stands for."""

    axes: Mapping[str, Any]
    """Axis -> value as written in the grid."""
    trial: Trial

    @cached_property
    def trial_id(self) -> str:
        """First 12 digits of the hash of the trial and of the weights that it takes from files."""
        trial = self.trial
        encoders = [trial.evaluation.extractor, *trial.encoders.values()]
        weights: list[Any] = [e.describe() for e in encoders]
        tokenizer = trial.tokenizer.describe()
        generator = trial.generator.describe() if trial.generator else {}
        taken: dict[str, Any] = {
            "tokenizer": tokenizer.get("checkpoint"),
            "tokenizer's start": tokenizer.get("initial_weights"),
            "generator": generator.get("checkpoint"),
            "generator's start": generator.get("initial_weights"),
            "reference": describe_source(trial.evaluation.reference),
            "latents": trial.latents.content,
        }
        # Trials from before there were given weights keep their names: what is absent adds nothing.
        taken = {name: described for name, described in taken.items() if described}
        if code := code_of({"trial": trial}):
            taken["code"] = code
        return content_hash([trial, [*weights, taken] if taken else weights])[:12]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file with all its trials."""

    file: SweepFile
    points: tuple[Point, ...]
    source: str
    """The file it was read from."""
    axes: tuple[Axis, ...] = ()
    """What the trials vary, in the order of the file."""
    rungs: tuple[int, ...] = ()
    """Steps of each generator's training after which a search looks at it; see `tuning`."""


def load_sweep(path: Path, settings: Sequence[str] = ()) -> Sweep:
    """Read, override, validate and expand a sweep file.

    Args:
        settings: `PATH=VALUE` overrides, applied before validation; a path starts with a key of
            the sweep file or, short, of its trial. Values are YAML.
    """
    source = str(path)
    file = read_file(path, settings, SweepFile, dotted=("grid", "compare"))
    try:
        grids = read_grids(file.grid, file.zip, file.presets)
        points = tuple(_expand(file, grids))
        axes = describe_axes((p.axes for p in points), listed_values(grids), file.presets)
        axes = _with_baselines(_with_pairs(axes, file.zip), file.compare)
        return Sweep(file=file, points=points, source=source, axes=axes)
    except ConfigError as error:
        raise of_kind_alone(error, settings).within(source=source) from error


def read_file(
    path: Path, settings: Sequence[str], expected: type[F], *, dotted: tuple[str, ...]
) -> F:
    """Read, override and validate a file that has a base trial, presets and resources; keys of the
    blocks `dotted` are dotted paths, and the first of these blocks holds the axes."""
    source = str(path)
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"must be a mapping, but got {type(tree).__name__}", source=source)
    own, other = dotted[0], "search" if dotted[0] == "grid" else "grid"
    if other in tree and not tree.get(own):
        module = "harness.tune" if other == "search" else "harness.run"
        raise ConfigError(
            f"must have a `{own}`, but has a `{other}`; give it to `python -m {module}`",
            source=source,
        )
    keys = [f.name for f in dataclasses.fields(cast(Any, expected))]
    try:
        _check_blocks(tree, dotted)
        for setting in settings:
            _override(tree, setting, keys, dotted)
        for block in ("grid", "exclude", "compare", "search", "first"):
            if block in tree:
                tree[block] = _with_names(tree[block], tree.get("presets") or {})
        merge_default(tree.get("resources"))
        import_plugins(tree, path.parent)
        return validate(expected, tree)
    except ConfigError as error:
        raise error.within(source=source) from error


def _with_names(node: Any, presets: Mapping[str, Any], names: Iterable[str] | None = None) -> Any:
    """A block in which names of presets are text, also `1`, `true`, `1e3` and `null`."""
    if isinstance(node, dict):
        return {
            key: _with_names(each, presets, presets.get(key, names if key == "choices" else None))
            for key, each in node.items()
        }
    if isinstance(node, list):
        return [_with_names(each, presets, names) for each in node]
    if names is None or isinstance(node, str):
        return node
    # As it is written, `010` is a name that YAML reads as 10.
    written = [name for name in names if name[:1] in "+-.0123456789"]
    alike = [name for name in written if same(parse_yaml(name), node)]
    text = write_value(node)
    return alike[0] if alike and text not in alike else text


def of_kind_alone(error: ConfigError, settings: Sequence[str]) -> ConfigError:
    """The error, which says what to type where a setting changed a `kind` without its block."""
    for setting in settings:
        path, _, value = setting.partition("=")
        block = path.removeprefix("trial.").removesuffix(".kind")
        if path.endswith(".kind") and f"{error.path}.".startswith(f"trial.{block}."):
            return ConfigError(
                f"{error.message}; `{path}` alone leaves the rest of its block: give the whole, "
                f"--set '{block}={{kind: {value}, ...}}'",
                path=error.path,
            )
    return error


def resolved_tree(sweep: Sweep) -> dict[str, Any]:
    """The sweep as JSON-able values with every override applied, for `sweep.yaml`."""
    tree = to_plain(sweep.file)
    # Folders of earlier revisions hold files without these blocks: empty, they say nothing.
    return {key: value for key, value in tree.items() if value or key not in ("compare", "zip")}


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in a tree, making the blocks on the way.

    A block may itself have dotted keys, as presets and grid do: the longest key that the path
    goes through is followed. A value of a preset gets such a key where none leads on: a block in
    its place would replace the trial's whole one.
    """
    if (dots := path.count(".")) > 60:
        raise ConfigError(f"must have at most 60 dots, but has {dots}", path=f"{path[:40]}...")
    node, rest, walked, depth = tree, path, "", 0
    while rest not in node:
        through = [key for key in node if isinstance(key, str) and rest.startswith(f"{key}.")]
        is_value = depth == 3 and walked.startswith("presets.")
        head = max(through, key=len, default=rest if is_value else rest.partition(".")[0])
        if head == rest:
            break
        walked, rest, depth = f"{walked}.{head}".lstrip("."), rest[len(head) + 1 :], depth + 1
        node = node.setdefault(head, {})
        if not isinstance(node, dict):
            raise ConfigError(f"must be a block to hold {rest!r}, but is {node!r}", path=walked)
    node[rest] = copy.deepcopy(value)


def _check_blocks(tree: Mapping[str, Any], dotted: tuple[str, ...]) -> None:
    for name in ("trial", "presets", *dotted):
        several = tree.get(name) if name == "grid" else None
        if isinstance(several, list) and all(isinstance(each, dict) for each in several):
            continue
        if not isinstance(tree.get(name, {}), dict):
            raise ConfigError(
                f"must be a mapping, but got {tree[name]!r}; write {name}: {{}} for none", path=name
            )
    for axis, values in tree.get("presets", {}).items():
        bad = [] if isinstance(values, dict) else [values]
        bad += [v for v in values.values() if not isinstance(v, dict)] if not bad else []
        if bad:
            raise ConfigError(
                f"must be value names, each with paths and their values, but got {bad[0]!r}",
                path=f"presets.{axis}",
            )


def _override(
    tree: dict[str, Any], setting: str, file_keys: list[str], dotted: tuple[str, ...]
) -> None:
    path, separator, text = setting.partition("=")
    path = path.strip()
    if path == "plugins+":
        tree.setdefault("plugins", []).append(text)
        return
    if not separator or not all(path.split(".")):
        raise ConfigError(
            f"must be PATH=VALUE, but got {setting!r}; for example tokenizer.training.steps=100",
            path="--set",
        )
    try:
        value = parse_yaml(text)
    except ConfigError as error:
        raise error.within(path=f"--set {path}") from error
    path = path.removeprefix("trial.")
    head, _, rest = path.partition(".")
    trial_keys = [f.name for f in dataclasses.fields(Trial)]
    if head in dotted and rest:
        block, name = _block_of(tree, head, rest)
        block[name] = value
    elif head in file_keys:
        set_path(tree, path, value)
    elif head in trial_keys:
        block = tree.get(dotted[0]) or {}
        first, *others = block if isinstance(block, list) else [block]
        # Where one of several grids lacks an axis, the value is that of its trials.
        axes = [axis for axis in first if all(axis in other for other in others)]
        refuse_ignored(path, axes, tree.get("presets") or {}, block=dotted[0], at=f"--set {path}")
        set_path(tree.setdefault("trial", {}), path, value)
    else:
        raise ConfigError(
            f"unknown key {head!r}{nearest(head, file_keys + trial_keys)} "
            f"(valid: {', '.join(file_keys + trial_keys)})",
            path=f"--set {path}",
        )


def _block_of(tree: dict[str, Any], head: str, rest: str) -> tuple[dict[str, Any], str]:
    """The block whose key a setting names, and the key; of a list of grids, that of one."""
    block = tree.setdefault(head, {})
    if not isinstance(block, list):
        return block, rest
    number, _, axis = rest.partition(".")
    if not (number.isdecimal() and int(number) < len(block) and axis):
        raise ConfigError(
            f"must name one of the {len(block)} grids by its number, as {head}.0.AXIS, but got "
            f"{head}.{rest}",
            path=f"--set {head}.{rest}",
        )
    return block[int(number)], axis


def refuse_ignored(
    path: str, axes: Iterable[str], presets: Mapping[str, Any], *, block: str, at: str
) -> None:
    """Refuse a value of the trial that an axis would overwrite.

    Args:
        presets: Axis name -> value name -> paths and values.
        block: Key of the file under which the axes stand.
        at: What the error calls the place of the value.
    """
    axes = list(axes)
    for axis_path in {p for axis in axes for p in _paths_of_axis(presets, axis)}:
        if axis_path == path or path.startswith(f"{axis_path}."):
            raise ConfigError(
                f"is set by an axis of the {block}, so this value would be ignored; change the "
                f"axis instead: {', '.join(f'{block}.{axis}' for axis in axes)}",
                path=at,
            )


def _paths_of_axis(presets: Mapping[str, Any], axis: str) -> set[str]:
    values = presets.get(axis)
    return {path for value in values.values() for path in value} if values else {axis}


def _with_pairs(axes: Sequence[Axis], pairs: Sequence[Sequence[str]]) -> tuple[Axis, ...]:
    together = {axis: pair for pair in pairs for axis in pair}
    return tuple(
        dataclasses.replace(
            axis, moves_with=tuple(a for a in together.get(axis.name, ()) if a != axis.name)
        )
        for axis in axes
    )


def _with_baselines(axes: Sequence[Axis], compare: Mapping[str, Any]) -> tuple[Axis, ...]:
    known = {axis.name: axis for axis in axes}
    for name, value in compare.items():
        path, axis = f"compare.{name}", known.get(name)
        remedy = "--set 'compare={}' compares each axis with its first value"
        if axis is None:
            raise ConfigError(
                f"unknown axis {name!r}{nearest(name, list(known))} "
                f"(axes: {', '.join(known) or 'none'}); {remedy}",
                path=path,
            )
        if axis.kind == "seed":
            raise ConfigError(
                "a seed means repetition and is not compared; leave it out", path=path
            )
        if not axis.has(value):
            values = [write_value(each) for each in axis.values]
            raise ConfigError(
                f"must be a value of the axis, but got {write_value(value)!r}"
                f"{nearest(write_value(value), values)} (valid: {', '.join(values)}); {remedy}",
                path=path,
            )
        known[name] = axis.against(value)
    return tuple(known.values())


def _expand(file: SweepFile, grids: Sequence[Grid]) -> Iterator[Point]:
    axes = axes_of(grids)
    exclusions = Exclusions(file.exclude, axes)
    seen: dict[str, Mapping[str, Any]] = {}
    combinations = all_combinations(grids, exclusions)
    if (count := len(combinations)) >= 1_000:
        print(f"note: planning {count:,} trials, some 500 a second", file=sys.stderr)
    for grid, chosen in combinations:
        trial = _build(file, chosen)
        full = _with_base_values(file, grids, grid, chosen, trial)
        if len(full) > len(chosen) and exclusions.leave_out(full):
            continue
        point = Point(axes=full, trial=trial)
        known = seen.setdefault(point.trial_id, full)
        if known is full:
            yield point
        elif len(grids) == 1 or not _same_axes(known, full):
            raise ConfigError(
                f"two combinations give the same trial: {dict(known)} and {full}; "
                "drop one value or exclude one combination",
                path="grid",
            )
    exclusions.check_used()
    if not seen:
        raise ConfigError("every combination of the grid is excluded; leave one", path="exclude")


def _build(file: SweepFile, axes: Mapping[str, Any]) -> Trial:
    """The trial of a combination; where there is none, the error names the combination."""
    try:
        return build_trial(file, axes)
    except ConfigError as error:
        if len(axes) < 2:
            raise
        words = ", ".join(f"{axis} {write_value(value)}" for axis, value in axes.items())
        raise ConfigError(
            f"{error.message}; this is the combination {words}; where others are right, leave it "
            "out with `exclude`, or let an axis vary `when` another has a value",
            path=error.path,
        ) from error


def _with_base_values(
    file: SweepFile, grids: Sequence[Grid], grid: Grid, chosen: Mapping[str, Any], trial: Trial
) -> Mapping[str, Any]:
    """A combination with the values that axes of other grids have in its trial.

    A preset, or an axis over blocks, has the value that changes nothing; `(base)` where there is
    none. An axis that the trial has no such field for is absent.
    """
    full = {}
    for axis, listed in listed_values(grids).items():
        if axis in grid.axes:
            full |= {axis: chosen[axis]} if axis in chosen else {}
            continue
        found = None if axis in file.presets else _value_at(trial, axis)
        if axis in file.presets or isinstance(found, dict | list):
            names = file.presets.get(axis, listed)
            equal = [name for name in names if _changes_nothing(file, chosen, axis, name, trial)]
            found = equal[0] if equal else BASE
        if found is not _ABSENT:
            full[axis] = found
    return full


def _value_at(trial: Trial, path: str) -> Any:
    node: Any = trial
    for name in path.split("."):
        node = (
            node.get(name, _ABSENT) if isinstance(node, Mapping) else getattr(node, name, _ABSENT)
        )
    return node if node is _ABSENT else to_plain(node)


def _changes_nothing(
    file: SweepFile, axes: Mapping[str, Any], axis: str, value: Any, trial: Trial
) -> bool:
    try:
        return build_trial(file, {**axes, axis: value}) == trial
    except ConfigError:
        # What makes no trial here is not what the trial has.
        return False


def _same_axes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(same(one[axis], other[axis]) for axis in one)


def build_trial(file: SweepFile, axes: Mapping[str, Any], weak: Mapping[str, Any] = {}) -> Trial:
    """Build the trial of one combination of the grid.

    Presets are applied first and then paths from short to long, so that a block never overwrites
    a value set inside it.

    Args:
        weak: Dotted paths applied last (the weaker model of AutoGuidance).
    """
    changes: list[tuple[str, str, Any]] = []
    for axis, value in axes.items():
        if axis in file.presets:
            preset = file.presets[axis][value]
            changes += [(path, f"preset {axis}: {value}", v) for path, v in preset.items()]
    # A preset may set a whole block and an axis a value in it: blocks first, then what is inside.
    presets = sorted(changes, key=lambda change: change[0].count("."))
    paths = [(a, f"grid.{a}: {v!r}", v) for a, v in axes.items() if a not in file.presets]
    paths += [(path, "the weak model", value) for path, value in weak.items()]
    changes = presets + sorted(paths, key=lambda change: change[0].count("."))
    tree = _own_blocks(file.trial)
    for path, _, value in changes:
        set_path(tree, path, value)
    try:
        if isinstance(tree.get("evaluation"), dict):
            tree["evaluation"] = apply_presets(tree["evaluation"])
        trial = validate(Trial, tree)
        with own_errors("", trial):
            check_trial(trial)
    except ConfigError as error:
        setters = [by for path, by, _ in changes if f"{error.path}.".startswith(f"{path}.")]
        hint = f" (set by {setters[-1]})" if setters else ""
        raise ConfigError(error.message + hint, path=f"trial.{error.path}".rstrip(".")) from error
    return trial


def _own_blocks(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree whose blocks may be written into; its values are shared, which nobody changes."""
    return {k: _own_blocks(v) if isinstance(v, dict) else v for k, v in tree.items()}


def weak_trial(file: SweepFile, point: Point, guidance: AutoGuidanceWith) -> Trial:
    """The trial whose generator guides `point` as the weaker model: one of its kind and latents."""
    trial = build_trial(file, point.axes, weak=guidance.weak)
    for part in ("data", "tokenizer", "latents"):
        if content_hash(getattr(trial, part)) != content_hash(getattr(point.trial, part)):
            raise ConfigError(
                f"the weak model must live in the same latents, but its {part} differs; "
                "change generator.* only",
                path="trial.evaluation.guidance.weak",
            )
    kinds = [getattr(each.generator, "kind", None) for each in (trial, point.trial)]
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"the weak model must be a generator of the same kind, {kinds[1]}, but is {kinds[0]}; "
            "change its size or training only",
            path="trial.evaluation.guidance.weak",
        )
    assert trial.generator is not None
    assert point.trial.generator is not None
    if trial.generator == point.trial.generator and guidance.step is None:
        raise ConfigError(
            "the weak model must be another than the one that it guides, but is the same; change "
            "its size or training, or name an earlier step of it",
            path="trial.evaluation.guidance.weak",
        )
    try:
        point.trial.generator.check_weak(trial.generator, trial.layout)
    except ConfigError as error:
        raise error.within(path="trial.evaluation.guidance.weak") from error
    steps = trial.generator.snapshot_steps
    if guidance.step not in (None, *steps):
        raise ConfigError(
            f"must be a step at which the weak model is kept ({', '.join(map(str, steps))}), but "
            f"got {guidance.step}; name it under generator.snapshots, for the weak model too",
            path="trial.evaluation.guidance.step",
        )
    return trial
