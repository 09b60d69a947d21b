"""Axes that a table declares: what is a cell, a line and a comparison."""

import itertools
import json

import pandas as pd
import pytest

from analysis.cells.cells import compute_cells, split_lines
from analysis.cells.pairs import find_pairs
from analysis.figures.convergence import compute_convergence
from analysis.figures.frontier import compute_frontier, draw_frontier
from analysis.figures.marks import choose_colours
from analysis.group import MAX_LINES, say_selection, select_lines
from analysis.statistics.dilemma_slope import compute_dilemma_slopes
from analysis.statistics.effects import compute_effects
from analysis.statistics.gain import compute_gains
from analysis.table.columns import ATTRIBUTE, Column, write_columns
from analysis.table.published import select_published
from analysis.table.reading import check_table
from analysis.words.summary import summarize


def _axis(label, values, kind="categorical", **about):
    """A declared axis, compared with its first value."""
    texts = {"values": json.dumps(values), "baseline": json.dumps(values[0])}
    of_type = "text" if kind == "categorical" else "number"
    return Column(type=of_type, label=label, axis=kind, **texts, **about)


def _table(rows, axes):
    frame = pd.DataFrame(rows)
    frame.attrs[ATTRIBUTE] = write_columns({f"axis.{name}": axis for name, axis in axes.items()})
    return check_table(frame)


def _trial(make_row, values, seed=0, **numbers):
    """A trial at some values of axes; its tokenizer follows those of the tokenizer."""
    own = {name: value for name, value in values.items() if not name.startswith("generator.")}
    name = "-".join(map(str, values.values())) + f"-s{seed}"
    row = make_row(seed=seed, trial_id=name, tokenizer_key=f"{own} {seed}", **numbers)
    return row | {f"axis.{name}": value for name, value in values.items()}


KL = {
    "tokenizer.loss.kl_weight": _axis("kl_weight", [1e-6, 1e-3], "numeric"),
    "tokenizer.latent_dim": _axis("latent_dim", [4, 8], "numeric"),
}
THREE = {
    "width": _axis("width", ["narrow", "wide"]),
    "alignment": _axis("alignment", ["none", "vf"]),
    "generator.size": _axis("generator size", ["S", "M"]),
}


@pytest.fixture
def kl_rows(make_row):
    """Two weights at two latent dims: ten times the weight halves generation."""
    return [
        _trial(
            make_row,
            {"tokenizer.loss.kl_weight": weight, "tokenizer.latent_dim": dim},
            latent_dim=dim,
            rfid=8 / dim,
            gfid=dim * (0.5 if weight == 1e-3 else 1.0),
        )
        for weight in (1e-6, 1e-3)
        for dim in (4, 8)
    ]


@pytest.fixture
def three_rows(make_row):
    """Width x alignment x size, two seeds: each moves gfid by a factor of its own."""
    factors = {"narrow": 1.0, "wide": 0.8, "none": 1.0, "vf": 0.5, "S": 1.0, "M": 0.25}
    return [
        _trial(
            make_row,
            dict(zip(THREE, values, strict=True)),
            seed,
            alignment=values[1],
            generator_size=values[2],
            gfid=8.0 * factors[values[0]] * factors[values[1]] * factors[values[2]] + 0.01 * seed,
        )
        for values in itertools.product(("narrow", "wide"), ("none", "vf"), ("S", "M"))
        for seed in (0, 1)
    ]


def test_two_numeric_axes_are_a_colour_and_a_line(kl_rows):
    cells = compute_frontier(_table(kl_rows, KL))
    assert [name for name, _ in split_lines(cells.points)] == ["kl_weight 1e-06", "kl_weight 0.001"]
    assert cells.points["cell"].tolist()[0] == "kl_weight 1e-06, d=4"
    figure = draw_frontier(cells, select_published(cells.rows))
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert {line.get_color() for line in lines} >= set(choose_colours(2))
    (slope,) = [s for s in compute_dilemma_slopes(cells) if s.line == "kl_weight 0.001"]
    assert slope.changes[0].change == pytest.approx(0.0)


def test_three_categorical_axes_are_each_compared_with_the_others_held(three_rows):
    cells = compute_cells(_table(three_rows, THREE), needs=("rfid", "gfid"))
    effects = compute_effects(cells)
    found = {axis.label: [e for e in effects if e.axis == axis] for axis in cells.axes.compared}
    assert {label: len(mine) for label, mine in found.items()} == {
        "alignment": 4,
        "width": 4,
        "generator size": 4,
    }
    for label, ratio in (("alignment", 0.5), ("width", 0.8), ("generator size", 0.25)):
        ratios = [effect.gfid.ratio for effect in found[label]]
        assert ratios == pytest.approx([ratio] * 4, rel=0.01)
        assert all(effect.gfid.ratio_range is not None for effect in found[label])
    assert "In all 12 comparisons of generation were made" in summarize(_table(three_rows, THREE))
    gains = compute_gains(cells)
    assert {gain.value for gain in gains} == {"vf", "width wide", "M"}


def test_a_third_axis_parts_the_panels(three_rows):
    cells = compute_frontier(_table(three_rows, THREE))
    assert (cells.axes.colours[0].label, cells.axes.markers[0].label) == ("alignment", "width")
    figure = draw_frontier(cells, select_published(cells.rows))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["generator S", "generator M"]


