"""What lies in a store, who needs it, and what is removed."""

import json
import shutil
from pathlib import Path

import pytest

from harness.storage.artifacts import Store
from harness.store import main


@pytest.fixture
def two(finished, command, tree):
    """Two sweeps in one store, one of them of a tokenizer alone; and a damaged artifact."""
    path = finished({**tree, "name": "three"})
    ended = command(path, "--only", "tokenizer", "--set", "name=one", "--set", "seed=1")
    assert ended.code == 0, ended.err
    first = sorted(Path("artifacts/tokenizer").iterdir())[0]
    shutil.copytree(first, f"{first}.damaged-1")


def look(capsys, *arguments: str):
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def folders() -> set[str]:
    return {path.as_posix() for path in Path("artifacts").glob("*/*") if path.is_dir()}


def test_what_no_results_need_is_listed_and_removed_and_nothing_else(two, capsys):
    (damaged,) = Path("artifacts/tokenizer").glob("*.damaged-1")
    found = look(capsys)
    assert list(found["needed by no results"]) == [str(damaged)]
    assert set(found["in artifacts"]) == folders()
    assert len(found["needed by results/three"]) > len(found["generator"]) == 1
    shutil.rmtree("results/three")
    before, idle = folders(), look(capsys, "--remove", "--dry-run")["needed by no results"]
    assert folders() == before
    kinds = {Path(path).parent.name for path in idle}
    assert kinds >= {"tokenizer", "latents", "generator", "generation"}
    assert look(capsys, "--remove")["removed"] == idle
    assert folders() == before - set(idle)
    assert len(list(Path("artifacts/tokenizer").iterdir())) == 1
    assert not look(capsys)["needed by no results"]


def test_nothing_is_removed_while_something_runs_or_where_no_results_are(two, capsys):
    before = folders()
    assert main(["--remove", "--results", "elsewhere"]) == 2
    assert "all would be removed" in capsys.readouterr().err
    with Store(Path("artifacts")).work("generator", "a" * 64):
        assert main(["--remove"]) == 2
    assert "something runs" in capsys.readouterr().err
    assert main(["--store", "nowhere"]) == 2
    assert folders() >= before


def test_what_is_not_of_this_program_stays(two, tmp_path, capsys):
    foreign, linked = Path("artifacts/photos", "b" * 64), Path("artifacts/tokenizer", "c" * 64)
    foreign.mkdir(parents=True)
    (foreign / "mine.png").write_text("a photo")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "artifact.json").write_text("{}")
    linked.symlink_to(tmp_path / "theirs")
    Path("artifacts/linked").symlink_to(tmp_path / "theirs")
    removed = look(capsys, "--remove")["removed"]
    assert [path.partition(".")[1:] for path in removed] == [(".", "damaged-1")]
    assert (foreign / "mine.png").is_file()
    assert (tmp_path / "theirs" / "artifact.json").is_file()
    assert linked.is_symlink()
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "needed by results/one" in said
    assert "needed by no results" in said
