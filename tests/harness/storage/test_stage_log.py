"""What a stage prints is kept, whoever prints it and however the stage ends."""

import dataclasses
import os
import subprocess
import sys
import warnings

import pytest

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages import registry
from harness.storage import stage_log
from harness.storage.artifacts import Store


@pytest.fixture
def encoder(load):
    return make_plan(load()).stages[0]


def test_output_and_warnings_of_a_process_go_to_the_log_even_where_it_is_killed(tmp_path):
    script = f"""
import os, sys, warnings
from pathlib import Path
from harness.storage import stage_log
print("before")
with stage_log.kept(Path({str(tmp_path)!r}) / "log.txt"):
    print("printed")
    warnings.warn("a warning")
    os.write(2, b"written by C\\n")
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == -9
    assert (done.stdout, done.stderr) == ("before\n", "")
    assert "attempt on" in log
    for text in ("printed", "a warning", "written by C"):
        assert text in log


def test_a_user_stream_stays_one_while_output_is_kept(tmp_path, capfd):
    with stage_log.user_stream() as stream, stage_log.kept(tmp_path / "log.txt"):
        os.write(2, b"of the stage\n")
        stage_log.say(stream, "to the user")
    assert capfd.readouterr().err == "to the user\n"
    assert "of the stage" in (tmp_path / "log.txt").read_text()


def test_every_attempt_is_in_the_log_of_the_artifact_and_in_no_content_hash(
    encoder, tmp_path, monkeypatch
):
    original = registry.KINDS["encoder"]

    def fail(config, context):
        os.write(1, b"first attempt\n")
        raise ValueError("not yet")

    broken = dataclasses.replace(original, run=fail)
    with monkeypatch.context() as patch:
        patch.setitem(registry.KINDS, "encoder", broken)
        assert run_stage(encoder, tmp_path, Resources(), 0.0).failure == "error"
    assert run_stage(encoder, tmp_path, Resources(), 0.0).status == "done"
    artifact = Store(tmp_path).get("encoder", encoder.key)
    log = (artifact.path / "log.txt").read_text()
    assert log.count("attempt on") == 2
    assert "first attempt" in log
    assert list(artifact.record["files"]) == ["model.safetensors"]


def test_threads_of_torch_and_of_linear_algebra_are_what_the_stage_asked_for(
    encoder, tmp_path, monkeypatch
):
    import torch
    from threadpoolctl import threadpool_info

    seen = {}

    def look(config, context):
        seen["torch"] = torch.get_num_threads()
        seen["libraries"] = {info["num_threads"] for info in threadpool_info()}
        seen["variable"] = os.environ["OMP_NUM_THREADS"]
        return {}

    original = registry.KINDS["encoder"]
    monkeypatch.setitem(registry.KINDS, "encoder", dataclasses.replace(original, run=look))
    before = os.environ.get("OMP_NUM_THREADS")
    assert run_stage(encoder, tmp_path, Resources(cpus=1), 0.0).status == "done"
    assert seen == {"torch": 1, "libraries": {1}, "variable": "1"}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_warnings_are_not_swallowed(tmp_path):
    with pytest.warns(UserWarning, match="seen"), stage_log.kept(tmp_path / "log.txt"):
        warnings.warn("seen", stacklevel=1)


def test_another_user_of_the_group_may_go_on_with_a_log(tmp_path):
    before = os.umask(0o002)
    try:
        with stage_log.kept(tmp_path / "log.txt"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o664
