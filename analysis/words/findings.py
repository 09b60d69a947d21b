"""Sentences on gains, slopes, speed-ups and correlations that go no further than the numbers."""

import numpy as np

from analysis.figures.convergence import Speedup
from analysis.figures.diagnostics import MIN_POINTS, RankCorrelation
from analysis.statistics.bootstrap import Interval
from analysis.statistics.dilemma_slope import DilemmaSlope
from analysis.statistics.gain import REFERENCE_RULE, FrontierGain

SIGNIFICANT = 0.05
"""p-value below which a rank correlation is called one."""


def say_gains(gains: list[FrontierGain]) -> list[str]:
    """Says how alignment changes the frontier.

    Args:
        gains: From `compute_gains`.

    Returns:
        Sentences, one a gain after one that says what is compared.
    """
    if not gains:
        return ["Frontier gain: no alignment has a latent dim in common with its baseline."]
    axes = dict(zip(("reconstruction", "generation"), gains[0].scales, strict=True))
    logs = [name for name, scale in axes.items() if scale == "log"]
    scale = f", in decades of {' and '.join(logs)}" if logs else ""
    head = f"Frontier gain (hypervolume with alignment over without{scale}; {REFERENCE_RULE}):"
    return [head, *map(_say_gain, gains)]


def say_slopes(slopes: list[DilemmaSlope]) -> list[str]:
    """Says how steep the dilemma is.

    Args:
        slopes: From `compute_dilemma_slopes`.

    Returns:
        Sentences, one a line after one that says what a slope is.
    """
    if not slopes:
        return ["Slope of the dilemma: no line has two latent dims with both distances."]
    head = (
        "Slope of the dilemma (log generation against log reconstruction over latent dims; -1:"
        " half the reconstruction distance costs twice the generation distance):"
    )
    return [head, *map(_say_slope, slopes)]


def say_speedups(speedups: list[Speedup]) -> list[str]:
    """Says how much sooner alignment reaches the unaligned generator's last distance.

    Args:
        speedups: From `compute_convergence`.

    Returns:
        Sentences, one a speed-up; one that there is none where nothing is to be compared.
    """
    if not speedups:
        return ["Convergence: no aligned line of two snapshots has an unaligned counterpart."]
    head = "Convergence (images to reach the unaligned generator's last generation distance):"
    return [head, *map(_say_speedup, speedups)]


def say_correlations(correlations: list[RankCorrelation]) -> list[str]:
    """Says which diagnostics order the cells as the generation distance does.

    Args:
        correlations: From `compute_correlations`.

    Returns:
        Sentences; empty without diagnostics.
    """
    if not correlations:
        return []
    head = (
        "Latent diagnostics against generation distance (rank correlation within a generator"
        " size; latent dim and alignment move both, so it shows no cause"
        f"{_say_chance(correlations)}):"
    )
    return [head, *map(_say_correlation, correlations)]


def _say_gain(gain: FrontierGain) -> str:
    dims = ", ".join(f"{dim:g}" for dim in gain.latent_dims)
    ratio = f"x{gain.ratio:.3g}" if np.isfinite(gain.ratio) else "from nothing"
    text = (
        f"- {gain.alignment}, {gain.generator_size}, d={dims}: {ratio}"
        f"{_say_interval(gain.ratio_interval)}, difference {gain.difference:+.3g}"
        f"{_say_interval(gain.difference_interval)}"
    )
    verdict = {
        "larger": "larger, established over these seeds",
        "smaller": "smaller, established over these seeds",
        "not told apart": "not told apart: the interval holds 0",
        "no interval": f"{gain.no_interval}: an observation, not a finding",
    }[gain.verdict]
    omitted = ", ".join(f"{dim:g}" for dim in gain.omitted_dims)
    return f"{text}: {verdict}" + (f" (d={omitted} only on one side)." if omitted else ".")


def _say_slope(slope: DilemmaSlope) -> str:
    text = (
        f"- {slope.alignment}, {slope.generator_size}: {slope.slope:.2f}"
        f"{_say_interval(slope.interval)}"
    )
    if slope.shows_dilemma is None:
        text += f", {slope.no_interval}"
    elif not slope.shows_dilemma:
        text += ", no dilemma is established"
    if np.isfinite(slope.change):
        text += (
            f"; {slope.change:+.2f}{_say_interval(slope.change_interval)} against none,"
            f" {_judge_change(slope)}"
        )
    return f"{text}."


def _judge_change(slope: DilemmaSlope) -> str:
    if slope.change_interval is None:
        return "no interval"
    low, high = slope.change_interval
    if low > 0:
        return "alignment eases it"
    return "alignment worsens it" if high < 0 else "not told apart"


def _say_speedup(speedup: Speedup) -> str:
    head = f"- {speedup.alignment}, {speedup.generator_size}, d={speedup.latent_dim:g}:"
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
    name = f"- {each.label}, {each.generator_size}:"
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
