"""Latent diagnostics: does what is measured on the latents order the generators as gfid does?

Each diagnostic is held against the generation distance over the cells of one generator size, or of
what else the generator alone has, with Spearman's rank correlation. Cells differ in latent dim and
alignment, which move both: a correlation says that the diagnostic orders them, not that it is the
cause.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.cells.cells import Cells
from analysis.cells.lines import join_texts
from analysis.figures.column import COLUMN_INCH, describe_setting, finish_column_figure
from analysis.figures.panels import Panel, draw_panels, require_points
from analysis.table.columns import Column, diagnostics_of

MIN_POINTS = 5
"""Points from which a rank correlation is given, count."""
NUM_PERMUTATIONS = 9999
PANEL_INCH = 1.25


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """How one diagnostic orders the cells of one generator size."""

    diagnostic: str
    label: str
    generator: str
    """Generator size, and what else the generator alone has, in words."""
    num_points: int
    """Cells with both numbers, count."""
    correlation: float
    """Spearman's rank correlation with gfid, -1 to 1; NaN with fewer than `MIN_POINTS` points or
    where one of both is the same everywhere."""
    p_value: float
    """Share of random orders that correlate as strongly, either way; NaN likewise."""


def known_diagnostics(cells: Cells) -> list[str]:
    """The diagnostics that two cells have, or all there are of one."""
    names, most = cells.known(diagnostics_of(cells.measures)), min(2, len(cells.points))
    return [name for name in names if np.isfinite(cells.points[name]).sum() >= most]


def compute_correlations(cells: Cells) -> list[RankCorrelation]:
    """Computes each diagnostic's rank correlation with gfid over the cells of a generator size."""
    alone = [axis for axis in cells.axes.listed if not axis.moves_tokenizer]
    generators = join_texts(cells.points, alone)
    return [
        _correlate(line, name, cells.measures[name], str(generator))
        for name in diagnostics_of(cells.measures)
        for generator, line in cells.points.groupby(generators, sort=False)
        if np.isfinite(line[name]).any()
    ]


def correlate_ranks(
    x: NDArray[np.float64], y: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float]:
    """Spearman's rank correlation and its p-value by permutation; NaN where one is constant."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    if scale == 0:
        return float("nan"), float("nan")
    correlation = float(ranks[0] @ ranks[1] / scale)
    repeated = np.repeat(ranks[1][None], NUM_PERMUTATIONS, axis=0)
    shuffled = np.random.default_rng(seed).permuted(repeated, axis=1) @ ranks[0] / scale
    as_strong = int((np.abs(shuffled) >= abs(correlation) - 1e-12).sum())
    return correlation, (as_strong + 1) / (NUM_PERMUTATIONS + 1)


def draw_diagnostics(
    cells: Cells, correlations: Sequence[RankCorrelation], width_inch: float = COLUMN_INCH
) -> Figure:
    """Draws a panel per diagnostic: the diagnostic across, generation distance up."""
    names = known_diagnostics(cells)
    require_points(names, "diagnostics", "cell with a latent diagnostic", cells.gaps)
    panels = [
        Panel(x=name, y="gfid", x_label=cells.measures[name].label, title=_title(mine))
        for name in names
        if (mine := [each for each in correlations if each.diagnostic == name])
    ]
    figure, grid, marks = draw_panels(
        cells.points,
        panels,
        width_inch,
        lines=("colour", "marker"),
        cell_axes=cells.axes,
        along="along",
        y_label=f"generation: {cells.setting.distance_name}",
        num_columns=min(2 if width_inch == COLUMN_INCH else 4, len(names)),
        share_y=True,
        panel_inch=PANEL_INCH,
        is_joined=False,
    )
    for axes in grid.flat:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    rule = f"rank r: Spearman's, over n cells of a size, from n = {MIN_POINTS}"
    finish_column_figure(figure, marks, [*describe_setting(cells.setting, len(cells.gaps)), rule])
    return figure


def _correlate(line: pd.DataFrame, name: str, column: Column, generator: str) -> RankCorrelation:
    known = line[np.isfinite(line[name]) & np.isfinite(line["gfid"])]
    correlation, p_value = float("nan"), float("nan")
    if len(known) >= MIN_POINTS:
        correlation, p_value = correlate_ranks(known[name].to_numpy(), known["gfid"].to_numpy())
    return RankCorrelation(
        diagnostic=name,
        label=column.label,
        generator=generator,
        num_points=len(known),
        correlation=correlation,
        p_value=p_value,
    )


def _title(mine: list[RankCorrelation]) -> str:
    values = [each.correlation for each in mine if np.isfinite(each.correlation)]
    most = max(each.num_points for each in mine)
    if not values:
        return f"n={most}: no rank r"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"rank r {low} (n={most})" if low == high else f"rank r {low} to {high} (n={most})"
