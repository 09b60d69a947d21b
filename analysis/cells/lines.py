"""What the rows of a table were varied in, and how figures and words show it.

A table says of its columns which of them are axes of the sweep. What else differs between rows, in
tables of earlier revisions and between the tables of several sweeps, is an axis by its column.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from analysis.table.columns import GIVEN, SEED_COLUMNS, Column, columns_of
from analysis.table.protocols import format_value

UNALIGNED = "none"
ALIGNMENT, SIZE, LATENT_DIM = "alignment", "generator_size", "latent_dim"
SIZE_AXIS = "axis.generator.size"
SAME_AS = {"axis.alignment": ALIGNMENT, SIZE_AXIS: SIZE, "axis.tokenizer.latent_dim": LATENT_DIM}
"""Columns that every table has, for axes that say the same."""
ALIGNMENT_DETAILS = (
    "alignment_encoder",
    "vf_weight",
    "cos_margin",
    "distmat_margin",
    "adaptive_vf",
)
"""Columns that split an alignment where they differ among its rows."""
TRAINED = "tokenizer_images"
ORIGIN, APART = "origin", "apart"
DETAILS = ("tokenizer", "downsample", "label_policy", TRAINED, ORIGIN, APART)
"""Columns that split lines where rows differ in them and no axis says why. Figures show them by
the colour; what they stand for is held in comparisons and not compared itself."""
SWITCHES = ("none", "on", "off", "yes", "no", "True", "False")
"""Values that say nothing without the name of their axis."""
NO_GENERATOR = "no generator"
"""Generator size of a trial that ends with its tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Something that rows differ in, other than their seeds."""

    column: str
    """Column of rows and points that holds its values."""
    label: str
    order: tuple[Any, ...]
    """Values that occur, in the order of legends: numbers ascend."""
    baseline: Any = None
    """Value that the others are compared with; None where it is not compared."""
    is_numeric: bool = False
    is_declared: bool = False
    """Whether the table calls it an axis; else it was found in the rows."""
    moves_tokenizer: bool = True
    """Whether its values have tokenizers of their own."""
    stands_alone: bool = False
    """Whether its values are understood without its name, as those of a preset `system` are."""
    moves_with: tuple[str, ...] = ()
    """Columns of axes that move together with it, so that its effect is not told from theirs."""

    def text(self, value: Any) -> str:
        """A value in names: `vf`, `d=16`, `kl_weight 1e-06`; empty where it is not in force."""
        text = self.value_text(value)
        if not text or self.stands_alone or self.column in (ALIGNMENT, SIZE, ORIGIN, APART):
            return text
        return f"d={text}" if self.column == LATENT_DIM else f"{self.label} {text}"

    def value_text(self, value: Any) -> str:
        """A value without the axis's name; empty where it is not in force."""
        if pd.isna(value):
            return ""
        return f"{value:.10g}" if isinstance(value, float) else str(value)

    @property
    def heading(self) -> str:
        """Its name over a column of values and along an axis."""
        headings = {SIZE: "size", LATENT_DIM: "latent dim", APART: "training"}
        return headings.get(self.column, self.label)


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The axes of some rows, and what shows each of them in a figure."""

    listed: tuple[Axis, ...]
    """All axes, in the order of names."""
    along: Axis | None = None
    """The axis that a line runs through: numbers that each have their own tokenizer."""
    colours: tuple[Axis, ...] = ()
    """Axes that a colour stands for: the compared one, then details that no axis says."""
    markers: tuple[Axis, ...] = ()
    """Axis that marker and line style stand for, if any."""
    panels: tuple[Axis, ...] = field(default=())
    """Axes that panels stand for: the rest."""

    @property
    def compared(self) -> tuple[Axis, ...]:
        """Axes of which each value is compared with the baseline."""
        return tuple(a for a in self.listed if a.baseline is not None and a is not self.along)

    @property
    def columns(self) -> list[str]:
        """Columns of all axes."""
        return [axis.column for axis in self.listed]

    def name(self, rows: pd.DataFrame, *, without: Iterable[Axis | None] = ()) -> pd.Series:
        """What some axes say of each row, in one text."""
        left_out = list(without)
        return join_texts(rows, [axis for axis in self.listed if axis not in left_out])


def join_texts(rows: pd.DataFrame, axes: Sequence[Axis]) -> pd.Series:
    """The values of axes in words, those joined that are in force."""
    texts = [map_values(rows[axis.column], axis.text) for axis in axes]
    joined = [", ".join(filter(None, each)) for each in zip(*texts, strict=True)]
    return pd.Series(joined if axes else "", index=rows.index, dtype=object)


def map_values(values: pd.Series, write: Callable[[Any], str]) -> list[str]:
    """A text of each value; each value is written once, since tables repeat few of them."""
    places, known = pd.factorize(values, use_na_sentinel=False)
    texts = [write(value) for value in known]
    return [texts[place] for place in places]


def describe_lines(rows: pd.DataFrame, apart: Sequence[str] = ()) -> tuple[pd.DataFrame, Axes]:
    """Finds the axes of rows, and names the cell and the line of each as briefly as it can be.

    Args:
        rows: Rows that are done.
        apart: Columns in which rows of one configuration and seed may differ.

    Returns:
        The rows and their axes. New columns of the rows are `cell` (all axes in words: one name,
        one configuration), `line` (all but the one that lines run through), `colour`, `marker`
        and `panel` (parts of it), `along` (the number on the line) and those of the axes; the
        columns `alignment` and `generator_size` are extended by what differs and no axis says.
    """
    declared = _find_declared(rows)
    columns: list[Any] = [axis.column for axis in declared]
    group = rows.groupby(columns, dropna=False).ngroup() if columns else _constant(rows, 0)
    named = rows.assign(
        **{
            ALIGNMENT: _name_alignments(rows, group),
            SIZE: _name_generators(rows, group),
            ORIGIN: ("given " + name_given(rows)).where(rows["provenance"] == GIVEN, None),
            APART: None,
        }
    )
    axes = _choose_roles(named, [*declared, *_find_implied(named, declared, group)])
    named = named.assign(cell=axes.name(named))
    named[APART] = _tell_apart(named, apart)
    if named[APART].notna().any():
        axes = _choose_roles(named, [*axes.listed, _implied(named, APART)])
        named = named.assign(cell=axes.name(named))
    along = None if axes.along is None else named[axes.along.column].astype(float)
    colour = join_texts(named, axes.colours)
    only = f"along {axes.along.heading}" if axes.along else "all"
    return named.assign(
        line=axes.name(named, without=[axes.along]),
        colour=colour.where(colour != "", only),
        marker=join_texts(named, axes.markers),
        panel=join_texts(named, axes.panels),
        along=_constant(named, float("nan")) if along is None else along,
    ), axes


def name_trainings(rows: pd.DataFrame) -> pd.Series:
    """Names the training of each row: rows of one generator, else of one trial, are its snapshots.

    A row that failed early knows its trial alone and has the generator of the trial's other rows.
    """
    trial = rows["trial_id"].fillna(rows["row_id"])
    of_trial = rows.groupby(trial)["generator_key"].transform("first")
    return rows["generator_key"].fillna(of_trial).fillna(trial)


def name_given(rows: pd.DataFrame) -> pd.Series:
    """Names given images by their sweep, or their tokenizer where that is not known."""
    return rows["sweep"].fillna(rows["tokenizer"]).astype(object).fillna("unnamed")


def _find_declared(rows: pd.DataFrame) -> list[Axis]:
    """The axes that the table declares, which differ here and tell more than those before."""
    axes: list[Axis] = []
    for name, column in columns_of(rows).items():
        if column.axis not in ("numeric", "categorical") or name not in rows:
            continue
        if rows[name].nunique(dropna=False) < 2:
            continue
        leaders = [axis.column for axis in axes if name in axis.moves_with]
        values = [rows.groupby(a, dropna=False)[name].nunique(dropna=False) for a in leaders]
        if not any(counts.max() <= 1 for counts in values):
            axes.append(_declared(rows, name, column))
    return axes


def _declared(rows: pd.DataFrame, name: str, about: Column) -> Axis:
    values, baseline = json.loads(about.values), json.loads(about.baseline)
    known = SAME_AS.get(name)
    column = known if known and _says_same(rows[known], rows[name]) else name
    is_numeric = about.axis == "numeric"
    found = list(rows[column].dropna().unique())
    order = [value for value in values if value in found]
    order += sorted(value for value in found if value not in order)
    if is_numeric:
        order = sorted(order)
    else:
        order.sort(key=lambda value: value != baseline)
    return Axis(
        column=column,
        label=about.label or name.removeprefix("axis."),
        order=tuple(order),
        baseline=baseline if baseline in found else None,
        is_numeric=is_numeric,
        is_declared=True,
        moves_tokenizer=not name.startswith("axis.generator.")
        and not _differs_within(rows[name], rows["tokenizer_key"]),
        moves_with=tuple(json.loads(about.moves_with)),
    )


def _says_same(known: pd.Series, axis: pd.Series) -> bool:
    return bool((known[axis.notna()] == axis.dropna()).all() and known.notna().all())


def _find_implied(rows: pd.DataFrame, declared: list[Axis], group: pd.Series) -> list[Axis]:
    """Columns in which rows differ although they agree in every declared axis.

    Where the axes are no others than alignment, size and latent dim, names hold these three, so
    that sweeps over some of them have the names of those over all.
    """
    known = [axis.column for axis in declared]
    classic = (ALIGNMENT, SIZE, LATENT_DIM)
    always = classic if set(known) <= set(classic) else ()
    own = rows["provenance"] != GIVEN
    differing = [
        column
        for column in (ALIGNMENT, *DETAILS, SIZE, LATENT_DIM)
        # Of given images only the origin tells: much else of them is not known.
        for among in [own if column in DETAILS and column != ORIGIN else own | True]
        if _differs_within(rows.loc[among, column], group[among])
    ]
    return [
        _implied(rows, column)
        for column in (ALIGNMENT, *DETAILS, SIZE, LATENT_DIM)
        if column not in known and (column in always or column in differing)
    ]


def _implied(rows: pd.DataFrame, column: str) -> Axis:
    order = sorted(rows[column].dropna().unique())
    if column == ALIGNMENT:
        order.sort(key=lambda value: value != UNALIGNED)
    return Axis(
        column=column,
        label=column,
        order=tuple(order),
        baseline=UNALIGNED if column == ALIGNMENT else None,
        is_numeric=column == LATENT_DIM,
        moves_tokenizer=column != SIZE,
    )


def _choose_roles(rows: pd.DataFrame, found: list[Axis]) -> Axes:
    """Decides what shows each axis.

    A line of the frontier trades reconstruction for generation, so it runs through an axis whose
    values have tokenizers of their own; what moves the generator alone is compared.
    """
    params = rows.groupby(SIZE)["generator_params"].mean().fillna(float("inf"))
    axes = [
        replace(a, order=tuple(sorted(a.order, key=params.__getitem__))) if a.column == SIZE else a
        for a in found
    ]
    choices = [a for a in axes if a.is_declared and not a.is_numeric and a.column != SIZE]
    if len(choices) == 1 and not any(str(value) in SWITCHES for value in choices[0].order):
        axes = [replace(a, stands_alone=True) if a is choices[0] else a for a in axes]
    lines = [axis for axis in axes if axis.is_numeric and axis.moves_tokenizer]
    lines.sort(key=lambda axis: axis.column != LATENT_DIM)
    along = lines[0] if lines else None
    details = [axis for axis in axes if axis.column in DETAILS]
    rest = [axis for axis in axes if axis not in details and axis is not along]
    # Names and roles: alignment first, then other choices, sizes, and numbers.
    rest.sort(key=lambda a: (a.column != ALIGNMENT, a.is_numeric, a.column == SIZE))
    named = [*rest[:1], *details, *rest[1:]] if rest and rest[0].column == ALIGNMENT else rest
    named = named if details and details[0] in named else [*named, *details]
    return Axes(
        listed=(*named, *([along] if along else [])),
        along=along,
        colours=(*rest[:1], *details),
        markers=tuple(rest[1:2]),
        panels=tuple(rest[2:]),
    )


def _tell_apart(rows: pd.DataFrame, apart: Sequence[str]) -> pd.Series:
    """What tells trainings apart that the axes and the seeds do not; missing where they do.

    Two trainings are never snapshots or repetitions of one, so something must name them: the
    sweep, the images they were trained on, the results folder, or at last the trial.
    """
    training = name_trainings(rows)
    images = rows.groupby(training)["generator_images"].transform("max")
    folder = rows["results_dir"] if "results_dir" in rows else _constant(rows, None)
    sources = {
        "sweep {}": rows["sweep"],
        "trained on {} images": images.astype(object).map("{:,.0f}".format, na_action="ignore"),
        "from {}": folder,
        "trial {}": rows["trial_id"].fillna(rows["row_id"]),
    }
    told = pd.Series("", index=rows.index, dtype=object)
    for pattern, values in sources.items():
        cell = rows["cell"] + told
        keys = [cell, *(rows[name] for name in (*SEED_COLUMNS, *apart))]
        repeats = training.groupby(keys, dropna=False).transform("nunique") > 1
        if not repeats.any():
            break
        is_torn = repeats.groupby(cell).transform("any")
        helps = values.groupby(cell).transform("nunique", dropna=False) > 1
        texts = values.map(pattern.format, na_action="ignore").astype(object).fillna("")
        told = told.where(~(is_torn & helps), told + ", " + texts)
    told = told.str.strip(", ")
    return told.where(told != "", None)


def _name_alignments(rows: pd.DataFrame, group: pd.Series) -> pd.Series:
    alignment = rows[ALIGNMENT].astype(object)
    own = rows["provenance"] != GIVEN
    names = alignment
    for column in ALIGNMENT_DETAILS:
        kinds = rows[own].groupby([group[own], alignment[own]])[column]
        differs = (kinds.transform("nunique", dropna=False) > 1).groupby(alignment[own])
        split = differs.transform("any").reindex(rows.index, fill_value=False).astype(bool)
        split &= alignment != UNALIGNED
        # An encoder's name needs no word before it.
        pattern = " {}" if column == "alignment_encoder" else f", {column} {{}}"
        names = names.where(~split, names + _map_text(rows[column], pattern))
    return names


def _name_generators(rows: pd.DataFrame, group: pd.Series) -> pd.Series:
    shown, own = rows[SIZE].astype(object), rows["provenance"] != GIVEN
    if _differs_within(rows.loc[own, "generator"], group[own]):
        shown = shown.where(~own, _map_text(rows["generator"], "{} ") + shown)
    if _differs_within(rows.loc[own, "patch_size"], group[own]):
        shown = shown.where(~own, shown + _map_text(rows["patch_size"], "/{}"))
    return shown.where(rows[SIZE].notna(), NO_GENERATOR)


def _map_text(values: pd.Series, pattern: str) -> pd.Series:
    texts = [pattern.format("unknown" if pd.isna(v) else format_value(v)) for v in values]
    return pd.Series(texts, index=values.index, dtype=object)


def _differs_within(values: pd.Series, group: pd.Series) -> bool:
    return bool((values.groupby(group).nunique(dropna=False) > 1).any())


def _constant(rows: pd.DataFrame, value: Any) -> pd.Series:
    return pd.Series(value, index=rows.index, dtype=object if value is None else None)
