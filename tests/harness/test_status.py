"""`python -m harness.status`: how a sweep stands, from what processes have left behind."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.commands.exit_codes import EXIT_UNFINISHED
from harness.config.sweep import load_sweep
from harness.plan.plan import make_plan
from harness.reporting.plan_record import FILE, hash_of, read_record
from harness.reporting.stage_states import stage_states, witness_of
from harness.stages import registry
from harness.stages.running.context import StageContext
from harness.status import main
from harness.storage.artifacts import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def status(command, capsys):
    """Runs the status command in the folder of `command`."""

    def run(*arguments: str):
        capsys.readouterr()
        code = main(["results/small", *arguments])
        return code, capsys.readouterr()

    return run


def test_a_finished_sweep_is_done(finished, tree, status) -> None:
    finished(tree)
    code, shown = status()
    assert code == 0, shown.err
    assert "small: 7/7 stages: 0 running, 0 ready, 0 waiting, 7 done" in shown.out
    assert "rows: 1 done" in shown.out
    assert "ended" in shown.out


def test_a_failed_stage_is_named_with_its_error_and_where_to_look(
    command, write, tree, status
) -> None:
    tree["grid"] = {"tokenizer.training.learning_rate": [1e20, 1e-3]}
    assert command(write(tree)).code == 1
    code, shown = status()
    assert code == 1
    assert "rows: 1 blocked, 1 done" in shown.out
    line = next(line for line in shown.out.splitlines() if line.startswith("  diverged tokenizer"))
    assert "the loss is not finite at step" in line
    path = Path(line.rpartition("see ")[2].split(" and ")[0])
    assert "Traceback" in path.read_text()
    assert "  blocked generator" in shown.out


def test_an_interrupted_sweep_says_where_it_goes_on(
    command, write, tree, status, monkeypatch
) -> None:
    tree["resources"] = {"default": {"checkpoint_every_s": 1e-9}}
    original = registry.KINDS["tokenizer"]
    after_step = StageContext.after_step

    def killed(self, done, *arguments, **named):
        after_step(self, done, *arguments, **named)
        if done == 2:
            raise KeyboardInterrupt

    def run(config, context):
        with monkeypatch.context() as patch:
            patch.setattr(StageContext, "after_step", killed)
            return original.run(config, context)

    broken = dataclasses.replace(original, run=run)
    monkeypatch.setitem(registry.KINDS, "tokenizer", broken)
    assert command(write(tree)).code == 130
    code, shown = status()
    assert code == EXIT_UNFINISHED
    assert "its process is gone: it goes on after step 2" in shown.out
    assert "nothing runs; the sweep's command goes on with what is left" in shown.out
    assert "interrupted)" in shown.out  # Of the command itself.
    code, shown = status("--json")
    described = json.loads(shown.out)
    assert (described["is_open"], described["has_failed"]) == (True, False)
    assert described["counts"]["interrupted"] == 1
    assert described["rows"] == {"pending": 1}


def test_what_another_process_runs_is_shown_while_it_runs(command, write, tree, status) -> None:
    path = write(tree)
    command(path, "--only", "encoder")
    stages = {stage.kind: stage for stage in make_plan(load_sweep(path)).stages}
    tokenizer = stages["tokenizer"]
    with Store(Path("artifacts")).work("tokenizer", tokenizer.key) as work:
        work.report({"step": 3, "total": 10, "l1": 0.25, "eta_s": 7.0})
        code, shown = status()
    assert code == EXIT_UNFINISHED
    assert f"running tokenizer {tokenizer.label}: step 3/10, l1 0.25, ETA 7 s" in shown.out
    assert f"process {os.getpid()}" in shown.out
    assert "sweep ETA" in shown.out


def test_stages_are_told_apart_by_what_the_sweep_varies(command, write, tree, status) -> None:
    tree["grid"] = {"tokenizer.training.learning_rate": [1e-3, 2e-3]}
    path = write(tree)
    command(path, "--only", "encoder")
    tokenizers = [s for s in make_plan(load_sweep(path)).stages if s.kind == "tokenizer"]
    assert len({stage.label for stage in tokenizers}) == 1
    with Store(Path("artifacts")).work("tokenizer", tokenizers[1].key) as work:
        work.report({"step": 3, "total": 10, "l1": 0.25, "eta_s": 7.0})
        _, shown = status()
    assert "learning_rate=0.002: step 3/10" in shown.out


def test_an_error_of_an_attempt_before_the_one_that_was_killed_is_no_failure(
    load, tmp_path
) -> None:
    plan, store = make_plan(load()), Store(tmp_path)
    stage = plan.stages[0]
    with store.work(stage.kind, stage.key) as work:
        (work.partial).mkdir(parents=True, exist_ok=True)
        (work.partial / "error.txt").write_text("Traceback\nValueError: earlier\n")
        old = time.time() - 60
        os.utime(work.partial / "error.txt", (old, old))
        work.note("started")
    assert stage_states(plan.stages, witness_of(store))[stage.key].state == "interrupted"


def test_a_killed_driver_leaves_a_sweep_that_can_be_looked_at(write, tree, tmp_path) -> None:
    """A real process and a real SIGKILL; the look is in a process without Ray."""
    tree["trial"]["generator"]["training"]["steps"] = 100_000
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness.run", str(write(tree)), "--executor", "inline"]
    log = (tmp_path / "log.txt").open("w")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("artifacts/generator/*.partial/payload")):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
        log.close()
    blocked = "import sys; sys.modules['ray'] = None; from harness.status import main; "
    ask = [sys.executable, "-c", blocked + "sys.exit(main(['results/small']))"]
    asked = subprocess.run(
        ask, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == EXIT_UNFINISHED, asked.stderr
    assert "interrupted generator" in asked.stdout
    assert "its process is gone and left no checkpoint" in asked.stdout
    assert "has not said it ended" in asked.stdout
    assert asked.stderr == ""


def test_watching_ends_when_nothing_is_left(finished, tree, status) -> None:
    finished(tree)
    code, shown = status("--watch")
    assert code == 0
    assert shown.out.count("7/7 stages") == 1


def look_without_torch(folder: Path) -> "subprocess.CompletedProcess[str]":
    """The status command in a process of its own that cannot import what takes seconds."""
    heavy = ("torch", "torchvision", "timm", "ray", "pandas", "optuna")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({heavy}))"
    ask = f"{blocked}; from harness.status import main; sys.exit(main(['results/small']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", ask], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("arguments", [[], ["--only", "tokenizer"]], ids=["finished", "open"])
def test_a_record_of_the_plan_spares_planning_and_says_the_same(
    finished, tree, status, arguments
) -> None:
    finished(tree, *arguments)
    asked = look_without_torch(Path.cwd())
    assert asked.stderr == ""
    (Path("results/small") / FILE).unlink()
    code, shown = status()
    assert (asked.returncode, asked.stdout) == (code, shown.out)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record[:-40],
        lambda record: record.replace("tokenizer", "generator", 1),
        lambda record: "[]",
    ],
    ids=["torn", "altered", "another form"],
)
def test_without_a_good_record_the_sweep_is_planned_anew(finished, tree, status, spoil) -> None:
    finished(tree)
    said, path = status(), Path("results/small") / FILE
    path.write_text(spoil(path.read_text()))
    assert read_record(path.parent) is None
    assert status() == said


def test_a_record_of_another_sweep_file_is_not_read(finished, tree, status) -> None:
    finished(tree, "--only", "encoder")
    path = Path("results/small/sweep.yaml")
    path.write_text(path.read_text().replace("grid: {}", "grid: {seed: [0, 1]}"))
    assert read_record(path.parent) is None
    assert "rows: 2 pending" in status()[1].out


def test_a_record_of_a_newer_version_is_not_read(finished, tree) -> None:
    finished(tree, "--only", "encoder")
    path = Path("results/small") / FILE
    plan = {**json.loads(path.read_text())["plan"], "schema_version": 2}
    path.write_text(json.dumps({"sha256": hash_of(plan, path.parent), "plan": plan}))
    assert read_record(path.parent) is None


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("results/smal", "is not there; there are: results/small"),
        ("results", "holds several; give one: results/small"),
        ("results/small/table.csv", "but is a file"),
        ("artifacts", "must hold the sweep.yaml"),
    ],
)
def test_a_wrong_folder_is_told_with_the_right_one(finished, tree, capsys, folder, message) -> None:
    finished(tree, "--only", "encoder")
    assert main([folder]) == 2
    assert message in capsys.readouterr().err


def test_a_store_that_is_elsewhere_is_asked_for(command, write, tree, status) -> None:
    command(write(tree), "--only", "encoder", "--store", "elsewhere")
    assert status()[0] == EXIT_UNFINISHED
    code, shown = status("--store", "nowhere")
    assert code == 2
    assert "give --store DIR" in shown.err