def test_seeds_that_are_not_shared_give_no_paired_range(three_rows):
    moved = [
        row | ({"generator_seed": row["seed"] + 7} if row["alignment"] == "vf" else {})
        for row in three_rows
    ]
    cells = compute_cells(_table(moved, THREE), needs=("gfid",))
    aligned = [e for e in compute_effects(cells) if e.axis.label == "alignment"]
    assert [effect.gfid.ratio_range for effect in aligned] == [None] * 4
    assert [effect.gfid.counts for effect in aligned] == [(2, 2)] * 4


def test_batch_sizes_are_three_lines_and_their_snapshots_stay_their_own(make_row):
    name = "generator.training.batch_size"
    rows = [
        _trial(make_row, {name: batch}, generator_images=step * batch, gfid=100.0 / step + batch)
        | {"generator_key": f"g{batch}"}
        for batch in (8, 16, 32)
        for step in (6, 12)
    ]
    table = _table(rows, {name: _axis("batch_size", [8, 16, 32], "numeric")})
    cells = compute_cells(table, needs=("rfid", "gfid"))
    names = [f"batch_size {batch}" for batch in (8, 16, 32)]
    assert cells.points["line"].tolist() == names
    assert cells.gaps.empty
    convergence = compute_convergence(table)
    assert convergence.points.groupby("cell").size().to_dict() == dict.fromkeys(names, 2)
    words = summarize(table)
    assert "earlier snapshot" not in words
    assert "192 against 96 images of the generator" in words


def test_one_snapshot_a_training_gives_no_speedup(make_row):
    name = "generator.training.batch_size"
    rows = [_trial(make_row, {name: batch}, generator_images=12 * batch) for batch in (8, 16)]
    table = _table(rows, {name: _axis("batch_size", [8, 16], "numeric")})
    assert compute_convergence(table).speedups == []


def test_a_weight_that_is_not_in_force_at_the_baseline_holds_nothing(make_row):
    axes = {
        "alignment": _axis("alignment", ["none", "vf"]),
        "tokenizer.alignment.vf_weight": _axis("vf_weight", [0.1, 0.5], "numeric"),
    }
    values = [("none", None), ("vf", 0.1), ("vf", 0.5)]
    rows = [
        _trial(make_row, dict(zip(axes, pair, strict=True)), alignment=pair[0], gfid=gfid)
        for pair, gfid in zip(values, (4.0, 2.0, 1.0), strict=True)
    ]
    cells = compute_cells(_table(rows, axes), needs=("gfid",))
    ratios = [e.gfid.ratio for e in compute_effects(cells) if e.axis.label == "alignment"]
    assert sorted(ratios) == [0.25, 0.5]


def test_axes_that_move_together_are_compared_once(make_row):
    axes = {
        "posterior": _axis("posterior", ["mean", "sample"], moves_with='["axis.noise"]'),
        "noise": _axis("noise", ["off", "on"], moves_with='["axis.posterior"]'),
    }
    rows = [
        _trial(make_row, dict(zip(axes, pair, strict=True)))
        for pair in (("mean", "off"), ("sample", "on"))
    ]
    cells = compute_cells(_table(rows, axes), needs=("gfid",))
    assert find_pairs(cells.points, cells.axes)["axis"].tolist() == ["axis.posterior"]
    assert "it moves together with noise" in summarize(_table(rows, axes))


def test_legends_are_in_numeric_order(make_row):
    name = "generator.training.learning_rate"
    values = [0.01, 0.0001, 0.001]
    rows = [_trial(make_row, {name: value}) for value in values]
    table = _table(rows, {name: _axis("learning_rate", values, "numeric")})
    assert compute_cells(table, needs=("gfid",)).points[f"axis.{name}"].tolist() == sorted(values)


def test_more_levels_than_can_be_told_apart_are_chosen_by_the_frontier(make_row):
    axes = {
        "a": _axis("a", [f"a{k}" for k in range(10)]),
        "b": _axis("b", ["b0"]),
        "c": _axis("c", [f"c{k}" for k in range(14)]),
    }
    axes["b"] = _axis("b", ["b0", "b1"])
    rows = [
        _trial(
            make_row,
            {"a": f"a{a}", "b": f"b{b}", "c": f"c{c}"},
            gfid=100.0 - 5 * a - c + b,
            rfid=1.0,
        )
        for a, b, c in itertools.product(range(10), range(2), range(14))
    ]
    table = _table(rows, axes)
    cells = compute_cells(table, needs=("rfid", "gfid"))
    kept = select_lines(cells)
    counts = {name: kept.points[name].nunique() for name in ("colour", "panel", "line")}
    told = say_selection(kept.points, cells, "marker", "panel")
    assert f"{counts['colour']} of 10 colours (a), {counts['panel']} of 14 panels (c)" in told
    assert f"{MAX_LINES} of {10 * 2 * 14} lines" in told
    assert counts["line"] == MAX_LINES
    assert {"a0", "a9"} <= set(kept.points["axis.a"])
    assert "a1" not in set(kept.points["axis.a"])


def test_sweeps_of_unlike_settings_are_never_pooled(make_row):
    rows = [
        make_row(sweep=sweep, trial_id=f"{sweep}{seed}", seed=seed, gfid=gfid)
        for sweep, gfid in (("fast", 2.0), ("slow", 4.0))
        for seed in (0, 1)
    ]
    points = compute_cells(check_table(pd.DataFrame(rows)), needs=("gfid",)).points
    assert points["gfid"].tolist() == [2.0, 4.0]
    assert points["cell"].tolist() == [f"none, sweep {name}, S, d=4" for name in ("fast", "slow")]
