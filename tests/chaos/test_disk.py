"""A disk that is full or cannot be written: told, nothing corrupted, gone on with after."""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_evidence import Counts, Watch, assert_same_results, records
from chaos_processes import Command
from chaos_sweeps import SMALL, long_only

ARGUMENTS = [*SMALL, "--json"]


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """Mount a small file system in memory at a folder."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def is_remounted(folder: Path, options: str) -> bool:
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def remount(folder: Path, options: str) -> None:
    assert is_remounted(folder, options)


def run(folder: Path, **named) -> Command:
    command = Command(folder, ARGUMENTS, **named)
    command.process.wait(timeout=300)
    command.end()
    return command


def errors(command: Command) -> str:
    """What the rows of a run say, and what the driver said."""
    out = command.out.read_text()
    rows = json.loads(out)["rows"] if out.strip() else []
    return "\n".join([*(row["error"] or "" for row in rows), command.err.read_text()])


def size_kib(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024


@pytest.mark.parametrize("share", [0.5, pytest.param(0.85, marks=long_only)])
def test_a_full_store_is_told_and_gone_on_with_when_there_is_room(folder, small_undisturbed, share):
    store = folder / "artifacts"
    with small_disk(store, int(share * size_kib(small_undisturbed / "artifacts"))):
        with Watch(folder) as watch:
            full = run(folder)
            assert full.process.returncode == 1
            told = errors(full)
            assert "must be written, but the file system says: No space left on device" in told
            assert "MiB free); free space there" in told
            whole = set(records(folder))
            remount(store, "size=200m")
            assert run(folder).process.returncode == 0
        assert whole <= set(records(folder))
        counts = Counts.of(folder, 0, watch)
        assert (counts.repeated, counts.lost) == (0, 0)
        assert_same_results(folder, small_undisturbed)


@long_only
def test_full_results_are_told_and_written_when_there_is_room(folder, small_undisturbed):
    results = folder / "results"
    with small_disk(results, 64):
        full = run(folder)
        assert full.process.returncode == 1
        assert "No space left on device" in full.err.read_text()
        assert "Traceback" not in full.err.read_text()
        remount(results, "size=200m")
        again = run(folder)
        assert again.process.returncode == 0
        assert len(records(folder)) == len(records(small_undisturbed))
        assert_same_results(folder, small_undisturbed)


@long_only
@pytest.mark.parametrize("place", ["artifacts", "results"])
def test_a_disk_that_cannot_be_written_is_refused_before_anything_starts(folder, place):
    with small_disk(folder / place, 10_000):
        remount(folder / place, "ro")
        refused = run(folder)
        assert refused.process.returncode == 2
        told = refused.err.read_text()
        assert "Read-only file system" in told
        assert re.search("make (it|the folder) writable", told)
        assert not list((folder / place).iterdir())


@long_only
def test_a_store_that_becomes_read_only_is_told_and_loses_nothing(folder, small_undisturbed):
    store = folder / "artifacts"
    with small_disk(store, 100_000):
        command = Command(folder, ARGUMENTS)
        command.wait_until_working(120)
        while not records(folder) and not command.has_ended:
            time.sleep(0.01)
        # Files that are open for writing forbid it; new ones come all the time.
        while not is_remounted(store, "ro"):
            assert not command.has_ended
            time.sleep(0.01)
        assert command.process.wait(timeout=300) == 1
        assert "Read-only file system" in errors(command)
        remount(store, "rw")
        assert run(folder).process.returncode == 0
        assert_same_results(folder, small_undisturbed)


@long_only
def test_a_limit_on_file_sizes_is_told_like_a_full_disk(folder, small_undisturbed):
    limited = run(folder, within=["prlimit", "--fsize=20000"])
    assert limited.process.returncode == 1
    assert "File too large; raise the limit of file sizes" in errors(limited)
    assert run(folder).process.returncode == 0
    assert_same_results(folder, small_undisturbed)
