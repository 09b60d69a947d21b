"""From the grid of a sweep file to combinations: conditions, pairs, lists of grids, exclusions."""

from typing import Any

import pytest

from harness.config.sweep import load_sweep, resolved_tree
from harness.schema.reading import ConfigError


@pytest.fixture
def combinations(load):
    """The values of all trials of the small sweep with this grid; short names for brevity."""

    def found(*settings: str) -> list[dict[str, Any]]:
        return [
            {axis.rpartition(".")[2]: value for axis, value in point.axes.items()}
            for point in load(*settings).points
        ]

    return found


def test_an_axis_is_varied_only_when_its_condition_holds(combinations, load):
    grid = (
        "grid={alignment: [none, vf], "
        "tokenizer.alignment.vf_weight: {choices: [0.1, 0.5], when: {alignment: vf}}}"
    )
    assert combinations(grid) == [
        {"alignment": "none"},
        {"alignment": "vf", "vf_weight": 0.1},
        {"alignment": "vf", "vf_weight": 0.5},
    ]
    weights = [getattr(p.trial.tokenizer.alignment, "vf_weight", 0) for p in load(grid).points]
    assert weights == [0, 0.1, 0.5]


def test_an_axis_may_have_other_values_under_each_condition(combinations):
    assert combinations(
        "grid={tokenizer.latent_dim: [2, 3, 4], tokenizer.loss.kl_weight: "
        "[{choices: [1e-3], when: {tokenizer.latent_dim: 2}}, "
        "{choices: [1e-4, 1e-5], when: {tokenizer.latent_dim: [3]}}]}"
    ) == [
        {"latent_dim": 2, "kl_weight": 1e-3},
        {"latent_dim": 3, "kl_weight": 1e-4},
        {"latent_dim": 3, "kl_weight": 1e-5},
        {"latent_dim": 4},
    ]


def test_zipped_axes_move_together_and_say_so(combinations, load):
    settings = (
        "grid={tokenizer.latent_dim: [2, 3], seed: [0, 1], tokenizer.loss.kl_weight: [1e-3, 1e-4]}",
        "zip=[[tokenizer.latent_dim, tokenizer.loss.kl_weight]]",
    )
    assert combinations(*settings) == [
        {"latent_dim": 2, "kl_weight": 1e-3, "seed": 0},
        {"latent_dim": 2, "kl_weight": 1e-3, "seed": 1},
        {"latent_dim": 3, "kl_weight": 1e-4, "seed": 0},
        {"latent_dim": 3, "kl_weight": 1e-4, "seed": 1},
    ]
    axes = {axis.name: axis.moves_with for axis in load(*settings).axes}
    assert axes["tokenizer.latent_dim"] == ("tokenizer.loss.kl_weight",)
    assert axes["seed"] == ()


def test_a_list_of_grids_is_their_union_and_missing_axes_have_the_base_value(combinations):
    assert combinations(
        "grid=[{tokenizer.latent_dim: [2, 3], alignment: [none]}, {alignment: [vf, none]}, "
        "{alignment: [vf], tokenizer.alignment.vf_weight: [0.1, 7]}]",
        "trial.tokenizer.latent_dim=2",
    ) == [
        {"latent_dim": 2, "alignment": "none"},
        {"latent_dim": 3, "alignment": "none"},
        {"latent_dim": 2, "alignment": "vf", "vf_weight": 0.1},
        {"latent_dim": 2, "alignment": "vf", "vf_weight": 7},
    ]


def test_a_missing_preset_is_the_one_that_changes_nothing_or_the_base(combinations, tree):
    grid = "grid=[{alignment: [vf]}, {tokenizer.latent_dim: [3]}]"
    assert combinations(grid) == [
        {"alignment": "vf", "latent_dim": 2},
        {"alignment": "none", "latent_dim": 3},
    ]
    del tree["presets"]["alignment"]["none"]
    assert combinations(grid)[1] == {"alignment": "(base)", "latent_dim": 3}


def test_exclusions_match_values_that_are_lists_and_values_of_other_grids(combinations):
    widths = "tokenizer.architecture.width_multipliers"
    assert combinations(
        f"grid={{{widths}: [[1, 1, 2], [1, 2, 2]], seed: [0, 1]}}",
        f"exclude=[{{{widths}: [1, 1, 2], seed: 1}}]",
    ) == [
        {"width_multipliers": [1, 1, 2], "seed": 0},
        {"width_multipliers": [1, 2, 2], "seed": 0},
        {"width_multipliers": [1, 2, 2], "seed": 1},
    ]
    assert combinations(
        "grid=[{tokenizer.latent_dim: [2, 3]}, {seed: [0, 1]}]",
        "exclude=[{tokenizer.latent_dim: 2, seed: 0}]",
    ) == [{"latent_dim": 3, "seed": 0}, {"seed": 1, "latent_dim": 2}]


def test_an_exclusion_leaves_out_what_makes_no_trial(combinations):
    assert combinations(
        "grid={alignment: [none, vf], tokenizer.alignment.vf_weight: [0.1, 0.5]}",
        "exclude=[{alignment: none}]",
    ) == [{"alignment": "vf", "vf_weight": 0.1}, {"alignment": "vf", "vf_weight": 0.5}]


def test_a_setting_changes_an_axis_of_one_grid_of_a_list(combinations, load):
    grids = "grid=[{tokenizer.latent_dim: [2]}, {seed: [1]}]"
    assert combinations(grids, "grid.0.tokenizer.latent_dim=[4]")[0]["latent_dim"] == 4
    with pytest.raises(ConfigError, match=r"one of the 2 grids by its number, as grid\.0\.AXIS"):
        load(grids, "grid.tokenizer.latent_dim=[4]")


def test_a_setting_of_the_trial_is_refused_where_every_grid_has_the_axis(combinations, load):
    grids = "grid=[{tokenizer.latent_dim: [2]}, {seed: [1], tokenizer.latent_dim: [3]}]"
    assert combinations(grids, "trial.seed=5")[0] == {"latent_dim": 2, "seed": 5}
    with pytest.raises(ConfigError, match="set by an axis of the grid"):
        load(grids, "tokenizer.latent_dim=4")


def test_the_file_in_the_results_reads_as_the_same_sweep(load, write):
    sweep = load(
        "grid=[{alignment: [none, vf], tokenizer.latent_dim: {choices: [2, 3], "
        "when: {alignment: vf}}}, {seed: [1, 2], evaluation.seed: [3, 4]}]",
        "zip=[[seed, evaluation.seed]]",
        "compare={alignment: vf}",
    )
    again = load_sweep(write(resolved_tree(sweep)))
    assert (again.points, again.axes) == (sweep.points, sweep.axes)


def test_a_file_without_pairs_and_comparisons_is_written_as_before(load):
    assert not {"zip", "compare"} & set(resolved_tree(load()))


def test_a_setting_of_a_preset_adds_to_its_value_and_replaces_no_block(load, tree):
    tree["grid"] = {"alignment": ["none", "vf"]}
    sweep = load("presets.alignment.vf.generator.training.steps=7")
    plain, aligned = (point.trial.generator for point in sweep.points)
    assert plain is not None
    assert aligned is not None
    assert (plain.training.steps, aligned.training.steps) == (4, 7)
    assert aligned.size == plain.size
