"""The store: artifacts are whole or absent, and one process at a time works on a stage."""

import json
import shutil

import pytest
import torch

from harness.stages.running.curves import Curve
from harness.storage.artifacts import DamagedArtifact, Store, read_history, write_tensors
from harness.storage.durable import StorageError, file_sha256, write_json
from harness.storage.lease import StageBusy

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
    assert not work.shared.exists()


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
    with pytest.raises(DamagedArtifact, match=r"cannot be read.*run the command again"):
        store.get("tokenizer", "key")
    assert store.find("tokenizer", "key") is None


def test_an_altered_number_in_a_record_is_found_out(store):
    artifact = publish(store)
    path = artifact.path / "artifact.json"
    path.write_text(path.read_text().replace('"value": 1.0', '"value": 1.5'))
    with pytest.raises(DamagedArtifact, match=r"artifact.json was altered"):
        store.get("tokenizer", "key")


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_file_is_found_out_when_it_is_read_and_set_aside(store, damage, capsys):
    publish(store)
    artifact = store.get("tokenizer", "key")
    path = artifact.path / "model.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        flip_last_byte(path)
    with pytest.raises(DamagedArtifact, match=r"model.safetensors must have sha256") as caught:
        artifact.tensors("model.safetensors")
    assert "set aside as key.damaged-" in store.set_aside(caught.value)
    assert "was damaged" in capsys.readouterr().err
    assert store.find("tokenizer", "key") is None
    publish(store)
    assert torch.equal(
        store.get("tokenizer", "key").tensor("model.safetensors", "weight"), torch.ones(2)
    )


def flip_last_byte(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_good_artifact_that_took_a_damaged_ones_place_is_left_alone(store):
    flip_last_byte(publish(store).path / "model.safetensors")
    with pytest.raises(DamagedArtifact) as caught:
        store.get("tokenizer", "key").tensors("model.safetensors")
    store.set_aside(caught.value)
    publish(store)
    assert "set aside by another process" in store.set_aside(caught.value)
    assert store.find("tokenizer", "key") is not None


def test_a_folder_that_is_no_artifact_makes_room_for_the_work(store):
    stray = store.folder("tokenizer", "key")
    stray.mkdir(parents=True)
    (stray / "notes.txt").write_text("left by hand")
    publish(store)
    assert store.find("tokenizer", "key") is not None
    (aside,) = stray.parent.glob("key.damaged-*")
    assert (aside / "notes.txt").is_file()


def test_files_that_a_kill_left_half_written_are_not_published(store):
    with store.work("tokenizer", "key") as work:
        (work.payload / ".samples.npz.123.tmp").write_bytes(b"half")
        (work.payload / ".tmpAbCdEf").write_bytes(b"half of safetensors")
    with store.work("tokenizer", "key") as work:
        write_tensors(work.payload / "model.safetensors", {"weight": torch.ones(2)})
        artifact = work.publish(RECORD)
    assert list(artifact.record["files"]) == ["model.safetensors"]
    names = sorted(path.name for path in artifact.path.iterdir())
    assert names == ["artifact.json", "model.safetensors"]


def test_work_whose_lease_was_taken_over_publishes_nothing(store):
    with store.work("tokenizer", "key") as work:
        (store.root / "tokenizer" / "key.lease").write_text(json.dumps({"token": "theirs"}))
        with pytest.raises(StageBusy, match="taken over"):
            work.publish(RECORD)
    assert store.find("tokenizer", "key") is None


def test_a_record_tells_the_attempts_that_led_to_it(store):
    with store.work("tokenizer", "key") as work:
        work.note("started")
        with (work.partial / "history.jsonl").open("a") as file:
            file.write('{"what": "torn by a ki')
    with store.work("tokenizer", "key") as work:
        work.note("started")
        work.note("resumed", step=3)
        artifact = work.publish(RECORD)
    assert [line["what"] for line in artifact.record["history"]] == [
        "started",
        "started",
        "resumed",
    ]


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


def test_a_work_folder_that_was_removed_meanwhile_publishes_nothing(store):
    with store.work("tokenizer", "key") as work:
        write_tensors(work.payload / "first.safetensors", {"weight": torch.ones(2)})
        shutil.rmtree(work.shared)
        (work.shared / "payload").mkdir(parents=True)
        with pytest.raises(StorageError, match="was removed while its stage ran"):
            work.publish(RECORD)
        assert not work.shared.exists()
    assert store.find("tokenizer", "key") is None
    publish(store)


def test_a_holder_that_was_taken_over_writes_nothing_to_its_successors_files(store):
    with store.work("tokenizer", "key") as work:
        curve = Curve(work, every=1)
        (store.root / "tokenizer" / "key.lease").write_text(json.dumps({"token": "theirs"}))
        before = {path: path.stat().st_size for path in work.shared.rglob("*") if path.is_file()}
        curve.note(0, {"loss": torch.ones(())})
        for write in (
            curve.flush,
            lambda: work.report({"step": 1}),
            lambda: work.note("started"),
            lambda: work.payload,
            lambda: work.checkpoints,
        ):
            with pytest.raises(StageBusy, match="taken over"):
                write()
    after = {path: path.stat().st_size for path in work.shared.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("text", ["[]", "{}", "NaN", '{"result": {}, "files": []}', "\xff"])
def test_a_record_of_another_form_is_damage(store, text):
    path = publish(store).path / "artifact.json"
    path.write_text(text, encoding="latin-1")
    assert store.find("tokenizer", "key") is None
    with pytest.raises(DamagedArtifact, match="run the command again"):
        store.examine("tokenizer", "key")


def test_an_entry_that_is_missing_is_damage(store):
    artifact = publish(store)
    with pytest.raises(DamagedArtifact, match="its result has no 'other'"):
        artifact.result["other"]
    with pytest.raises(DamagedArtifact, match=r"it has no file other\.npz"):
        artifact.file("other.npz")


def test_half_lines_of_a_history_are_left_out(store):
    with store.work("tokenizer", "key") as work:
        work.note("started")
        with (work.partial / "history.jsonl").open("ab") as file:
            file.write(b'{"what": {"half"}\n[1]\n{\xff}\n')
        assert [line["what"] for line in read_history(work.partial)] == ["started"]
