"""What a study is asked and told, on formulas in place of trainings."""

import random
from collections import Counter

import pytest
from optuna.trial import TrialState

from harness.plan.graph import critical_paths
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Store
from harness.tuning.goals import Goals, Verdict, judge
from harness.tuning.study import JOURNAL, count_finished
from harness.tuning.trial_feed import TrialFeed

from .conftest import open_toy, run_toy, tell_toy

SAMPLERS = ("tpe", "gp", "nsga2", "random")
WEIGHT = "tokenizer.alignment.vf_weight"


def proposals(study):
    return [dict(told.point.axes) for told in study.told()]


def test_the_first_trials_are_those_of_the_file_by_name(load, tmp_path):
    study = open_toy(tmp_path, load())
    run_toy(study, window=2)
    assert [told.name for told in study.told()] == ["published default", "no alignment", "", ""]
    assert proposals(study)[1] == {"alignment": "none"}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_killed_study_proposes_what_an_uninterrupted_one_does(kind, load, tmp_path):
    tuning = load(f"sampler.kind={kind}", "num_trials=7", "sampler.num_startup=3")
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    run_toy(open_toy(tmp_path / "killed", tuning), window=3, stop_after=3)
    killed = open_toy(tmp_path / "killed", tuning)
    states = [t.state for t in killed.study.get_trials(deepcopy=False)]
    assert states.count(TrialState.COMPLETE) == 3
    assert TrialState.RUNNING not in states
    run_toy(killed, window=3)
    whole = open_toy(tmp_path / "whole", tuning)
    run_toy(whole, window=3)
    assert proposals(killed) == proposals(whole)
    assert {axes["alignment"] for axes in proposals(whole)} == {"adaptive", "fixed", "none"}
    assert sum(t.state == TrialState.COMPLETE for t in killed.study.get_trials()) == 7


def test_a_finished_study_is_extended_to_the_number_asked_for(load, tmp_path):
    run_toy(open_toy(tmp_path, load()), window=1)
    before = proposals(open_toy(tmp_path, load()))
    longer = open_toy(tmp_path, load("num_trials=6"))
    run_toy(longer, window=1)
    assert proposals(longer)[:4] == before
    assert len(proposals(longer)) == 6


def verdict(tuning, status, **values):
    row = {"status": status, "error": "it broke", "rfid": None, "gfid": None, **values}
    return judge(row, tuning.goals, diverged=status == "diverged", capped=status == "capped")


def test_an_error_is_told_as_failed_and_tried_again_with_the_same_values(load, tmp_path):
    tuning = load()
    study = open_toy(tmp_path, tuning)
    tell_toy(study, study.ask(0))
    tell_toy(study, study.ask(1))
    failed = study.ask(2)
    study.tell(failed, verdict(tuning, "failed"))
    assert study.study.trials[-1].state == TrialState.FAIL
    again = open_toy(tmp_path, tuning)
    assert again.remaining() == [2, 3]
    assert again.ask(2).point.axes == failed.point.axes


@pytest.mark.parametrize("status", ["diverged", "unmeasured"])
def test_a_trial_without_numbers_is_told_finite_ones_and_a_broken_constraint(
    status, load, tmp_path
):
    tuning = load()
    study = open_toy(tmp_path, tuning)
    tell_toy(study, study.ask(0))
    measured = study.study.trials[0].values
    nan = {"rfid": 0.5, "gfid": float("nan")}
    study.tell(
        study.ask(1),
        verdict(tuning, "done", **nan) if status == "unmeasured" else verdict(tuning, "diverged"),
    )
    told = study.study.trials[1]
    assert told.state == TrialState.COMPLETE
    assert told.user_attrs["status"] == status
    assert told.values[1] == measured[1]
    assert told.constraints["measured"] > 0
    assert [t.number for t in study.study.best_trials] == [0]


def test_a_cap_is_a_constraint_of_every_trial(load, tmp_path):
    tuning = load("caps.rfid={at_most: 1.2}", "num_trials=6")
    study = open_toy(tmp_path, tuning)
    run_toy(study, window=1)
    for trial in study.study.trials:
        violation = (trial.values[0] - 1.2) / 1.2
        assert trial.constraints == {"measured": -1.0, "rfid at most 1.2": pytest.approx(violation)}
    assert all(trial.values[0] <= 1.2 for trial in study.study.best_trials)


def test_a_cap_in_the_other_direction_is_broken_below_it(load):
    goals = load("caps={psnr: {at_least: 20}}").goals
    row = {"rfid": 1.0, "gfid": 1.0, "psnr": 15.0}
    assert goals.caps["psnr"].violation(15.0) == pytest.approx(0.25)
    assert "psnr 15 is beyond the cap (psnr at least 20)" in goals.broken_caps(row)


