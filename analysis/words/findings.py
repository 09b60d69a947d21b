"""Sentences on gains, slopes, speed-ups and correlations that go no further than the numbers."""

import numpy as np

from analysis.cells.lines import ALIGNMENT, Axis
from analysis.figures.convergence import Speedup
from analysis.figures.diagnostics import MIN_POINTS, RankCorrelation
from analysis.statistics.bootstrap import Interval
from analysis.statistics.dilemma_slope import DilemmaSlope, SlopeChange
from analysis.statistics.gain import REFERENCE_RULE, FrontierGain
from analysis.statistics.welch import count_by_chance

SIGNIFICANT = 0.05
"""p-value below which a rank correlation is called one."""


def say_gains(gains: list[FrontierGain]) -> list[str]:
    """Says how each compared value changes the frontier."""
    if not gains:
        return ["Frontier gain: nothing has a cell in common with what it is compared with."]
    axes = dict(zip(("reconstruction", "generation"), gains[0].scales, strict=True))
    logs = [name for name, scale in axes.items() if scale == "log"]
    scale = f", in decades of {' and '.join(logs)}" if logs else ""
    lines = []
    for axis in dict.fromkeys(gain.axis for gain in gains):
        mine = [gain for gain in gains if gain.axis == axis]
        sides = f"{_name_sides(axis)}{scale}; {REFERENCE_RULE}"
        lines += [f"Frontier gain (hypervolume {sides}):", *map(_say_gain, mine)]
    judged = sum(gain.verdict != "no interval" for gain in gains)
    return [*lines, *_say_number("frontier gains", judged)]


def say_slopes(slopes: list[DilemmaSlope], along: str = "latent dims") -> list[str]:
    """Says how steep the dilemma is."""
    if not slopes:
        return ["Slope of the dilemma: no line has two points with both distances."]
    head = (
        f"Slope of the dilemma (log generation against log reconstruction over {along}; -1:"
        " half the reconstruction distance costs twice the generation distance):"
    )
    judged = sum(change.interval is not None for slope in slopes for change in slope.changes)
    return [head, *map(_say_slope, slopes), *_say_number("changes of slope", judged)]


def say_speedups(speedups: list[Speedup]) -> list[str]:
    """Says how much sooner a generator reaches its counterpart's last distance."""
    if not speedups:
        return ["Convergence: no line of two snapshots has a counterpart to be compared with."]
    lines = []
    for axis in dict.fromkeys(speedup.axis for speedup in speedups):
        mine = [_say_speedup(speedup) for speedup in speedups if speedup.axis == axis]
        whose = "unaligned generator" if axis.column == ALIGNMENT else axis.text(axis.baseline)
        lines += [f"Convergence (images to reach the {whose}'s last generation distance):", *mine]
    judged = sum(speedup.interval is not None for speedup in speedups)
    return [*lines, *_say_number("speed-ups", judged)]


def say_correlations(correlations: list[RankCorrelation]) -> list[str]:
    """Says which diagnostics order the cells as the generation distance does; empty without any."""
    if not correlations:
        return []
    head = (
        "Latent diagnostics against generation distance (rank correlation within a generator"
        " size; latent dim and alignment move both, so it shows no cause"
        f"{_say_chance(correlations)}):"
    )
    most = max(each.num_points for each in correlations)
    if most < MIN_POINTS:
        cells = (
            f"{most} cell{'' if most == 1 else 's'} of one generator, too few for a correlation."
        )
        return [f"{head[:-1]}: at most {cells}"]
    return [head, *map(_say_correlation, correlations)]


def _name_sides(axis: Axis) -> str:
    if axis.column == ALIGNMENT:
        return "with alignment over without"
    return f"over that of {axis.text(axis.baseline)}"


def _say_number(what: str, judged: int) -> list[str]:
    """How many comparisons were made, and how many of them chance alone would call differences."""
    if judged < 2:
        return []
    chance = f"by chance alone about {count_by_chance(judged):.1f} would be told apart"
    return [f"These are {judged} {what} with intervals; {chance}."]


