"""Stores of several people: those that are only read, and folders that others own."""

import os
from pathlib import Path

import pytest

from harness.plan.requirements import writable_error
from harness.storage.artifacts import BELOW, DamagedArtifact, Store
from harness.storage.durable import make_folder


def test_a_store_below_is_read_and_never_written(command, write, tree):
    path = write(tree)
    assert command(path, "--only", "tokenizer", "--store", "theirs").code == 0
    before = {each: each.stat().st_mtime_ns for each in Path("theirs").rglob("*")}
    Path("artifacts").mkdir()
    Path("artifacts", BELOW).write_text("../theirs\n\n")
    ended = command(path, "--json")
    assert [row["status"] for row in ended.json["rows"]] == ["done"]
    assert not Path("artifacts/tokenizer").exists()
    assert {each: each.stat().st_mtime_ns for each in Path("theirs").rglob("*")} == before
    # What is damaged there is made here.
    (record,) = Path("theirs/tokenizer").glob("*/artifact.json")
    record.write_text("{}")
    assert "executed 1 stages" in command(path).out
    assert record.read_text() == "{}"
    assert list(Path("artifacts/tokenizer").glob("*/artifact.json"))


def test_a_damaged_file_of_a_store_below_is_not_set_aside(tmp_path):
    with Store(tmp_path / "theirs").work("tokenizer", "a" * 64) as work:
        (work.payload / "x.bin").write_bytes(b"whole")
        work.publish({"kind": "tokenizer", "key": "a" * 64, "result": {}})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / BELOW).write_text(f"{tmp_path / 'theirs'}\n")
    store = Store(tmp_path / "own")
    artifact = store.get("tokenizer", "a" * 64)
    (artifact.path / "x.bin").write_bytes(b"other")
    with pytest.raises(DamagedArtifact) as damaged:
        artifact.file("x.bin")
    with pytest.raises(OSError, match="lies in a store below, which is only read"):
        store.set_aside(damaged.value)
    assert artifact.path.is_dir()


def test_a_store_is_asked_to_be_written_only_where_something_is_to_be_made(
    command, write, tree, monkeypatch
):
    path = write(tree)
    assert command(path).code == 0
    monkeypatch.setattr(
        "harness.commands.planning.writable_error",
        lambda folder: f"{folder} is only read" if folder.parts[0] == "artifacts" else "",
    )
    assert command(path).code == 0
    ended = command(path, "--set", "seed=1")
    assert ended.code == 2
    assert "artifacts is only read" in ended.err


def test_every_folder_that_will_be_written_is_tried_before_anything_starts(command, write, tree):
    Path("artifacts").mkdir()
    Path("artifacts/generator").write_text("in its place")
    for more in ([], ["--dry-run"]):
        ended = command(write(tree), *more)
        assert ended.code == 2
        assert "artifacts/generator must be a folder that can be written" in ended.err
        assert [path.name for path in Path().rglob("*")] == ["artifacts", "generator"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_folder_of_somebody_else_is_named_with_its_owner_and_mode(tmp_path):
    os.setresuid(12345, 12345, 0)
    try:
        said = writable_error(tmp_path / "store" / "tokenizer")
    finally:
        os.setresuid(0, 0, 0)
    assert "is of user 0 and group" in said
    assert "with mode drwx" in said
    assert "umask 002" in said


def test_a_folder_that_a_group_shares_holds_folders_of_the_group(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder, mode in ((shared, 0o2775), (own, 0o755)):
        folder.mkdir()
        folder.chmod(mode)
        assert not writable_error(folder / "tokenizer")
        assert not any(folder.iterdir())
        make_folder(folder / "tokenizer")
    assert (shared / "tokenizer").stat().st_mode & 0o2070 == 0o2070
    assert not (own / "tokenizer").stat().st_mode & 0o020