def share_within_cap(load, folder, kind):
    folder.mkdir()
    settings = (
        "search={tokenizer.loss.kl_weight: {uniform: [0.001, 10]}}",
        "objectives=[{column: gfid}]",
        "caps.rfid={at_most: 2}",
        "first={}",
        "num_trials=30",
        f"sampler={{kind: {kind}, num_startup: 6}}",
    )
    tuning = load(*settings)
    study = open_toy(folder, tuning)
    for number in range(30):
        asked = study.ask(number)
        weight = asked.point.axes["tokenizer.loss.kl_weight"]
        # The objective draws to where the cap is broken.
        row = {"status": "done", "error": None, "rfid": weight, "gfid": 10 - weight}
        study.tell(asked, judge(row, tuning.goals, diverged=False, capped=False))
    late = [told.point.axes["tokenizer.loss.kl_weight"] for told in study.told()[12:]]
    return sum(weight <= 2 for weight in late) / len(late)


def test_a_sampler_that_is_told_of_a_cap_keeps_to_it_more_than_chance(load, tmp_path):
    by_chance = share_within_cap(load, tmp_path / "random", "random")
    assert share_within_cap(load, tmp_path / "tpe", "tpe") > 1.5 * by_chance


def test_a_proposal_that_was_made_before_is_drawn_again(load, tmp_path):
    settings = "search={alignment: {choices: [adaptive, fixed, none]}}", "first={}", "num_trials=3"
    study = open_toy(tmp_path, load(*settings))
    run_toy(study, window=1)
    assert {axes["alignment"] for axes in proposals(study)} == {"adaptive", "fixed", "none"}


def test_a_proposal_that_cannot_be_new_is_accepted(load, tmp_path):
    settings = "search={alignment: {choices: [fixed, none]}}", "first={}", "num_trials=3"
    study = open_toy(tmp_path, load(*settings))
    run_toy(study, window=1)
    assert len(study.told()) == 3
    assert study.remaining() == []