def _say_gain(gain: FrontierGain) -> str:
    ratio = f"x{gain.ratio:.3g}" if np.isfinite(gain.ratio) else "from nothing"
    about = ", ".join(filter(None, (gain.value, gain.place, _say_places(gain.along, gain.dims))))
    text = (
        f"- {about}: {ratio}"
        f"{_say_interval(gain.ratio_interval)}, difference {gain.difference:+.3g}"
        f"{_say_interval(gain.difference_interval)}"
    )
    verdict = {
        "larger": "larger, established over these seeds",
        "smaller": "smaller, established over these seeds",
        "not told apart": "not told apart: the interval holds 0",
        "no interval": f"{gain.no_interval}: an observation, not a finding",
    }[gain.verdict]
    omitted = _say_places(gain.along, gain.omitted_dims)
    return f"{text}: {verdict}" + (f" ({omitted} only on one side)." if omitted else ".")


def _say_places(along: Axis | None, places: tuple[str, ...]) -> str:
    """Places on a line: "d=4, 8, 16"."""
    return "" if along is None or not places else along.text(", ".join(places))


def _say_slope(slope: DilemmaSlope) -> str:
    text = f"- {slope.line}: {slope.slope:.2f}{_say_interval(slope.interval)}"
    if slope.shows_dilemma is None:
        text += f", {slope.no_interval}"
    elif not slope.shows_dilemma:
        text += ", no dilemma is established"
    for each in slope.changes:
        text += (
            f"; {each.change:+.2f}{_say_interval(each.interval)} against"
            f" {each.axis.text(each.axis.baseline)}, {_judge_change(each)}"
        )
    return f"{text}."


def _judge_change(change: SlopeChange) -> str:
    if change.interval is None:
        return "no interval"
    low, high = change.interval
    if low > 0:
        return f"{change.axis.label} eases it"
    return f"{change.axis.label} worsens it" if high < 0 else "not told apart"


def _say_speedup(speedup: Speedup) -> str:
    head = f"- {speedup.cell}:"
    if not speedup.reached:
        return f"{head} {speedup.target:.4g} is not reached."
    bound = "at least " if speedup.is_bound else ""
    older = "" if speedup.is_last else " (the last snapshot that all its seeds have)"
    text = (
        f"{head} {speedup.target:.4g} after {speedup.images:,.0f} instead of"
        f" {speedup.baseline_images:,.0f} images{older}, {bound}x{speedup.speedup:.3g}"
    )
    if speedup.interval is None:
        return f"{text}, one seed on a side: an observation, not a finding."
    low, high = speedup.interval
    if low == 0:
        return f"{text}, at most x{high:.3g}; some resamples of the seeds do not reach it."
    verdict = "" if low > 1 or high < 1 else ", not told apart from x1"
    return f"{text}{_say_interval(speedup.interval)}{verdict}."


def _say_correlation(each: RankCorrelation) -> str:
    name = f"- {', '.join(filter(None, (each.label, each.generator)))}:"
    if each.num_points < MIN_POINTS:
        return f"{name} {each.num_points} cells, too few for a correlation."
    if not np.isfinite(each.correlation):
        return f"{name} the same in all {each.num_points} cells."
    verdict = "" if each.p_value < SIGNIFICANT else ", not told apart from none"
    return (
        f"{name} {each.correlation:+.2f} over {each.num_points} cells"
        f" (p = {each.p_value:.2g}){verdict}."
    )


def _say_chance(correlations: list[RankCorrelation]) -> str:
    tested = [each for each in correlations if np.isfinite(each.p_value)]
    if not tested:
        return ""
    found = sum(each.p_value < SIGNIFICANT for each in tested)
    return (
        f"; {found} of {len(tested)} have p < {SIGNIFICANT:g}, by chance alone about"
        f" {SIGNIFICANT * len(tested):.1f} would"
    )


def _say_interval(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3g}, {interval[1]:.3g}]"
