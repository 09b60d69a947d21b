"""TensorBoard logs of training stages: read back as TensorBoard reads them."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.crc32c import crc32c

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.running.context import StageContext
from harness.stages.running.tensorboard import ScalarLog
from harness.storage.artifacts import Store

event_pb2: Any = importlib.import_module("tensorboardX.proto.event_pb2")


def records(path: Path) -> Iterator[bytes]:
    """Records of an event file; their checksums must hold."""
    data = path.read_bytes()
    while data:
        (length,), (check,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        assert masked(data[:8]) == check
        payload = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(payload)
        yield payload
        data = data[16 + length :]


def masked(data: bytes) -> int:
    """The checksum of the TFRecord format."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value over all files, after the purges that a resumed run asks for."""
    found: dict[str, dict[int, float]] = {}
    files = sorted(folder.glob("*.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    for path in files:
        for record in records(path):
            event: Any = event_pb2.Event.FromString(record)
            if event.session_log.status == event_pb2.SessionLog.START:
                for values in found.values():
                    for step in [s for s in values if s >= event.step]:
                        del values[step]
            for value in event.summary.value:
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps, "a step is shown twice"
                steps[event.step] = value.simple_value
    return found


def curve(path: Path) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        terms = json.loads(line)
        step = terms.pop("step")
        for name, value in terms.items():
            found.setdefault(name, {})[step] = pytest.approx(value, rel=1e-6)
    return found


def bring(stage, store: Store) -> None:
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error


@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_an_artifact_holds_its_curve_for_tensorboard(load, tmp_path, kind) -> None:
    store = Store(tmp_path)
    stage = next(s for s in make_plan(load()).stages if s.kind == kind)
    bring(stage, store)
    artifact = store.get(kind, stage.key)
    assert scalars(artifact.path / "tensorboard") == curve(artifact.path / "curve.jsonl")
    assert not any("tfevents" in name for name in artifact.record["files"])


def test_an_encoder_trained_here_logs_its_loss(load, tmp_path) -> None:
    store = Store(tmp_path)
    stage = make_plan(load()).stages[0]
    bring(stage, store)
    found = scalars(store.get(stage.kind, stage.key).path / "tensorboard")
    assert list(found) == ["loss"]
    assert sorted(found["loss"]) == [0, 1]


def test_a_resumed_training_shows_every_step_once(load, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("harness.stages.running.context.REPORT_EVERY_S", 0.0)
    store = Store(tmp_path)
    stage = next(
        s for s in make_plan(load("tokenizer.training.steps=8")).stages if s.kind == "tokenizer"
    )
    after_step = StageContext.after_step

    def killed(self, done, *arguments, **named):
        if done == 4:
            self.resources = Resources(checkpoint_every_s=1e9)
        after_step(self, done, *arguments, **named)
        if done == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, store.root, Resources(checkpoint_every_s=1e-9), 0.0)
    partial = store.folder("tokenizer", stage.key).with_name(f"{stage.key}.partial")
    live = scalars(partial / "payload" / "tensorboard")
    assert sorted(live["l1"]) == [0, 1, 2, 3, 4, 5]  # Shown while it ran.
    bring(stage, store)
    artifact = store.get("tokenizer", stage.key)
    assert len(list((artifact.path / "tensorboard").iterdir())) == 2
    assert scalars(artifact.path / "tensorboard") == curve(artifact.path / "curve.jsonl")


def test_a_start_from_nothing_leaves_no_file_of_an_earlier_attempt(tmp_path) -> None:
    for value in (1.0, 2.0):
        log = ScalarLog(tmp_path)
        log.start(0)
        log.write(0, {"loss": value})
        log.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert scalars(tmp_path) == {"loss": {0: 2.0}}


def test_a_log_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("no folder")
    log = ScalarLog(tmp_path / "file")
    log.start(0)
    log.write(0, {"loss": 1.0})
    log.flush()
    log.close()
    error = capsys.readouterr().err
    assert error.count("no further TensorBoard logs") == 1


def test_a_disk_that_is_full_ends_the_log_and_not_the_training(tmp_path, capsys) -> None:
    class Full:
        def write_event(self, event: Any) -> None:
            raise OSError(28, "No space left on device")

    log = ScalarLog(tmp_path)
    log.start(0)
    log._writer.close()
    log._writer = Full()
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_tensorboard_itself_reads_the_files(tmp_path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = ScalarLog(tmp_path)
    log.start(0)
    log.write(3, {"loss": 0.5})
    log.close()
    read = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(3, 0.5)]