CHANGES = {
    "a range": (
        "search.tokenizer.alignment.cos_margin="
        "{uniform: [0, 0.6], when: {alignment: [adaptive, fixed]}}",
        "cos_margin",
    ),
    "a choice": ("search.alignment={choices: [adaptive, none, fixed]}", "search.alignment"),
    "an objective": ("objectives=[{column: gfid}, {column: rfid}]", "objectives"),
    "a cap": ("caps.rfid={at_most: 3}", "caps"),
    "the order of the first": (
        "first={no alignment: {alignment: none}, published default: {alignment: adaptive, "
        "tokenizer.alignment.vf_weight: 0.1, tokenizer.alignment.cos_margin: 0.5}}",
        "first",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_space_is_refused_unless_it_is_allowed(name, load, tmp_path):
    run_toy(open_toy(tmp_path, load()), window=1)
    setting, words = CHANGES[name]
    with pytest.raises(ConfigError, match=words) as refused:
        open_toy(tmp_path, load(setting))
    assert "--allow-changed-space" in str(refused.value)
    study = open_toy(tmp_path, load(setting, "num_trials=6"), allow_changed_space=True)
    taken_over = [told for told in study.told() if told.finished]
    assert len(taken_over) >= 2
    assert {"published default", "no alignment"} <= {told.name for told in taken_over}
    run_toy(study, window=1)
    assert sum(told.finished for told in study.told()) >= 6
    assert open_toy(tmp_path, load(setting)).study.study_name == study.study.study_name


def test_a_choice_may_go_with_its_preset(load, tree, tmp_path):
    run_toy(open_toy(tmp_path, load("num_trials=8")), window=1)
    del tree["presets"]["alignment"]["fixed"]
    tree["search"] = {"alignment": {"choices": ["adaptive", "none"]}}
    tree["search"][WEIGHT] = {"log": [0.01, 1], "when": {"alignment": "adaptive"}}
    margin = {"uniform": [0, 0.9], "when": {"alignment": "adaptive"}}
    tree["search"]["tokenizer.alignment.cos_margin"] = margin
    study = open_toy(tmp_path, load("num_trials=8"), allow_changed_space=True)
    assert {axes["alignment"] for axes in proposals(study)} == {"adaptive", "none"}


def test_another_name_of_a_first_trial_is_another_study(load, tmp_path):
    run_toy(open_toy(tmp_path, load()), window=1)
    renamed = load("first={plain: {alignment: none}}")
    with pytest.raises(ConfigError, match="differs in first"):
        open_toy(tmp_path, renamed)
    study = open_toy(tmp_path, renamed, allow_changed_space=True)
    assert (study.told()[0].name, study.told()[0].point.axes) == ("plain", {"alignment": "none"})
    assert [told.name for told in study.told()][1:] == [""] * 3


def test_what_a_kill_left_of_a_line_or_a_lock_is_dropped(load, tmp_path):
    run_toy(open_toy(tmp_path, load()), window=1)
    before = proposals(open_toy(tmp_path, load()))
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"op_code":8,"trial_id":0,"user_')
    (tmp_path / f"{JOURNAL}.lock").symlink_to(journal)
    study = open_toy(tmp_path, load("num_trials=5"))
    run_toy(study, window=1)
    assert proposals(open_toy(tmp_path, load("num_trials=5")))[:4] == before


def test_a_journal_that_is_damaged_is_named_with_its_line_and_what_to_do(load, tmp_path):
    run_toy(open_toy(tmp_path, load()), window=1)
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    for damage in (b"{\n", b"[]\n", b'{"op_code": 8}\n', b"\0" * 40 + b"\n"):
        journal.write_bytes(b"".join([*lines[:3], damage, *lines[4:]]))
        for read in (lambda: open_toy(tmp_path, load()), lambda: count_finished(tmp_path)):
            with pytest.raises(
                ConfigError, match=f"{JOURNAL}.* must be as Optuna wrote it"
            ) as told:
                read()
            assert "move the file away" in str(told.value)
            assert "op_code" in str(damage) or ", line 4," in str(told.value)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_proposal_that_makes_no_trial_is_counted_and_another_is_drawn(kind, load, tree, tmp_path):
    # Of 2, 3 and 4 all but 3 divide the latent grid.
    tree["search"] = {"generator.patch_size": {"integer": [2, 4]}}
    tree["search"]["generator.training.learning_rate"] = {"log": [1e-4, 1e-2]}
    del tree["first"]
    tuning = load(f"sampler={{kind: {kind}, num_startup: 8}}", "num_trials=16")
    study = open_toy(tmp_path, tuning)
    run_toy(study, window=1)
    assert sum(told.finished for told in study.told()) == 16
    assert {axes["generator.patch_size"] for axes in proposals(study)} <= {2, 4}
    assert study.infeasible()
    assert all("patch_size=3" in words and "patch" in words for words in study.infeasible())
    # Who goes on proposes the same.
    assert proposals(open_toy(tmp_path, tuning)) == proposals(study)


def test_a_space_without_a_trial_inside_is_refused_in_the_end(load, tree, tmp_path, monkeypatch):
    tree["search"] = {"generator.patch_size": {"integer": [1, 4]}}
    del tree["first"]
    study = open_toy(tmp_path, load())

    def none(_tuning, axes):
        raise ConfigError("makes none")

    monkeypatch.setattr(type(study.tuning), "point", none)
    monkeypatch.setattr("harness.tuning.study.DRAWS", 12)
    with pytest.raises(ConfigError, match="none of 12 that were drawn do, such as patch_size="):
        study.ask(0)


def test_another_base_trial_is_refused(load, tmp_path):
    run_toy(open_toy(tmp_path, load()), window=1)
    with pytest.raises(ConfigError, match="the base trial, its proxy or its presets differ"):
        open_toy(tmp_path, load("generator.training.steps=5"), allow_changed_space=True)


def test_the_worst_stands_in_for_what_was_not_measured_in_either_direction(load, tmp_path):
    tuning = load("objectives=[{column: psnr}, {column: gfid}]")
    study = open_toy(tmp_path, tuning)
    rng = random.Random(0)
    for number in range(3):
        values = {"psnr": 20 + rng.random(), "gfid": rng.random()}
        study.tell(study.ask(number), verdict(tuning, "done", **values))
    told = [trial.values for trial in study.study.trials]
    study.tell(
        study.ask(3),
        Verdict(
            status="diverged", values={"psnr": None, "gfid": None}, violations={"measured": 1.0}
        ),
    )
    worst = [min(values[0] for values in told), max(values[1] for values in told)]
    assert study.study.trials[-1].values == worst
    assert isinstance(tuning.goals, Goals)


def test_trials_to_come_and_their_confirmation_count_in_the_time_that_is_left(load, tmp_path):
    study = open_toy(tmp_path, load("confirmation={seeds: [1, 2]}"))
    feed = TrialFeed(study, Store(tmp_path / "store"), tmp_path, lambda _asked, _verdict: None)
    assert feed.ahead() == []
    feed.feed({}, 4)
    ahead = feed.ahead()
    kinds = Counter(stage.kind for stage in ahead)
    # Two trials of four are in flight; the best and both first ones are repeated twice.
    assert kinds["generator"] == kinds["tokenizer"] == 2 + 3 * 2
    assert "reference" not in kinds
    # Two search side by side, four confirm.
    assert max(critical_paths(ahead, lambda s: s.kind == "generator").values()) == 1 + 2
