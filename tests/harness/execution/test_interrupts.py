"""Ctrl-C on a real process: once to stop with checkpoints, twice to stop now."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120.0
ONLY = ("--only", "tokenizer")
"""Spares the imports that the other stages need, which take longer than what is tested."""


@pytest.fixture
def start(tmp_path, write, tree):
    """Starts the small sweep with a long tokenizer; returns its process."""
    tree["trial"]["tokenizer"]["training"]["steps"] = 5000
    path, processes = write(tree), []

    def start_sweep(*arguments: str) -> subprocess.Popen[str]:
        found = os.pathsep.join([str(ROOT / "tests" / "chaos" / "faults"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": found, "RAY_AUTH_MODE": "disabled"}
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.run", str(path), *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Tests that run under nohup would hand down that a closed terminal is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield start_sweep
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(look) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.1)


def is_training(folder: Path) -> bool:
    for path in folder.glob("artifacts/tokenizer/*.partial/progress.json"):
        return json.loads(path.read_text()).get("step", 0) > 0
    return False


@pytest.mark.parametrize(
    ("executor", "number"),
    [("inline", signal.SIGINT), ("ray", signal.SIGINT), ("ray", signal.SIGHUP)],
)
def test_ctrl_c_or_a_closed_terminal_writes_a_checkpoint_and_the_results_and_says_how_to_go_on(
    start, tmp_path, executor, number
):
    process = start("--executor", executor, *([] if executor == "inline" else ONLY))
    wait_for(lambda: is_training(tmp_path))
    if number == signal.SIGHUP:
        # A terminal tells all that run in it, and so does its shell.
        os.killpg(process.pid, number)
        time.sleep(0.05)
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "Press Ctrl-C again to stop now" in said
    assert "run the same command again" in said
    (checkpoint,) = tmp_path.glob("artifacts/tokenizer/*.partial/checkpoints/step-*.json")
    assert json.loads(checkpoint.read_text())["step"] > 0
    table = pd.read_csv(tmp_path / "results/small/table.csv")
    assert list(table["status"]) == ["pending"]
    assert not list(tmp_path.glob("artifacts/*/*.lease"))
    assert not list(tmp_path.glob("artifacts/.drivers"))


def test_ctrl_c_twice_stops_now(start, tmp_path):
    process = start("--executor", "inline", *ONLY)
    wait_for(lambda: is_training(tmp_path))
    # Both arrive before the stage has looked for a stop request again.
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert not list(tmp_path.glob("artifacts/tokenizer/*.partial/checkpoints/step-*.json"))


def test_ctrl_c_twice_under_ray_ends_a_worker_that_does_not_answer(start, tmp_path):
    process = start("--executor", "ray", *ONLY)
    wait_for(lambda: is_training(tmp_path))
    (lease,) = tmp_path.glob("artifacts/tokenizer/*.lease")
    worker = json.loads(lease.read_text())["pid"]
    os.kill(worker, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    # As quickly as fingers are; counted as one, they would wait for the worker for ever.
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    wait_for(lambda: not Path(f"/proc/{worker}").exists())


def test_a_time_limit_ends_a_run_with_a_code_of_its_own_and_the_same_command_goes_on(
    command, write, tree
):
    tree["trial"]["tokenizer"]["training"]["steps"] = 100_000
    steps = [0]
    # A busy machine may take the first limits to begin.
    for limit in ("0.01m", "1s", "2", "4s", "8s", "16s", "32s"):
        ended = command(write(tree), "--only", "tokenizer", "--time-limit", limit)
        assert ended.code == 124
        assert "the time limit has passed; running stages write a checkpoint and end" in ended.err
        assert "the time limit has passed: finished stages are kept" in ended.err
        # A run keeps the checkpoint before its newest one too.
        saved = Path("artifacts").glob("tokenizer/*.partial/checkpoints/step-*.json")
        steps.append(max((json.loads(path.read_text())["step"] for path in saved), default=0))
        if len(set(steps)) > 2:
            break
    assert steps == sorted(steps)
    assert len(set(steps)) > 2


@pytest.mark.parametrize("text", ["soon", "-1s", "0", "8 parsecs", "nan"])
def test_a_time_limit_that_is_none_is_refused(command, write, tree, text):
    ended = command(write(tree), f"--time-limit={text}")
    assert ended.code == 2
    assert "--time-limit: must be a number of seconds above 0" in ended.err
