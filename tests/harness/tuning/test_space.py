"""The search block: what is in force when, what lies in it, and what is refused."""

import optuna
import pytest

from harness.schema.reading import ConfigError

WEIGHT, MARGIN = "tokenizer.alignment.vf_weight", "tokenizer.alignment.cos_margin"


def suggest(space, chosen, *, every):
    study = optuna.create_study()
    study.enqueue_trial(chosen)
    trial = study.ask()
    return space.suggest(trial, every=every), trial.params


def test_a_parameter_under_a_condition_is_asked_for_only_where_it_holds(load):
    axes, parameters = suggest(load().space, {"alignment": "none"}, every=False)
    assert axes == parameters == {"alignment": "none"}
    axes, parameters = suggest(load().space, {"alignment": "fixed"}, every=False)
    assert set(axes) == {"alignment", WEIGHT, MARGIN}
    assert f"{WEIGHT} (alignment fixed)" in parameters


def test_samplers_that_model_common_parameters_get_every_one_of_them(load):
    axes, parameters = suggest(load().space, {"alignment": "none"}, every=True)
    assert axes == {"alignment": "none"}
    assert set(parameters) == {p.name for p in load().space.parameters}


def test_adaptive_and_fixed_weights_have_their_own_scales(load):
    domains = {p.name: p.domain.ends for p in load().space.parameters}
    assert domains[f"{WEIGHT} (alignment adaptive)"] == (0.01, 1)
    assert domains[f"{WEIGHT} (alignment fixed)"] == (0.001, 10)


def test_values_of_axes_are_the_parameters_of_their_branch(load):
    values = load().space.parameters_of({"alignment": "fixed", WEIGHT: 5.0, MARGIN: 0.1})
    assert values == {"alignment": "fixed", f"{WEIGHT} (alignment fixed)": 5.0, MARGIN: 0.1}


def test_named_blocks_are_choices(load, tree):
    encoder = tree["presets"]["alignment"]["fixed"]["tokenizer.alignment"]["encoder"]
    tree["search"]["tokenizer.alignment.encoder"] = {
        "choices": {"one": encoder, "another": {**encoder, "seed": 5}},
        "when": {"alignment": ["adaptive", "fixed"]},
    }
    tree.pop("first")
    axes = {"alignment": "fixed", WEIGHT: 1.0, MARGIN: 0.0}
    point = load().point({**axes, "tokenizer.alignment.encoder": "another"})
    assert point.trial.tokenizer.alignment.encoder.seed == 5
    assert point.trial.tokenizer.alignment.adaptive is False


def test_any_field_of_the_trial_may_be_searched(load, tree):
    tree["search"] |= {
        "tokenizer.loss.kl_weight": {"log": [1e-7, 1e-5]},
        "tokenizer.training.steps": {"integer": [2, 9], "step": 7},
        "latents.flip": {"choices": [True, False]},
    }
    tree.pop("first")
    tuning = load()
    axes, _ = suggest(tuning.space, {"alignment": "none"}, every=False)
    trial = tuning.point(axes).trial
    assert trial.tokenizer.loss.kl_weight == axes["tokenizer.loss.kl_weight"]
    assert trial.tokenizer.training.steps == axes["tokenizer.training.steps"]
    assert trial.tokenizer.training.steps in (2, 9)
    assert trial.latents.flip == axes["latents.flip"]


