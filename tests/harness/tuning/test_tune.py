"""The command on a small search: what it runs, what it repeats, and what it leaves behind."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from harness.results.columns import COLUMNS
from harness.results.event_file import read_events
from harness.run import main as run_sweep
from harness.schema.reading import ConfigError
from harness.stages import registry
from harness.storage.lease import hold

RESULTS = Path("results/tuned")
CHOICE = "evaluation.num_reconstructions"


def trials(results=RESULTS):
    return pd.read_csv(results / "trials.csv", keep_default_na=False, na_values=[""])


@pytest.mark.every_file
def test_every_trial_is_a_row_and_the_outputs_are_there(command, write, tree, monkeypatch):
    tree["confirmation"] = {"seeds": [1, 2]}
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    table = pd.read_parquet(RESULTS / "table.parquet")
    axes = [f"axis.{name}" for name in tree["search"]]
    assert [name for name in table.columns if name in COLUMNS] == list(COLUMNS)
    assert [name for name in table.columns if name not in COLUMNS] == axes
    assert list(table.set_index("trial_id")["axis.alignment"][trials()["trial_id"]]) == list(
        trials()["search.alignment"]
    )
    assert table["axis.tokenizer.alignment.cos_margin"].isna().any()
    assert list(table["status"]) == ["done"] * 4
    assert set(table["trial_id"]) == set(trials()["trial_id"])
    assert list(trials()["name"])[:2] == ["published default", "no alignment"]
    for name in ("tuning_front.png", "tuning_front.svg", "tuning_hypervolume.pdf"):
        assert (RESULTS / "figures" / name).is_file()
    told = json.loads((RESULTS / "recommendation.json").read_text())
    assert told["confirmed"][told["name"]]["num_seeds"] == 2
    assert told["confirmed"][told["name"]]["gfid_se"] > 0
    assert "confirmed at the search's budget, mean ± standard error over seeds" in ended.out
    monkeypatch.setattr("harness.tuning.run_search.write_tuning_figures", lambda results: [])
    again = command(write(tree))
    assert (again.code, again.out.split("\n\n")[:2]) == (0, ended.out.split("\n\n")[:2])
    assert "started" not in again.err


def test_what_happened_stands_in_the_events(command, write, tree):
    assert command(write(tree)).code == 0
    events = list(read_events(RESULTS / "events.jsonl"))
    first, last = events[0], events[-1]
    assert (first["event"], first["trials_to_run"]) == ("sweep_started", 4)
    assert (last["event"], last["status"], last["rows"]) == ("sweep_ended", "done", {"done": 4})
    ended = [event for event in events if event["event"] == "trial_ended"]
    assert [event["trial_id"] for event in ended] == list(trials()["trial_id"])
    stages = [event["key"] for event in events if event["event"] == "stage_ended"]
    assert len(stages) == len(set(stages)) == last["stages"]["done"]


def test_the_recommended_sweep_is_ready_to_run(command, write, tree, shared, capsys):
    tree["proxy"] = {"generator.training.steps": 2}
    assert command(write(tree), *shared).code == 0
    capsys.readouterr()
    assert run_sweep([str(RESULTS / "recommended.yaml"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    settings = [row["axes"]["setting"] for row in plan["rows"]]
    assert {"recommended", "no alignment"} <= set(settings)
    stored = yaml.safe_load((RESULTS / "recommended.yaml").read_text())
    assert stored["trial"]["generator"]["training"]["steps"] == 4


def test_a_killed_search_ends_like_one_that_was_never_killed(
    command, write, tree, shared, tmp_path
):
    tree["num_trials"] = 5
    path = write(tree)
    arguments = ["--results", str(tmp_path / "killed"), "--store", str(tmp_path / "store")]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.tune", str(path), "--executor", "inline", *arguments],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    rows, until = tmp_path / "killed/tuned/rows", time.monotonic() + 120
    while len(list(rows.glob("*.json"))) < 3 and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/tuned/trials.csv").exists()
    ended = command(path, *arguments)
    assert ended.code == 0, ended.err
    assert command(path, "--results", "whole", *shared).code == 0
    killed, whole = trials(tmp_path / "killed/tuned"), trials(Path("whole/tuned"))
    pd.testing.assert_frame_equal(
        killed.drop(columns="study_trial"), whole.drop(columns="study_trial")
    )


def test_a_tokenizer_beyond_the_cap_is_not_given_a_generator(command, write, tree):
    ended = command(write({**tree, "caps": {"rfid": {"at_most": 1e-6}}}), "--json")
    assert ended.code == 0, ended.err
    assert not list(Path("artifacts/generator").glob("*"))
    assert len(list(Path("artifacts/reconstruction").iterdir())) >= 4
    for row in ended.json["rows"]:
        assert row["status"] == "blocked"
        assert row["rfid"] > 0
        assert "is beyond the cap (rfid at most 1e-06)" in row["error"]
    assert list(trials()["status"]) == ["capped"] * 4
    assert set(trials()["feasible"]) == {"no"}


def failing(tree, axis, choices):
    seed = "generator.seed"
    tree["search"] = {axis: {"choices": choices}, seed: {"integer": [0, 99]}}
    tree["first"] = {"bad": {axis: choices[0], seed: 1}, "good": {axis: choices[1], seed: 2}}
    return {**tree, "num_trials": 2}


def test_a_trial_that_diverges_is_told_as_such_and_the_search_goes_on(command, write, tree):
    tree = failing(tree, "tokenizer.training.learning_rate", [1e20, 1e-3])
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    assert list(trials()["status"]) == ["diverged", "done"]
    assert "not finite at step" in trials()["error"][0]
    table = pd.read_parquet(RESULTS / "table.parquet").set_index("trial_id")
    assert dict(table["status"])[trials()["trial_id"][0]] == "diverged"


def test_a_trial_that_fails_is_named_and_tried_again_by_the_next_command(
    command, write, tree, monkeypatch
):
    original = registry.KINDS["reconstruction"]

    def fail(config, context):
        if config.num_images == 4:
            raise ValueError("the disk is on fire")
        return original.run(config, context)

    broken = dataclasses.replace(original, run=fail)
    monkeypatch.setitem(registry.KINDS, "reconstruction", broken)
    path = write(failing(tree, CHOICE, [4, 40]))
    ended = command(path)
    assert ended.code == 1
    assert list(trials()["status"]) == ["failed", "done"]
    assert "failed trial 0 (bad: num_reconstructions=4 generator.seed=1): ValueError" in ended.out
    again = command(path)
    assert again.code == 1
    assert list(trials()["study_trial"]) == [2, 1]
    # It keeps its place, however many trials follow.
    assert command(path, "--set", "num_trials=3").code == 1
    assert list(trials()["status"]) == ["failed", "done", "done"]


def test_two_trials_that_share_a_tokenizer_train_it_once(command, write, tree):
    tree["search"] = {"generator.training.learning_rate": {"log": [1e-4, 1e-2]}}
    tree["first"] = {}
    assert command(write(tree)).code == 0
    assert len(list(Path("artifacts/generator").iterdir())) == 4
    assert len(list(Path("artifacts/tokenizer").iterdir())) == 1


def test_an_artifact_that_was_damaged_between_two_commands_is_made_anew_by_the_second(
    command, write, tree
):
    tree["search"] = {"generator.training.learning_rate": {"log": [1e-4, 1e-2]}}
    tree["first"] = {}
    path = write(tree)
    assert command(path, "--set", "num_trials=1").code == 0
    (weights,) = Path("artifacts/tokenizer").glob("*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ended = command(path, "--set", "num_trials=2")
    assert ended.code == 0, ended.err
    assert "was damaged" in ended.err
    assert list(trials()["status"]) == ["done", "done"]


def test_promotion_runs_the_front_at_full_budget_and_says_whether_the_order_held(
    command, write, tree, shared
):
    tree["proxy"] = {"generator.training.steps": 2}
    tree["promotion"] = {"seeds": [0, 1]}
    ended = command(write(tree), "--promote", *shared)
    assert ended.code == 0, ended.err
    promoted = pd.read_parquet(RESULTS / "promoted/table.parquet")
    assert set(promoted["generator_images"]) == {32}
    assert set(promoted["seed"]) == {0, 1}
    # A setting is known by its values; the number of its trial says nothing.
    values = promoted["axis.setting"]
    assert values.str.contains("cos_margin=|alignment=").all(), set(values)
    assert not values.str.contains("trial").any(), set(values)
    assert "order by gfid of the search at full budget" in ended.out
    assert "pairs kept" in ended.out
    # Settings of another search in the same folder are not this one's.
    told = RESULTS / "promoted/settings.csv"
    settings = pd.read_csv(told)
    settings.assign(setting_hash="of another trial").to_csv(told, index=False)
    assert "promoted" not in command(write(tree), *shared).out
    settings.to_csv(told, index=False)
    assert "promoted at full budget" in command(write(tree), *shared).out
    assert "promoted" not in command(write(tree), "--set", "promotion.seeds=[]", *shared).out
    (RESULTS / "promoted/table.parquet").unlink()
    (RESULTS / "promoted/table.csv").unlink()
    again = command(write(tree), *shared)
    assert again.code == 0, again.err
    assert "promoted" not in again.out


def test_what_only_promotion_needs_is_checked_before_anything_starts(command, write, tree):
    encoder = {"kind": "timm", "name": "vit_tiny_patch16_224", "weights": "absent.safetensors"}
    tree["proxy"] = {"evaluation.extractor": tree["trial"]["evaluation"]["extractor"]}
    tree["trial"]["evaluation"]["extractor"] = encoder
    assert command(write(tree), "--dry-run").code == 0
    ended = command(write(tree), "--promote")
    assert ended.code == 2
    assert "absent.safetensors" in ended.err
    assert not RESULTS.exists()


def test_repeated_settings_that_are_refused_stop_the_command(
    command, write, tree, shared, monkeypatch
):
    seen = []

    def refuse(options, sweep):
        seen.append(options)
        raise ConfigError("no")

    monkeypatch.setattr("harness.tuning.repetition.run_sweep", refuse)
    tree["confirmation"] = {"seeds": [1]}
    ended = command(write({**tree, "num_trials": 2}), "--download", *shared)
    assert ended.code == 2
    assert "its confirmed settings must be a sweep that can run" in ended.err
    assert seen[0].download
    assert not (RESULTS / "confirmed/settings.csv").exists()
    assert (RESULTS / "recommended.yaml").is_file()


def test_a_search_of_tokenizers_alone_has_confirmed_settings(command, write, tree, shared):
    tree["trial"]["generator"] = None
    tree |= {"objectives": [{"column": "rfid"}], "confirmation": {"seeds": [1]}, "num_trials": 3}
    ended = command(write(tree), *shared)
    assert ended.code == 0, ended.err
    assert "confirmed at the search's budget" in ended.out
    assert "1 seed: rfid" in ended.out
    confirmed = ended.out.split("confirmed at the search's budget")[1]
    assert "=" in confirmed.splitlines()[1]
    assert "  trial " not in confirmed
    assert "nan" not in ended.out
    told = json.loads((RESULTS / "recommendation.json").read_text())
    assert told["confirmed"][told["name"]]["num_seeds"] == 1


def test_where_no_trial_keeps_to_a_cap_the_nearest_is_named(command, write, tree, shared):
    ended = command(write({**tree, "num_trials": 2, "caps": {"gfid": {"at_most": 1e-6}}}), *shared)
    assert ended.code == 0, ended.err
    assert ended.out.count("beyond cap") == 2
    assert "no trial keeps to the caps (gfid at most 1e-06). Nearest was " in ended.out
    assert "Nearest was trial" not in ended.out
    assert not (RESULTS / "recommended.yaml").exists()


def test_a_first_trial_beyond_a_cap_is_said_to_be_left_out(command, write, tree, shared):
    tree |= {"num_trials": 2, "confirmation": {"seeds": [1]}}
    assert command(write(tree), *shared).code == 0
    worse = trials().sort_values("gfid").iloc[-1]
    tree["caps"] = {"gfid": {"at_most": float(worse["gfid"]) * (1 - 1e-9)}}
    ended = command(write(tree), "--results", "capped", *shared)
    assert ended.code == 0, ended.err
    assert f"  {worse['name']}: left out, since it was beyond a cap in the search" in ended.out
    assert f"  {worse['name']}, 1 seed" not in ended.out


def test_a_row_that_the_search_does_not_look_at_counts_for_the_exit_code(
    command, write, tree, monkeypatch
):
    original = registry.KINDS["generation"]

    def fail(config, context):
        if config.guidance.kind == "cfg":
            raise FloatingPointError("the disk is on fire")
        return original.run(config, context)

    broken = dataclasses.replace(original, run=fail)
    monkeypatch.setitem(registry.KINDS, "generation", broken)
    guidance = [{"kind": "none"}, {"kind": "cfg", "scale": 2.0}]
    tree["trial"]["evaluation"]["guidance"] = guidance
    ended = command(write({**tree, "num_trials": 2}))
    assert ended.code == 1
    assert list(trials()["status"]) == ["done", "done"]
    assert ended.out.count("another snapshot or guidance of trial") == 2
    assert "another snapshot or guidance of trial 1 (" in ended.out


def test_figures_that_cannot_be_drawn_stop_nothing(command, write, tree, shared, monkeypatch):
    def refuse(results):
        raise ValueError("the figures must have a canvas")

    monkeypatch.setattr("harness.tuning.run_search.write_tuning_figures", refuse)
    ended = command(write({**tree, "num_trials": 2}), *shared)
    assert ended.code == 0
    assert "no figures: the figures must have a canvas" in ended.err


def test_one_process_at_a_time_works_on_a_study(command, write, tree):
    RESULTS.mkdir(parents=True)
    with hold(RESULTS / "study.lease"):
        ended = command(write(tree))
    assert ended.code == 2
    assert "another one works on results/tuned/study.journal" in ended.err


def test_a_dry_run_starts_nothing_and_counts_what_is_finished(command, write, tree):
    ended = command(write(tree), "--dry-run")
    assert "search of 4 trials, 0 of them finished" in ended.out
    assert not RESULTS.exists()
    assert command(write(tree), "--set", "num_trials=2").code == 0
    plan = command(write(tree), "--dry-run", "--json").json
    assert (plan["num_trials"], plan["num_finished"], plan["to_run"]) == (4, 2, 0)


def test_a_changed_space_is_refused_by_the_command(command, write, tree, shared):
    path = write({**tree, "num_trials": 2})
    assert command(path, *shared).code == 0
    setting = "search.generator.training.learning_rate={log: [1e-4, 1e-2]}"
    ended = command(path, "--set", setting, "--set", "first={}", *shared)
    assert ended.code == 2
    assert "differs in search.generator.training.learning_rate" in ended.err


def test_a_single_objective_under_a_cap_is_a_search_too(command, write, tree, shared):
    tree |= {"objectives": [{"column": "gfid"}], "caps": {"rfid": {"at_most": 1e6}}}
    ended = command(write(tree), *shared)
    assert ended.code == 0, ended.err
    assert json.loads((RESULTS / "study.json").read_text())["objectives"] == [
        {"column": "gfid", "maximised": False}
    ]


def test_a_start_from_results_without_rows_is_named_with_the_file(command, write, tree, tmp_path):
    start = {"results": str(tmp_path), "row": "x"}
    tree["trial"]["generator"]["initial_weights"] = start
    ended = command(write(tree), "--dry-run")
    assert ended.code == 2
    place = "tune.yaml: trial.generator.initial_weights.results: must be the results folder"
    assert place in ended.err


def test_missing_weights_of_any_choice_are_named_before_anything_starts(command, write, tree):
    encoder = {"kind": "timm", "name": "vit_tiny_patch16_224", "weights": "absent.safetensors"}
    tree["presets"]["alignment"]["fixed"]["tokenizer.alignment"]["encoder"] = encoder
    ended = command(write(tree))
    assert ended.code == 2
    assert "absent.safetensors" in ended.err
    assert not RESULTS.exists()


@pytest.mark.parametrize("option", ["--only", "--frist"])
def test_an_unknown_option_is_refused(command, write, tree, option):
    assert command(write(tree), option, "tokenizer").code == 2


def test_a_time_limit_ends_a_search_with_a_code_of_its_own_and_the_same_command_goes_on(
    command, write, tree
):
    ended = command(write(tree), "--time-limit", "0.01s")
    assert ended.code == 124
    assert "the time limit has passed: finished stages are kept" in ended.err
    assert command(write(tree)).code == 0
    assert len(trials()) == 4
