"""Searches that end bad trials at rungs: what is trained, what is told, and what is refused."""

import copy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.schema.reading import ConfigError
from harness.stages.generator import stage as generator
from harness.status import main as status
from harness.storage.artifacts import Store
from harness.storage.checkpoints import newest_step
from harness.storage.lease import hold
from harness.tuning.goals import judge
from harness.tuning.study import open_study
from harness.tuning.trial_feed import judged_row

from .conftest import SMALL_TUNE, open_toy

RESULTS = Path("results/tuned")
RATE = "generator.training.learning_rate"
GOOD, BAD = {RATE: 1e-3}, {RATE: 2.0}
RANGE = f"search={{{RATE}: {{log: [1.0e-4, 10.0]}}}}"
KINDS = {
    "median": {"n_startup_trials": 1},
    "percentile": {"percentile": 40, "n_startup_trials": 2},
    "successive_halving": {"reduction_factor": 2},
    "hyperband": {"reduction_factor": 2, "max_resource": 8},
}


@pytest.fixture
def tree():
    """A search with one good setting; the others are bad from the first step on."""
    tree = copy.deepcopy(SMALL_TUNE)
    tree["trial"]["generator"] |= {"ema": {"decay": 0.5}}
    tree["trial"]["generator"]["training"] |= {"steps": 8, "schedule": "cosine"}
    return tree | {
        "presets": {},
        "search": {RATE: {"choices": [1e-3, 1.0, 1.5, 2.0]}},
        "first": {"good": GOOD, "bad": BAD},
        "objectives": [{"column": "gfid"}],
        "sampler": {"kind": "random", "num_startup": 3},
        "pruning": {"steps": [2, 4], "arguments": {"n_startup_trials": 1}},
        "num_trials": 4,
        "parallel": 1,
    }


@pytest.fixture
def trained(monkeypatch):
    """Counts the steps of all generators; at one that a test names it is interrupted."""
    steps, end_step = Counter(), generator.end_step

    def counted(*arguments):
        steps["all"] += 1
        if steps["all"] == steps["interrupted at"]:
            raise KeyboardInterrupt
        return end_step(*arguments)

    monkeypatch.setattr(generator, "end_step", counted)
    return steps


def trials(results=RESULTS):
    return pd.read_csv(results / "trials.csv", keep_default_na=False, na_values=[""])


@pytest.mark.usefixtures("undrawn")
def test_bad_trials_end_at_a_rung_and_all_say_so(command, write, tree, trained, capsys):
    path = write(tree)
    ended = command(path)
    assert ended.code == 0, ended.err
    told, table = trials(), pd.read_csv(RESULTS / "table.csv")
    assert list(told["status"]) == ["done", "pruned", "pruned", "pruned"]
    # Eight steps of the good trial and two of each other; without pruning it would be 32.
    assert trained["all"] == 8 + 3 * 2
    assert list(told["after step 2"] > told["after step 2"][0]) == [False, True, True, True]
    assert told["after step 4"].isna().tolist() == told["gfid"].isna().tolist()
    assert "3 of 4 trials pruned after step 2" in ended.out
    assert "recommended: good" in ended.out
    last = table["generator_images"] == 8 * 8
    assert list(table[last]["status"]) == ["done", *["blocked"] * 3]
    assert set(table[last]["error"].dropna()) == {"pruned after step 2"}
    assert list(table["status"]).count("done") == 3 + 3
    assert status([str(RESULTS)]) == 0
    assert "4/4 finished: 1 done, 3 pruned after step 2" in capsys.readouterr().out
    again = command(path)
    assert (again.code, trained["all"]) == (0, 14)
    pd.testing.assert_frame_equal(trials(), told)


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_search_has_the_same_pruned_trials(command, write, tree, trained):
    path = write(tree | {"parallel": 2, "num_trials": 3})
    assert command(path, "--results", "whole").code == 0
    whole = trained["all"]
    # The second proposal was made before anything was known.
    assert whole == 8 + 8 + 2
    trained.clear()
    # The first step of the second rung.
    trained["interrupted at"] = 5
    assert command(path, "--store", "other").code == 130
    trained.clear()
    assert command(path, "--store", "other").code == 0
    assert trained["all"] == whole - 4
    told, expected = (trials(p).drop(columns="study_trial") for p in (RESULTS, Path("whole/tuned")))
    pd.testing.assert_frame_equal(told, expected)


def stages_of(tuning, axes):
    """The rungs of a trial and its whole training, with what they learn from first."""
    plan = tuning.plan([tuning.point(axes)])
    trained = [stage for stage in plan.stages if stage.kind == "generator"]
    sources = [s for s in plan.stages if s.kind in ("encoder", "tokenizer", "latents")]
    return sources, sorted(trained, key=lambda stage: stage.config.steps)


def run(stage, store, **resources):
    outcome = run_stage(stage, store.root, Resources(**resources), 0.0)
    return outcome.status, outcome.error


def digest(stage, store):
    return store.get(stage.kind, stage.key).digest


