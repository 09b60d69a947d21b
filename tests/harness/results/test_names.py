"""Names of pictures and logs: what the sweep varies, safe in file systems, never twice."""

import pytest

from harness.plan.plan import make_plan
from harness.results.names import link_log, row_suffix, rows_by_trial, stage_names, trial_names
from harness.storage.artifacts import Store


def test_a_trial_is_named_by_its_axes(load):
    plan = make_plan(load("grid={tokenizer.latent_dim: [2, 3], alignment: [vf], seed: [0]}"))
    assert list(trial_names(plan).values()) == [
        "latent_dim=2 alignment=vf seed=0", "latent_dim=3 alignment=vf seed=0",
    ]  # fmt: skip
    assert list(trial_names(make_plan(load())).values()) == ["small"]


def test_names_that_a_file_system_would_take_for_one_stay_apart(load, tree):
    presets = tree["presets"]["alignment"]
    presets |= {"a/b": presets["none"], "A-B": presets["vf"]}
    plan = make_plan(load("grid={alignment: [a/b, A-B]}"))
    names = list(trial_names(plan).values())
    assert [name[:13] for name in names] == ["alignment=a-b", "alignment=A-B"]
    assert len({name.lower() for name in names}) == 2


@pytest.mark.parametrize("characters", [20, 2000])
def test_no_name_is_too_long_or_leaves_its_folder(load, tree, characters):
    presets = tree["presets"]["alignment"]
    presets |= {"../" + "x" * characters: presets["none"]}
    (name,) = trial_names(
        make_plan(load(f"grid={{alignment: ['../{'x' * characters}']}}"))
    ).values()
    assert "/" not in name
    assert len(name) < 160


def test_snapshots_and_guidance_tell_the_rows_of_a_trial_apart(load):
    plan = make_plan(
        load(
            "generator.snapshots=[2]",
            "evaluation.guidance=[{kind: none}, {kind: cfg, scale: 2}, "
            "{kind: cfg, scale: 2, interval_start: 0.5}]",
        )
    )
    (rows,) = rows_by_trial(plan).values()
    found = [row_suffix(row, rows) for row in rows]
    assert found[0] == " step=2 guidance=none"
    assert found[1].startswith(" step=2 guidance=cfg 2 ")
    assert len(set(found)) == 6
    (row,) = make_plan(load()).rows
    assert row_suffix(row, [row]) == ""


def test_a_stage_is_named_by_what_its_rows_share(load):
    plan = make_plan(load("grid={tokenizer.latent_dim: [2, 3], generator.size: [pico, nano]}"))
    names = stage_names(plan)
    by_kind: dict[str, set[str]] = {}
    for stage in plan.stages:
        by_kind.setdefault(stage.kind, set()).add(names[stage.key])
    assert by_kind["tokenizer"] == {"tokenizer latent_dim=2", "tokenizer latent_dim=3"}
    assert "generator latent_dim=2 size=pico" in by_kind["generator"]
    assert len(set(names.values())) == len(plan.stages)


def test_a_log_has_the_name_of_its_training_and_follows_it_into_the_artifact(load, tmp_path):
    plan, store = make_plan(load()), Store(tmp_path / "store")
    (stage,) = [stage for stage in plan.stages if stage.kind == "tokenizer"]
    link = tmp_path / "results" / "tensorboard" / "tokenizer"
    link_log(stage, "tokenizer", store, tmp_path / "results")
    assert not link.is_symlink()
    folder = store.folder(stage.kind, stage.key)
    running = folder.with_name(f"{folder.name}.partial") / "payload" / "tensorboard"
    running.mkdir(parents=True)
    link_log(stage, "tokenizer", store, tmp_path / "results")
    assert link.readlink() == running.resolve()
    (folder / "tensorboard").mkdir(parents=True)
    link_log(stage, "tokenizer", store, tmp_path / "results")
    link_log(stage, "tokenizer", store, tmp_path / "results")
    assert link.readlink() == (folder / "tensorboard").resolve()
