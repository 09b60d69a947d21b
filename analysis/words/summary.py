"""The closing words of a sweep, made from its numbers and no further than these go."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.cells.cells import Cells, average_group
from analysis.cells.lines import ALIGNMENT, NO_GENERATOR, Axis
from analysis.cells.pairs import find_unlike_pairs
from analysis.statistics.effects import (
    Change,
    DilemmaEffect,
    Effect,
    Row,
    compare_cells,
    compute_dilemma_effects,
    compute_effects,
    divide,
)
from analysis.statistics.welch import LEVEL, count_by_chance
from analysis.table.protocols import (
    OF_SAMPLING,
    group_but_for,
    list_some,
    name_some,
    split_by_protocol,
)
from analysis.table.reading import check_table

MAX_REASONS = 8
JUDGED = ("lower", "higher", "within noise")
"""Verdicts that an interval gave."""
MAX_LINES = 60
"""Comparisons listed under one heading at most; totals count them all."""


def summarize(table: pd.DataFrame) -> str:
    """Says what the table shows, one part for each protocol."""
    table = check_table(table)
    if table.empty:
        return "The table has no rows: nothing can be said."
    groups = [(n, average_group(rows), rows) for n, rows in split_by_protocol(table).items()]
    parts = [[*describe_group(*group), *say_results(group[1])] for group in groups]
    parts[0] = [*say_compared([(name, cells) for name, cells, _ in groups]), *parts[0]]
    return "\n\n".join(map("\n".join, parts))


def say_compared(groups: Sequence[tuple[str, Cells]]) -> list[str]:
    """What several protocols compare, and the best cell of each; nothing where one has generated.

    Ways of sampling are compared; what was measured in unlike ways is not.
    """
    found = [(name, cells) for name, cells in groups if cells.has_generation]
    if len(found) < 2:
        return []
    names = name_some((name for name, _ in found), "; ")
    measured = pd.concat([cells.rows for _, cells in found], ignore_index=True)
    if len(group_but_for(measured, OF_SAMPLING)) > 1:
        return [f"{len(found)} protocols, whose numbers do not compare, each by itself: {names}."]
    best = [(cells.points.sort_values("gfid").iloc[0], name) for name, cells in found]
    best.sort(key=lambda each: each[0]["gfid"])
    texts = [f"{_say_value(row, 'gfid')} with {name} ({_say_cell(row)})" for row, name in best]
    return [
        f"{len(found)} ways of sampling compared, lowest generation distance of each:"
        f" {name_some(texts, '; ')}."
    ]


def describe_group(name: str, cells: Cells, rows: pd.DataFrame) -> list[str]:
    """Says what one protocol's rows are, and what its numbers rest on."""
    setting = cells.setting
    num_done = int((rows["status"] == "done").sum())
    head = [
        f"{setting.dataset}, {setting.resolution} px, guidance {setting.guidance}"
        + (f" [{name}]" if name else "")
        + f": {num_done} of {len(rows)} rows done."
    ]
    if cells.points.empty:
        return head
    return [
        *head,
        f"Distances are the {setting.distance_name}, lower is better; extractor"
        f" {setting.extractor}; {setting.sizes}; per cell {setting.repetitions}.",
        _say_interval(cells),
    ]


def say_results(cells: Cells) -> list[str]:
    """The best cell, the dilemma, what axes change, what was left out; ± is the standard error."""
    given = _say_given(cells)
    if cells.points.empty:
        head = "No row has a generation distance: nothing can be said."
        if given:
            head = "No measured row has a latent dim and a generator: there is no frontier."
        return [head, *given, *_say_gaps(cells)]
    if not cells.has_generation:
        return [*_say_tokenizers(cells), *given, *_say_gaps(cells)]
    findings = [*_say_best(cells), *_say_dilemma(cells), *_say_effects(cells)]
    return [*findings, *given, *_say_gaps(cells)]


def _say_interval(cells: Cells) -> str:
    most = int(cells.points["num_seeds"].max())
    if most == 1:
        return "One seed only: there are no intervals, and no difference below is established."
    text = (
        "± is the standard error; a difference is beyond noise where Welch's"
        f" {LEVEL:.0%} interval over seeds leaves out 0"
    )
    if cells.setting.tokenizers:
        text += (
            ", for reconstruction over tokenizers; where seeds share a tokenizer, intervals of"
            " generation do not show what another tokenizer would change"
        )
    return f"{text}; with so few seeds they are rough." if most < 5 else f"{text}."


