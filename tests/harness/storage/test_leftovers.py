"""Leftovers of killed processes are removed; what somebody may still need is not."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from harness.storage.artifacts import Store
from harness.storage.lease import hold, process_table
from harness.storage.leftovers import clear_leftovers, discard, remove_temporary
from harness.storage.stop_requests import StopRequest


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "artifacts")
    with store.work("tokenizer", "finished") as work:
        work.publish({"result": {}})
    return store


def names(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "tokenizer").iterdir())


def make_old(path) -> None:
    path.touch()
    then = time.time() - 7200
    os.utime(path, (then, then))


def test_what_a_process_left_that_was_killed_right_after_publishing_is_removed(store):
    folder = store.root / "tokenizer"
    (folder / "finished.partial" / "checkpoints").mkdir(parents=True)
    dead = {"table": process_table(), "pid": os.getpid(), "started": "1", "token": "dead"}
    (folder / "finished.lease").write_text(json.dumps(dead))
    clear_leftovers(store.root)
    assert names(store) == ["finished"]


def test_a_finished_stage_whose_work_folder_is_being_removed_is_left_to_who_does_it(store):
    with store.work("tokenizer", "finished") as work:
        work.checkpoints.touch()
        clear_leftovers(store.root)
        assert work.partial.exists()


def test_work_in_progress_is_never_a_leftover(store):
    with store.work("tokenizer", "killed") as work:
        make_old(work.checkpoints / "step-000000001.json")
    clear_leftovers(store.root, old_s=0.0)
    assert names(store) == ["finished", "killed.partial"]


def test_momentary_files_are_removed_once_they_are_old(store):
    folder = store.root / "tokenizer"
    token = "0123456789abcdef"
    for name in (f"a.lease.{token}.dead", f"a.lease.{token}.now", f"a.lease.{token * 2}"):
        make_old(folder / name)
    young = folder / f"b.lease.{token}.now"
    young.touch()
    clear_leftovers(store.root)
    assert names(store) == sorted(["finished", young.name])


def test_a_removal_that_was_killed_halfway_is_finished_and_never_taken_for_work(store, monkeypatch):
    with store.work("tokenizer", "key") as work:
        (work.checkpoints / "step-000000001.json").touch()
        partial = work.partial
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    discard(partial)
    assert not partial.exists()
    monkeypatch.undo()
    clear_leftovers(store.root)
    assert names(store) == ["finished"]


def test_a_store_that_is_absent_or_damaged_artifacts_that_were_set_aside_are_left(store, tmp_path):
    clear_leftovers(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (store.root / "tokenizer" / "finished.damaged-20260101T000000Z-abcd").mkdir()
    clear_leftovers(store.root, old_s=0.0)
    assert len(names(store)) == 2


def test_old_temporary_files_of_results_are_removed(tmp_path):
    make_old(tmp_path / ".table.csv.abc.tmp")
    (tmp_path / ".table.csv.def.tmp").touch()
    remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".table.csv.def.tmp"]


def test_what_a_killed_driver_asked_is_removed_and_what_a_living_one_asks_is_left(store):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = store.root / ".drivers"
    with StopRequest(store.root).open() as living:
        (folder / f"{socket.gethostname()}-{ended.pid}-0123abcd").write_text("run")
        (folder / f"elsewhere-{ended.pid}-0123abcd").write_text("run")
        clear_leftovers(store.root)
        left = sorted(path.name for path in folder.iterdir())
    assert left == sorted([living.path.name, f"elsewhere-{ended.pid}-0123abcd"])


def test_a_stop_request_whose_file_and_folder_were_removed_is_made_anew(store):
    stop = StopRequest(store.root)
    with stop.open():
        stop.path.unlink()
        stop.path.parent.rmdir()
        stop.request("interrupted")
        assert stop.path.read_text() == "stop"


def test_notes_of_a_gang_go_once_they_are_old_and_nobody_holds_its_stage(store):
    notes = store.root / ".gangs" / "0123456789abcdef-0123abcd"
    notes.mkdir(parents=True)
    clear_leftovers(store.root)
    assert notes.exists()
    make_old(notes)
    with hold(store.root / "tokenizer" / "0123456789abcdef0123.lease"):
        clear_leftovers(store.root)
        assert notes.exists()
    clear_leftovers(store.root)
    assert not notes.parent.exists()


def test_nothing_is_removed_through_a_link(tmp_path):
    elsewhere, store = tmp_path / "elsewhere", tmp_path / "store"
    for folder in (elsewhere / "x.partial", elsewhere / ".y.gone", store / "tokenizer"):
        folder.mkdir(parents=True)
    (elsewhere / "kept").touch()
    (elsewhere / ".y.gone" / "kept").touch()
    (store / "generator").symlink_to(elsewhere)
    (store / "tokenizer" / ".a.gone").symlink_to(elsewhere)
    (store / "tokenizer" / "b.partial").symlink_to(elsewhere)
    clear_leftovers(store)
    discard(store / "tokenizer" / "b.partial")
    assert not list((store / "tokenizer").iterdir())
    assert (elsewhere / "kept").exists()
    assert (elsewhere / ".y.gone" / "kept").exists()
    (store / "tokenizer" / "c.partial").symlink_to(elsewhere)
    with Store(store).work("tokenizer", "c") as work:
        work.note("started")
    assert not (store / "tokenizer" / "c.partial").is_symlink()
    assert sorted(path.name for path in elsewhere.iterdir()) == [".y.gone", "kept", "x.partial"]
