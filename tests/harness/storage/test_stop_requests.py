"""Stop requests, and what running stages make of them."""

import os
import signal

import pytest

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.running import context
from harness.storage.artifacts import Store
from harness.storage.stop_requests import FOLDER, StopRequest, is_requested, on_signals


def test_a_request_is_seen_by_whoever_has_the_path_and_leaves_nothing(tmp_path):
    stop = StopRequest(tmp_path)
    with stop.open():
        assert not is_requested(stop.path)
        stop.request("enough")
        assert is_requested(stop.path)
    assert not (tmp_path / FOLDER).exists()


def test_a_request_before_anything_runs_is_seen(tmp_path):
    stop = StopRequest(tmp_path)
    stop.request("enough")
    with stop.open():
        assert is_requested(stop.path)


def test_the_first_signal_asks_and_the_second_interrupts(tmp_path):
    stop, said = StopRequest(tmp_path), []
    with on_signals(stop, said.append):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_requested
        assert "Ctrl-C again" in said[0]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stopped_training_has_its_checkpoint_and_goes_on_to_the_same_bits(
    load, tmp_path, monkeypatch
):
    monkeypatch.setattr(context, "POLL_S", 0.0)
    (tokenizer,) = [s for s in make_plan(load()).stages if s.kind == "tokenizer"]
    stop = StopRequest(tmp_path / "stopped")
    with stop.open():
        stop.request("enough")
        ended = run_stage(tokenizer, tmp_path / "stopped", Resources(), 0.0, stop=stop.path)
    assert ended.status == "stopped"
    partial = tmp_path / "stopped" / "tokenizer" / f"{tokenizer.key}.partial"
    assert sorted(path.name for path in (partial / "checkpoints").glob("step-*")) == [
        "step-000000001.json",
        "step-000000001.safetensors",
    ]
    assert not (partial / "error.txt").exists()
    weights = []
    for name in ("stopped", "undisturbed"):
        assert run_stage(tokenizer, tmp_path / name, Resources(), 0.0).status == "done"
        artifact = Store(tmp_path / name).get("tokenizer", tokenizer.key)
        weights.append((artifact.path / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_an_encoder_stopped_while_it_measures_its_accuracy_goes_on_to_the_same_artifact(
    load, tmp_path, monkeypatch
):
    monkeypatch.setattr(context, "POLL_S", 0.0)
    encoder = next(s for s in make_plan(load()).stages if s.kind == "encoder")
    steps = encoder.config.encoder.training.steps
    stop = StopRequest(tmp_path / "stopped")
    original = context.StageContext.after_step

    def ask_after_the_last_step(self, step, total, *arguments, **named):
        original(self, step, total, *arguments, **named)
        if step == total:
            stop.request("enough")

    with stop.open(), monkeypatch.context() as patch:
        patch.setattr(context.StageContext, "after_step", ask_after_the_last_step)
        ended = run_stage(encoder, tmp_path / "stopped", Resources(), 0.0, stop=stop.path)
    assert ended.status == "stopped"
    checkpoints = tmp_path / "stopped" / "encoder" / f"{encoder.key}.partial" / "checkpoints"
    assert [path.stem for path in checkpoints.glob("step-*.json")] == [f"step-{steps:09d}"]
    records = []
    for name in ("stopped", "undisturbed"):
        assert run_stage(encoder, tmp_path / name, Resources(), 0.0).status == "done"
        records.append(Store(tmp_path / name).get("encoder", encoder.key).record)
    assert [each["step"] for each in records[0]["history"] if "step" in each] == [steps]
    assert records[0]["files"] == records[1]["files"]
    assert records[0]["result"] == records[1]["result"]