def _say_tokenizers(cells: Cells) -> list[str]:
    """Describe the reconstructions where no row has generated."""
    ranked = cells.points.sort_values("rfid", kind="stable")
    texts = [f"{_say_cell(row)}: {_say_reconstruction(row)}." for _, row in ranked.iterrows()]
    return [
        "No row has a generation distance: what follows is of tokenizers alone, and nothing can be"
        " said of the frontier.",
        f"Lowest reconstruction distance: {texts[0]}",
        "Reconstruction, from the lowest distance up:",
        *list_some(texts, MAX_LINES, "cells"),
    ]


def _say_given(cells: Cells) -> list[str]:
    """Measured rows of given images that are no cells."""
    if cells.given.empty:
        return []
    lines = ["Given images, without a place on the frontier:"]
    for _, row in cells.given.head(MAX_LINES).iterrows():
        generation = f"generation {_say_value(row, 'gfid')}"
        lines.append(f"- {row['alignment']}: {generation}, {_say_reconstruction(row)}.")
    return lines


def _say_reconstruction(cell: Row) -> str:
    decibels = f", PSNR {_say_value(cell, 'psnr')} dB" if np.isfinite(cell["psnr"]) else ""
    return f"reconstruction {_say_value(cell, 'rfid')}{decibels}"


def _say_best(cells: Cells) -> list[str]:
    best, *others = cells.points.sort_values("gfid", kind="stable").to_dict("records")
    details = [f"reconstruction {_say_value(best, 'rfid')}", f"PSNR {_say_value(best, 'psnr')} dB"]
    if np.isfinite(best["label_accuracy"]):
        details.append(f"{best['label_accuracy']:.0%} of samples recognised as the class asked for")
    lines = [
        f"Lowest generation distance: {_say_cell(best)}: {_say_value(best, 'gfid')}"
        f" ({', '.join(details)})."
    ]
    rivals = [
        row
        for row in others
        if compare_cells(row, best, "gfid", cells.measures) not in ("higher", "lower")
    ]
    if rivals and best["num_seeds"] > 1:
        lines.append(f"Not told apart from it: {name_some(map(_say_cell, rivals), '; ')}.")
    return lines


def _say_dilemma(cells: Cells) -> list[str]:
    effects = compute_dilemma_effects(cells)
    if not effects:
        if cells.axes.along is None:
            return ["The dilemma: no axis of numbers has tokenizers of its own."]
        along = cells.axes.along.heading
        return [f"The dilemma: no line has two {along}s, so nothing is said about it."]
    assert cells.axes.along is not None, "a line with two ends runs through something"
    head = f"The dilemma, from the smallest to the largest {cells.axes.along.heading}:"
    return [
        head,
        *list_some((_say_line(cells.axes.along, effect) for effect in effects), MAX_LINES, "lines"),
    ]


def _say_line(along: Axis, effect: DilemmaEffect) -> str:
    small, large = effect.small, effect.large
    changes = [
        f"generation {small['gfid']:.3g} -> {large['gfid']:.3g}"
        f" (x{divide(large['gfid'], small['gfid']):.3g}"
        + ("" if effect.is_monotone else ", not at every step")
        + ")"
    ]
    for metric, label, unit in (("rfid", "reconstruction", ""), ("psnr", "PSNR", " dB")):
        if np.isfinite([small[metric], large[metric]]).all():
            changes.append(f"{label} {small[metric]:#.4g} -> {large[metric]:#.4g}{unit}")
    return (
        f"{_say_cell(small)} -> {along.value_text(large['along'])}:"
        f" {', '.join(changes)}: {_judge_dilemma(effect)}"
    )


def _judge_dilemma(effect: DilemmaEffect) -> str:
    if effect.shows:
        return "it shows, beyond noise."
    small, large = effect.small, effect.large
    in_means = large["gfid"] > small["gfid"] and (
        large["psnr"] > small["psnr"] or large["rfid"] < small["rfid"]
    )
    if not in_means:
        return "it does not show in the means."
    if "no interval" in (effect.gfid, effect.psnr, effect.rfid):
        return (
            "the means go its way, with one seed or tokenizer at an end: an observation, not a"
            " finding."
        )
    return "the means go its way, but within noise: not established."


def _say_effects(cells: Cells) -> list[str]:
    """What each axis changes against its baseline."""
    effects, unlike = compute_effects(cells), _say_unlike(cells)
    compared = cells.axes.compared
    if not compared:
        return ["No axis is compared with a baseline: nothing but seeds and the line differs."]
    lines = [
        line
        for axis in compared
        for line in _say_axis(cells, axis, [e for e in effects if e.axis == axis], bool(unlike))
    ]
    judged = sum(effect.gfid.verdict in JUDGED for effect in effects)
    if len(compared) > 1 and judged:
        lines.append(
            f"In all {judged} comparisons of generation were made; by chance alone about"
            f" {count_by_chance(judged):.1f} would be told apart."
        )
    return [*lines, *unlike]


