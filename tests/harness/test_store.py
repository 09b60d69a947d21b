"""The store: artifacts are whole or absent, and one process at a time works on a stage."""

import json

import pytest
import torch

from harness.lease import StageBusy
from harness.store import Store, file_sha256, write_json, write_tensors

RECORD = {"result": {"value": 1.0}}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "artifacts")


def publish(store: Store, value: float = 1.0):
    with store.work("tokenizer", "key") as work:
        write_tensors(work.payload / "model.safetensors", {"weight": torch.full((2,), value)})
        return work.publish({"result": {"value": value}})


def test_a_published_artifact_is_found_with_its_content_hashes(store):
    publish(store)
    artifact = store.get("tokenizer", "key")
    assert artifact.result == {"value": 1.0}
    assert torch.equal(artifact.tensor("model.safetensors", "weight"), torch.ones(2))
    path = artifact.path / "model.safetensors"
    assert artifact.sha256("model.safetensors") == file_sha256(path)
    assert artifact.record["files"]["model.safetensors"]["bytes"] == path.stat().st_size


def test_nothing_is_found_until_the_work_is_published(store):
    with store.work("tokenizer", "key") as work:
        (work.payload / "model.safetensors").write_bytes(b"half")
        assert store.find("tokenizer", "key") is None
    assert store.find("tokenizer", "key") is None
    with pytest.raises(ValueError, match="must be in the store"):
        store.get("tokenizer", "key")


def test_a_failed_rename_publishes_nothing(store, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    with store.work("tokenizer", "key") as work:
        monkeypatch.setattr("pathlib.Path.rename", fail)
        with pytest.raises(OSError, match="disk full"):
            work.publish(RECORD)
    assert store.find("tokenizer", "key") is None


def test_publishing_leaves_neither_work_folder_nor_lease(store):
    publish(store)
    assert [path.name for path in (store.root / "tokenizer").iterdir()] == ["key"]


def test_the_loser_of_a_race_keeps_the_winners_artifact(store):
    with store.work("tokenizer", "key") as work:
        (work.payload / "model.safetensors").write_bytes(b"loser")
        winner = store.folder("tokenizer", "key")
        winner.mkdir()
        write_json(winner / "artifact.json", {"result": {"value": 2.0}, "files": {}})
        kept = work.publish({"result": {"value": 1.0}})
    assert kept.result == store.get("tokenizer", "key").result == {"value": 2.0}
    assert not work.partial.exists()


def test_a_stage_held_by_a_living_process_is_busy(store):
    with store.work("tokenizer", "key"):
        with pytest.raises(StageBusy), store.work("tokenizer", "key"):
            pass
        with store.work("tokenizer", "other"):
            pass
    with store.work("tokenizer", "key"):
        pass


def test_a_record_that_cannot_be_read_is_named_with_the_way_to_mend_it(store):
    artifact = publish(store)
    (artifact.path / "artifact.json").write_text("{")
    with pytest.raises(ValueError, match=r"must be JSON.*remove the folder"):
        store.find("tokenizer", "key")


def test_json_is_whole_or_absent_and_finite(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_progress_is_read_back_and_empty_where_nothing_runs(store):
    assert store.progress("tokenizer", "key") == {}
    with store.work("tokenizer", "key") as work:
        work.report({"step": 3, "total": 10})
        assert store.progress("tokenizer", "key") == {"step": 3, "total": 10}