def test_a_continued_training_is_the_uninterrupted_one(load, tmp_path, trained, monkeypatch):
    sources, (first, second, whole) = stages_of(load(), GOOD)
    plain = load("pruning=null")
    assert whole.key == stages_of(plain, GOOD)[1][0].key
    stores = [Store(tmp_path / name) for name in ("rungs", "alone", "beyond")]
    for stage in sources:
        assert run(stage, stores[0])[0] == "done"
    for store in stores[1:]:
        for stage in sources:
            store.folder(stage.kind, stage.key).parent.mkdir(parents=True, exist_ok=True)
            target = stores[0].folder(stage.kind, stage.key)
            store.folder(stage.kind, stage.key).symlink_to(target)
    in_rungs, alone, beyond = stores
    in_rungs.folder("generator", whole.key).parent.mkdir()
    for stage, steps in ((first, 2), (second, 4), (whole, 8)):
        with hold(in_rungs.lease("generator", whole.key)):
            assert run(stage, in_rungs)[0] == "busy"
        assert run(stage, in_rungs) == ("done", "")
        assert trained["all"] == steps
    assert run(whole, alone) == ("done", "")
    assert digest(whole, in_rungs) == digest(whole, alone)
    records = [in_rungs.get("generator", s.key).record for s in (first, second, whole)]
    assert [record["cost"]["images"] for record in records] == [16, 32, 64]
    assert list(records[0]["files"]) == ["curve.jsonl", "ema-step000000002.safetensors"]

    # A training that was left behind the rung keeps its checkpoint, and the rung begins anew.
    trained.clear()
    trained["interrupted at"] = 7
    with pytest.raises(KeyboardInterrupt):
        run_stage(whole, beyond.root, Resources(checkpoint_every_s=1e-9), 0.0)
    for stage in (second, first):
        assert run(stage, beyond) == ("done", "")
        assert digest(stage, beyond) == digest(stage, in_rungs)
    assert newest_step(beyond.checkpoints("generator", whole.key)) == 6
    trained.clear()
    assert run(whole, beyond) == ("done", "")
    assert trained["all"] == 2
    assert digest(whole, beyond) == digest(whole, alone)


def verdict_of(point, tuning):
    row = {"status": "done", "error": None, "gfid": point.axes[RATE]}
    return judge(row, tuning.goals, diverged=False, capped=False)


def search(folder, tuning, *, rungs_at_once, stop_after=99):
    """A search whose trials have their rate as value, three in flight; proposal -> its error."""
    folder.mkdir(exist_ok=True)
    study, window = open_toy(folder, tuning), 3
    todo, flights = study.remaining(), []

    def run_rungs(asked):
        verdict = verdict_of(asked.point, tuning)
        for step in tuning.rungs:
            if study.should_prune(asked, step, verdict, asked.number - window):
                return replace(verdict, status="pruned", error=f"pruned after step {step}")
        return verdict

    while todo or flights:
        while todo and len(flights) < window:
            asked = study.ask(todo.pop(0))
            flights.append((asked, run_rungs(asked) if rungs_at_once else None))
        if not stop_after:
            return {}
        asked, verdict = flights.pop(0)
        study.tell(asked, verdict or run_rungs(asked))
        stop_after -= 1
    return {told.number: told.frozen.user_attrs["error"] for told in study.told()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_first_and_a_kill_decide_nothing(kind, load, tmp_path):
    arguments = f"{{steps: [2, 4], kind: {kind}, arguments: {KINDS[kind]}}}"
    tuning = load(f"pruning={arguments}", RANGE, "num_trials=14", "sampler.kind=tpe")
    early = search(tmp_path / "early", tuning, rungs_at_once=True)
    assert early == search(tmp_path / "late", tuning, rungs_at_once=False)
    search(tmp_path / "killed", tuning, rungs_at_once=True, stop_after=5)
    assert early == search(tmp_path / "killed", tuning, rungs_at_once=True)
    assert len(early) == 14
    assert 1 < sum(map(bool, early.values())) < 13


def test_a_changed_space_keeps_the_pruned_trials_of_the_same_pruner(load, tmp_path):
    old, wider = load(RANGE, "num_trials=8"), RANGE.replace("e-4", "e-5")
    where = search(tmp_path / "study", old, rungs_at_once=True)
    measured = [
        t.point.trial_id
        for t in open_toy(tmp_path / "study", old).told()
        if not t.frozen.user_attrs["error"]
    ]

    def judged(point):
        return verdict_of(point, old) if point.trial_id in measured else None

    for settings, kept in (([], where), (["pruning={steps: [2], kind: hyperband}"], measured)):
        shutil.copytree(tmp_path / "study", folder := tmp_path / f"wider {len(settings)}")
        new = load("num_trials=8", wider, *settings)
        study = open_study(folder, new, allow_changed_space=True, judge=judged)
        assert len(study.told()) == len(kept)
        assert Counter(told.frozen.user_attrs["error"] for told in study.told())[""] == len(
            measured
        )
        assert all(t.frozen.intermediate_values for t in study.told()) == (kept is where)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("objectives=[{column: gfid}, {column: rfid}]", "Optuna prunes by no more"),
        ("objectives=[{column: rfid}]", "an objective that snapshots of a generator have"),
        ("pruning.steps=[2, 8]", "below the training's own, 8, but got 8"),
        ("proxy={generator.training.steps: 4}", "below the training's own, 4, but got 4"),
        ("pruning.steps=[4, 2]", "`steps` must be rising"),
        ("trial.generator.snapshots=[2]", "in place of the trial's generator.snapshots"),
        ("search={generator.training.steps: {choices: [3, 8]}}", "below the training's own, 3"),
        ("pruning.kind=percentile", "PercentilePruner"),
        ("pruning.arguments={n_trials: 3}", "n_trials"),
        ("pruning.arguments={n_startup_trials: -1}", "MedianPruner"),
    ],
)
def test_what_cannot_be_pruned_is_refused(setting, words, load, tree):
    if setting.startswith("search"):
        tree["first"] = {}
    with pytest.raises(ConfigError, match="pruning") as refusal:
        load(setting)
    assert words in str(refusal.value)


def test_a_search_without_pruning_plans_no_rung(load):
    plain = load("pruning=null")
    plan = plain.plan([plain.point(GOOD)])
    assert judged_row(plan) == plan.rows[0]
    assert [s.config.until for s in plan.stages if s.kind == "generator"] == [0]