def _say_axis(cells: Cells, axis: Axis, effects: list[Effect], has_unlike: bool) -> list[str]:
    name = axis.label[:1].upper() + axis.label[1:] if axis.column == ALIGNMENT else axis.label
    base, is_alignment = axis.value_text(axis.baseline), axis.column == ALIGNMENT
    if (cells.points[axis.column] == axis.baseline).all():
        each = "without" if is_alignment else base
        return [f"{name}: every row is {each}, so nothing is said about it."]
    if not effects:
        reason = " of like training" if has_unlike else ""
        who = "aligned cell has an unaligned" if is_alignment else "cell has a"
        return [f"{name}: no {who} counterpart{reason}, so nothing is said."]
    better = "alignment is" if is_alignment else "it is"
    head = f"{name} against {base} (ratio of means; below 1 {better} better"
    together = [column.removeprefix("axis.") for column in axis.moves_with]
    moved = f"; it moves together with {name_some(together)}" if together else ""
    by_value: dict[str, list[Change]] = {}
    for effect in effects:
        by_value.setdefault(axis.text(effect.cell[axis.column]), []).append(effect.gfid)
    totals = [
        _say_total(f"In total {value} has the lower mean generation distance in", changes)
        for value, changes in by_value.items()
    ]
    if 1 < len(by_value) == len(effects):
        changes = [effect.gfid for effect in effects]
        start = f"In total the mean generation distance is lower than that of {base} in"
        totals = [_say_total(start, changes)]
    lines = list_some(map(_say_effect, effects), MAX_LINES, "cells")
    return [f"{head}{moved}):", *lines, *totals]


def _say_unlike(cells: Cells) -> list[str]:
    pairs = find_unlike_pairs(cells.points, cells.axes)
    if not pairs:
        return []
    bases = name_some(dict.fromkeys(pair.base for pair in pairs))
    texts = [f"{pair.cell}: {pair.reason}." for pair in pairs]
    return [f"Not compared with {bases}:", *list_some(texts, MAX_LINES, "cells")]


def _say_effect(effect: Effect) -> str:
    gfid, rfid = effect.gfid, effect.rfid
    shared = rfid.counts == gfid.counts
    counts = "" if shared else f"; reconstruction n={_say_counts(rfid.counts)}"
    # What the generator alone has leaves the tokenizer as it is.
    known = rfid.verdict != "not measured" and effect.axis.moves_tokenizer
    reconstruction = f"; reconstruction {_say_change(rfid)}" if known else ""
    training = f"; {effect.difference}" if effect.difference else ""
    return (
        f"{_say_cell(effect.cell)}: generation {_say_change(gfid)}{reconstruction}"
        f" (n={_say_counts(gfid.counts)}{counts}{training})."
    )


def _say_change(change: Change) -> str:
    limits = change.ratio_range
    spread = "" if limits is None else f" (seeds {limits[0]:.3g} to {limits[1]:.3g})"
    noise = ", beyond noise" if change.verdict in ("higher", "lower") else ""
    return f"x{change.ratio:.3g}{spread}, {change.verdict}{noise}"


def _say_counts(counts: tuple[int, int]) -> str:
    return " and ".join(map(str, dict.fromkeys(counts)))


def _say_total(start: str, mine: list[Change]) -> str:
    verdicts = Counter(change.verdict for change in mine)
    lower = sum(change.ratio < 1 for change in mine)
    text = f"{start} {lower} of {len(mine)} cells"
    if verdicts["no interval"] == len(mine):
        return f"{text}; with one seed none of this is established."
    judged = sum(verdicts[verdict] for verdict in JUDGED)
    return (
        f"{text}; beyond noise it is lower in {verdicts['lower']} and higher in"
        f" {verdicts['higher']}. By chance alone about {count_by_chance(judged):.1f} of {judged}"
        " would be told apart."
    )


def _say_gaps(cells: Cells) -> list[str]:
    if cells.gaps.empty:
        return []
    reasons = cells.gaps.groupby("reason", sort=False)["row_id"].agg(list)
    head = f"Left out: {len(cells.gaps)} row{'s' if len(cells.gaps) > 1 else ''}."
    texts = [f"{name_some(row_ids)}: {reason}" for reason, row_ids in reasons.items()]
    return [head, *list_some(texts, MAX_REASONS, "reasons")]


def _say_cell(cell: Row) -> str:
    return str(cell["cell"]).replace(f", {NO_GENERATOR}", "")


def _say_value(cell: Row, metric: str) -> str:
    if not np.isfinite(cell[metric]):
        return "not measured"
    error = cell[f"{metric}_se"]
    spread = f" ± {error:.2g}" if np.isfinite(error) else ""
    return f"{cell[metric]:#.4g}{spread}"
