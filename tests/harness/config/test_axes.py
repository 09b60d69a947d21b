"""What a sweep varies: kinds, values and baselines of axes, and their names."""

from typing import Any

import pytest

from harness.config.axes import Axis, describe_axes, short_names, write_value
from harness.schema.reading import ConfigError


def axes_of(sweep) -> dict[str, Axis]:
    return {axis.name: axis for axis in sweep.axes}


def test_an_axis_says_what_it_is_in_the_order_of_the_file(load):
    found = axes_of(
        load(
            "grid={tokenizer.loss.kl_weight: [1e-3, 1e-6], alignment: [vf, none], seed: [3, 1]}",
            "grid.tokenizer.architecture.width_multipliers=[[1, 1, 2], [1, 2, 2]]",
        )
    )
    assert list(found) == [
        "tokenizer.loss.kl_weight", "alignment", "seed", "tokenizer.architecture.width_multipliers",
    ]  # fmt: skip
    weight, alignment, seed, widths = found.values()
    assert (weight.kind, weight.type, weight.values) == ("numeric", "number", (1e-3, 1e-6))
    assert (alignment.kind, alignment.type, alignment.values) == (
        "categorical", "text", ("vf", "none"),
    )  # fmt: skip
    assert (seed.kind, seed.type, seed.values, seed.baseline) == ("seed", "count", (3, 1), None)
    assert (widths.kind, widths.values) == ("categorical", ("[1, 1, 2]", "[1, 2, 2]"))
    assert (weight.baseline, alignment.baseline, widths.baseline) == (1e-3, "vf", "[1, 1, 2]")


def test_only_seeds_of_trained_parts_and_of_the_sampling_mean_repetition():
    def kind(axis: str, presets: Any) -> str:
        values = list(presets.get(axis, [0, 1]))
        return describe_axes([{axis: value} for value in values], {axis: values}, presets)[0].kind

    presets = {
        "both": {"a": {"tokenizer.seed": 0, "generator.seed": 1}, "b": {"tokenizer.seed": 2}},
        "mixed": {"a": {"tokenizer.seed": 0}, "b": {"tokenizer.latent_dim": 2}},
    }
    assert kind("generator.seed", {}) == "seed"
    assert kind("both", presets) == "seed"
    assert kind("mixed", presets) == "categorical"
    assert kind("evaluation.extractor.seed", {}) == "categorical"


def test_numbers_beside_other_values_are_no_numeric_axis(load):
    axis = axes_of(load("grid={tokenizer.seed: [null, 4]}"))["tokenizer.seed"]
    assert (axis.type, axis.values) == ("text", ("null", "4"))


def test_compare_names_the_value_that_others_are_compared_with(load):
    settings = "grid={alignment: [none, vf], tokenizer.latent_dim: [2, 3]}"
    compared = axes_of(load(settings, "compare={alignment: vf}", "compare.tokenizer.latent_dim=3"))
    assert compared["alignment"].baseline == "vf"
    assert compared["tokenizer.latent_dim"].baseline == 3
    assert axes_of(load(settings))["alignment"].baseline == "none"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("compare={alignmnt: vf}", ["compare.alignmnt", "did you mean 'alignment'", "axes: "]),
        ("compare={alignment: fv}", ["compare.alignment", "'fv'", "valid: none, vf"]),
        ("compare={tokenizer.latent_dim: 4}", ["compare.tokenizer.latent_dim", "valid: 2, 3"]),
        ("compare={tokenizer.latent_dim: true}", ["compare.tokenizer.latent_dim", "'true'"]),
        ("compare={seed: 1}", ["compare.seed", "repetition"]),
    ],
)
def test_a_wrong_comparison_is_told_with_the_values_that_there_are(load, setting, told):
    grid = "grid={alignment: [none, vf], tokenizer.latent_dim: [2, 3], seed: [0, 1]}"
    with pytest.raises(ConfigError) as error:
        load(grid, setting)
    for words in told:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        (["tokenizer.latent_dim", "seed"], ["latent_dim", "seed"]),
        (["generator.training.batch_size"], ["generator.batch_size"]),
        (
            ["tokenizer.training.learning_rate", "generator.training.learning_rate"],
            ["tokenizer.learning_rate", "generator.learning_rate"],
        ),
        (["seed", "tokenizer.seed"], ["seed", "tokenizer.seed"]),
        (["generator.repa.weight", "generator.ema.decay"], ["repa.weight", "ema.decay"]),
        (["latent_dim", "tokenizer.latent_dim"], ["latent_dim", "tokenizer.latent_dim"]),
    ],
)
def test_a_short_name_tells_an_axis_from_the_others(axes, names):
    assert list(short_names(axes).values()) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-6, "1e-06"),
        (None, "null"),
        (True, "true"),
        ("vf", "vf"),
        ([1, 2], "[1, 2]"),
        ({"kind": "cfg", "scale": 2}, "{kind: cfg, scale: 2}"),
    ],
)
def test_values_are_written_as_in_a_sweep_file(value, text):
    assert write_value(value) == text