FILES = {
    "the file of a sweep": (
        {"search": {}, "grid": {"seed": [0, 1]}},
        ["must have a `search`, but has a `grid`", "`python -m harness.run`"],
    ),
    "the file of a sweep whose grid is empty": (
        {"search": {}, "grid": {}},
        ["must have a `search`, but has a `grid`"],
    ),
    "a misspelt block": ({"serach": {}}, ["unknown key 'serach'", "did you mean 'search'"]),
    "a grid": ({"grid": {}}, ["unknown key 'grid'"]),
    "an empty search": ({"search": {}}, ["search", "at least one field"]),
    "an unknown axis": (
        {"search/tokenzer.latent_dim": {"integer": [2, 4]}},
        ["search.tokenzer.latent_dim", "unknown axis", "tokenizer"],
    ),
    "an unknown field": (
        {"search/tokenizer.latent_dims": {"integer": [2, 4]}, "first": {}},
        ["trial.tokenizer.latent_dims", "did you mean 'latent_dim'", "search.tokenizer.latent_"],
    ),
    "an unknown domain": (
        {"search/tokenizer.latent_dim": {"integr": [2, 4]}},
        ["search.tokenizer.latent_dim.integr", "did you mean 'integer'"],
    ),
    "two domains in one": (
        {"search/seed": {"integer": [2, 4], "choices": [1, 2]}},
        ["search.seed", "exactly one of", "integer, choices"],
    ),
    "no domain": ({"search/seed": {"when": {}}}, ["search.seed", "exactly one of", "none"]),
    "a logarithm of nothing": (
        {"search/tokenizer.loss.kl_weight": {"log": [0, 1]}},
        ["search.tokenizer.loss.kl_weight", "0 < least < largest", "[0.0, 1.0]"],
    ),
    "an empty range": (
        {"search/seed": {"integer": [3, 3]}},
        ["search.seed", "least < largest", "[3, 3]"],
    ),
    "a number for a range": ({"search/seed": {"integer": 3}}, ["search.seed.integer", "3"]),
    "one choice": ({"search/seed": {"choices": [1]}}, ["search.seed", "two or more"]),
    "a choice twice": ({"search/seed": {"choices": [1, 1]}}, ["search.seed", "each once"]),
    "a block without a name": (
        {"search/generator.size": {"choices": ["pico", {"depth": 1}]}},
        ["search.generator.size", "must have a name"],
    ),
    "an unknown preset": (
        {"search/alignment": {"choices": ["adaptiv", "none"]}},
        ["search.alignment", "'adaptiv'", "did you mean 'adaptive'"],
    ),
    "a preset over a range": (
        {"search/alignment": {"uniform": [0, 1]}},
        ["search.alignment", "choices of its names"],
    ),
    "a condition on an unknown axis": (
        {"search/seed": {"integer": [0, 3], "when": {"alignmnt": "none"}}},
        ["search.seed.when", "'alignmnt'", "did you mean 'alignment'"],
    ),
    "a condition on an unknown choice": (
        {"search/seed": {"integer": [0, 3], "when": {"alignment": "vf"}}},
        ["search.seed.when.alignment", "'vf'"],
    ),
    "several domains without a condition": (
        {"search/seed": [{"integer": [0, 3]}]},
        ["search.seed.0", "`when`"],
    ),
    "a value that the trial refuses": (
        {"search/tokenizer.training.steps": {"integer": [0, 3]}, "first": {}},
        ["trial.tokenizer.training", "`steps` must be positive, but got 0"],
    ),
    "a step that leads past the end": (
        {"search/generator.seed": {"integer": [2, 9], "step": 2}},
        ["search.generator.seed", "`step` must lead from the least to the largest", "but got 2"],
    ),
    "a step without whole numbers": (
        {"search/generator.seed": {"uniform": [2, 9], "step": 1}},
        ["search.generator.seed", "`step` must lead from the least to the largest"],
    ),
    "a first trial off the steps": (
        {
            "search/generator.seed": {"integer": [2, 8], "step": 3},
            "first": {"x": {"alignment": "none", "generator.seed": 4}},
        },
        ["first.x.generator.seed", "must lie in the searched range [2, 8]", "got 4"],
    ),
    "a first trial outside of the space": (
        {"first/published default/tokenizer.alignment.vf_weight": 3.0},
        ["first.published default.tokenizer.alignment.vf_weight", "[0.01, 1]", "3.0"],
    ),
    "a first trial without a value": (
        {"first/no alignment": {"alignment": "fixed"}},
        ["first.no alignment", "must give 'tokenizer.alignment.vf_weight'"],
    ),
    "a first trial with a value too many": (
        {"first/no alignment/tokenizer.alignment.cos_margin": 0.5},
        ["first.no alignment", "is not searched under these choices"],
    ),
    "more first trials than trials": ({"num_trials": 1}, ["num_trials", "at least 2"]),
    "trials without end": ({"num_trials": 10**12}, ["num_trials", "at most 100,000"]),
    "a seed of repetitions twice": (
        {"promotion": {"seeds": [3, 4, 3]}},
        ["promotion", "must each stand once, but got [3, 4, 3]"],
    ),
    "an unknown objective": (
        {"objectives": [{"column": "gfiid"}]},
        ["objectives.0.column", "'gfiid'", "did you mean 'gfid'"],
    ),
    "an objective of text": (
        {"objectives": [{"column": "status"}]},
        ["objectives.0.column", "a column of numbers"],
    ),
    "an objective twice": (
        {"objectives": [{"column": "rfid"}, {"column": "rfid"}]},
        ["objectives", "each once"],
    ),
    "a cap with two bounds": (
        {"caps": {"rfid": {"at_most": 1.0, "at_least": 0.0}}},
        ["caps.rfid", "exactly one", "both"],
    ),
    "an unknown sampler": ({"sampler": {"kind": "tpee"}}, ["sampler.kind", "did you mean 'tpe'"]),
    "a proxy that the search overwrites": (
        {"proxy": {"tokenizer.alignment.encoder": {}}},
        ["proxy.tokenizer.alignment.encoder", "set by an axis of the search", "search.alignment"],
    ),
    "a proxy that is no trial": (
        {"proxy": {"generator.training.stps": 3}},
        ["trial.generator.training.stps", "did you mean 'steps'"],
    ),
    "no trials in flight": ({"parallel": 0}, ["`parallel` must be at least 1"]),
    "an unknown reference": (
        {"promotion": {"references": ["default"]}},
        ["promotion.references", "'default'", "published default"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_right_is_refused(name, load, tree):
    changes, expected = FILES[name]
    for path, value in changes.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    with pytest.raises(ConfigError) as refused:
        load()
    for text in ("tune.yaml", *expected):
        assert text in str(refused.value)


def test_settings_change_the_file_before_it_is_read(load):
    tuning = load(
        "search.generator.seed={integer: [0, 9]}",
        "proxy.generator.training.steps=2",
        "generator.training.batch_size=4",
        "num_trials=9",
        "first={}",
    )
    assert tuning.space.parameters[-1].axis == "generator.seed"
    assert (tuning.base.trial["generator"]["training"]["steps"], tuning.file.num_trials) == (2, 9)
    assert tuning.file.trial["generator"]["training"]["steps"] == 4
    assert tuning.base.trial["generator"]["training"]["batch_size"] == 4


NEVER = {
    "a metric of samples": (("generator=null", "first={}"), "objectives.1.column.*no generator"),
    "a look at the latents": (
        ("objectives=[{column: density_gini}]",),
        "objectives.0.column.*evaluation.diagnostics",
    ),
    "a cap without its network": (("caps.lpips={at_most: 1}",), "caps.lpips.*perceptual"),
}


@pytest.mark.parametrize("name", NEVER)
def test_a_column_that_no_trial_measures_is_refused(name, load):
    settings, words = NEVER[name]
    with pytest.raises(ConfigError, match=words):
        load(*settings)


def test_the_searchs_own_seed_confirms_nothing(load):
    with pytest.raises(ConfigError, match=r"confirmation\.seeds.*choose others"):
        load("confirmation.seeds=[1, 0]")
    with pytest.raises(ConfigError, match=r"search\.seed.*generator\.seed"):
        load("search.seed={integer: [0, 9]}", "first={}")


def test_a_setting_that_the_search_would_overwrite_is_refused(load):
    with pytest.raises(ConfigError, match="set by an axis of the search"):
        load("tokenizer.alignment.cos_margin=0.3")
